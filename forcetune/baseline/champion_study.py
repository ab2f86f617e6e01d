"""A study with its champions and the companions that have been run for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count as count_from
from itertools import islice

import pandas as pd

from forcetune import tracking
from forcetune.baseline.champions import Champion, make_champions, select_champions
from forcetune.baseline.evidence import EndedCompanions, Pair
from forcetune.baseline.twins import (
    CHAMPION_ARM,
    TUNING_ARM,
    Comparison,
    find_best_random,
    get_comparison_seed,
    make_fixed_comparisons,
    make_tuned_comparison,
    plan_tuning,
)
from forcetune.report import results
from forcetune.study import SPARSITY_BAND_EDGES, Companion, Study, Trial


class ChampionStudy:
    """A study with its champions and companions, as its stores have them now.

    Args:
        name: The name of the study.
        top: The number of champions of each band of sparsity; None takes the front.
        edges: The edges of the bands, in sparsity from 0 to 1, rising.

    Attributes:
        name: The name of the study.
        study: The study.
        results: The trials of the study, as `load_results` returns them.
        champions: The champions, sorted by sparsity.
        left_out_count: The number of comparable champions that `restrict_to` has left out.
        companion_table: The runs beside the study, a row a run; None where there are none.
        companions: Those of the runs that have ended.

    Raises:
        InputError: There is no such study, no trial was trained to its end, or no trial has a validation accuracy.
    """

    def __init__(self, name: str, top: int | None = None, edges: Sequence[float] = SPARSITY_BAND_EDGES) -> None:
        self.name = name
        self.study = Study.from_dict(tracking.load_study_file(name))
        self.results = results.load(name)
        self._edges = edges
        self.champions = select_champions(name, self.results, top, edges)
        self.left_out_count = 0
        self.refresh()

    @property
    def comparable(self) -> list[Champion]:
        """The champions that are compared with rivals, sorted by sparsity."""
        return [champion for champion in self.champions if not champion.exclusion_reason]

    @property
    def exclusion_reasons(self) -> list[str]:
        """The reasons of the champions that are compared with nothing."""
        return [reason for champion in self.champions if (reason := champion.exclusion_reason)]

    def restrict_to(self, champions: Sequence[Champion]) -> None:
        """Compare only these champions.

        The champions that are excluded from comparisons stay in the list, with their reasons; `left_out_count` counts
        the comparable champions that are left out.

        Args:
            champions: The champions to compare.
        """
        self.left_out_count = len(self.comparable) - len(champions)
        self.champions = [*champions, *(champion for champion in self.champions if champion.exclusion_reason)]

    def refresh(self) -> None:
        """Read the runs beside the study again."""
        self.companion_table = tracking.load_companions(self.name)
        self.companions = EndedCompanions(self.study, self.companion_table, self._chance)

    @property
    def _chance(self) -> float | None:
        """The accuracy of guessing; None where `val_accuracy` is no objective, or has a reference of its own."""
        has_own_reference = not isinstance(self.study.objectives.get("val_accuracy"), str)
        return None if has_own_reference else self.results.references.get("val_accuracy")

    def pair_seed(self, pair_index: int) -> int:
        """Return the seed of a pair by its index, from 0."""
        return get_comparison_seed(self.study, pair_index)

    def list_comparisons(
        self, champion: Champion, night: str | None = None
    ) -> tuple[list[Comparison], list[Companion]]:
        """List the comparisons of a champion, and the tuning runs that it lacks.

        Args:
            champion: The champion.
            night: The date of the night that asks for the tuning runs; None outside nights.

        Returns:
            The comparisons, and the missing tuning runs. The comparison with the tuned twin is among them only when no
            tuning run is missing. Both lists are empty for a champion that is excluded from comparisons.
        """
        if champion.exclusion_reason:
            return [], []
        tuning_runs = self.companions.find_missing(plan_tuning(self.study, champion, self.results.trials, night))
        tuned = [] if tuning_runs else self._list_tuned_comparisons(champion)
        return [*make_fixed_comparisons(champion), *tuned], tuning_runs

    def find_champion(self, key: str | None) -> Champion | None:
        """Find the study's trial with this key, as a champion; None where there is none."""
        return next(iter(self._find_champions([key] if key else [])), None)

    def _find_champions(self, keys: Iterable[str]) -> list[Champion]:
        """Find the study's trials with these keys, as champions sorted by sparsity; trials in no band are left out."""
        rows = self.results.trials[self.results.trials["trial"].isin([*keys])]
        return make_champions(self.name, rows, self._edges)

    def list_evidence(self) -> list[tuple[Comparison, list[Pair]]]:
        """List all comparisons that have pairs, with their pairs.

        The list contains the comparisons of earlier champions too, which are no champions now.
        """
        earlier_champions = self._find_champions(self._select_companions(CHAMPION_ARM)["of"])
        champions_by_key = {champion.key: champion for champion in [*earlier_champions, *self.champions]}
        comparable = [champion for champion in champions_by_key.values() if not champion.exclusion_reason]
        comparisons = [
            comparison
            for champion in comparable
            for comparison in [*make_fixed_comparisons(champion), *self._list_tuned_comparisons(champion)]
        ]
        return [(comparison, pairs) for comparison in comparisons if (pairs := self.companions.find_pairs(comparison))]

    def find_free_pair_indices(self, comparison: Comparison, count: int) -> list[int]:
        """Return the next indices of pairs of which a run has not ended.

        Args:
            comparison: The comparison.
            count: The number of indices.
        """
        free_indices = (
            index
            for index in count_from(0)
            if self.companions.find_missing(comparison.make_companions(self.pair_seed(index)))
        )
        return list(islice(free_indices, count))

    def sum_device_hours(self, night: str) -> float:
        """Return the device hours of the companions that have run on a night."""
        if self.companion_table is None or "night" not in self.companion_table:
            return 0.0
        rows = self.companion_table[self.companion_table["night"] == night]
        return float(rows["device_seconds"].sum()) / 3600

    def estimate_device_hours(self, runs: Iterable[Companion]) -> float:
        """Estimate the device hours of companions.

        Each companion is expected to take as long as the trial that it belongs to.
        """
        return sum(self.estimate_device_seconds(companion.parent_key) for companion in runs) / 3600

    def estimate_device_seconds(self, key: str) -> float:
        """Return the device seconds of the trial with this key, which its companions are expected to take too.

        The companions of a trial that the study does not have are expected to take as long as trials do on average.
        """
        durations_s = self.results.trials["device_seconds"].set_axis(self.results.trials["trial"])
        return float(durations_s.get(key, durations_s.mean()))

    def _list_tuned_comparisons(self, champion: Champion) -> list[Comparison]:
        """Return the comparison with the best random trial so far; an empty list where there is no such trial."""
        tuning_runs = self._select_companions(TUNING_ARM)
        tuning_runs = tuning_runs[tuning_runs["of"] == champion.key]
        best = find_best_random(champion, self.results.trials, tuning_runs)
        if best is None:
            return []
        return [make_tuned_comparison(champion, Trial(**tracking.load_trial_fields(str(best["run_id"]))))]

    def _select_companions(self, arm: str) -> pd.DataFrame:
        """Select the companions of an arm; the table always has the column `of`, the key of the champion."""
        if self.companion_table is None or "arm" not in self.companion_table:
            return pd.DataFrame({"of": []})
        return self.companion_table[self.companion_table["arm"] == arm]

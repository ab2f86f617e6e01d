"""The comparison of champions with random pruning: twins with fresh seeds, and verdicts on the differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain
from typing import Any

import pandas as pd

from forcetune import analysis, tracking
from forcetune.baseline.bench import ChampionStudy
from forcetune.baseline.champions import Champion
from forcetune.baseline.dense import plan_dense_runs
from forcetune.baseline.evidence import judge_comparisons, judge_pooled
from forcetune.baseline.findings import Findings
from forcetune.baseline.nightly import NIGHTLY_EXPERIMENT, Nights, Share, load_last_nights
from forcetune.baseline.sending import Sender, make_sender
from forcetune.baseline.sizing import MAX_SEEDS, choose_size, estimate_deviation
from forcetune.baseline.twins import RIVAL_DESCRIPTIONS, Comparison
from forcetune.errors import InputError
from forcetune.names import COMPANION
from forcetune.study import SPARSITY_BAND_EDGES, Companion, CompanionRuns, check_bands

DEFAULT_SEEDS, DEFAULT_MARGIN_POINTS = MAX_SEEDS, 0.5
RIVALS = tuple(RIVAL_DESCRIPTIONS)
MIN_PAIRS_FOR_VERDICT = 6  # the flips of their signs allow a p below 5 %: 2 / 2**6


@dataclass(frozen=True)
class Plan:
    """The runs that the comparisons of a study's champions need, and their cost.

    Attributes:
        champions: The champions that are compared.
        comparisons: The number of comparisons, each of a champion with a rival, including those that wait for tuning.
        exclusion_reasons: The reasons of the champions that are compared with nothing.
        seeds: The pairs of each comparison.
        missing: The runs that the study lacks.
        runs_after_tuning: The number of runs that follow once tuning has found the tuned twins.
        device_hours: The device hours of the missing runs and of those that follow, estimated from the champions' runs.
        detectable_difference: The mean difference that so many pairs show in four of five cases: in standard deviations
            of the differences, and in points of accuracy (None where that deviation is not known yet).
    """

    champions: list[Champion]
    comparisons: int
    exclusion_reasons: list[str]
    seeds: int
    missing: list[Companion]
    runs_after_tuning: int
    device_hours: float
    detectable_difference: tuple[float, float | None]

    @property
    def runs(self) -> int:
        """The number of runs that are left."""
        return len(self.missing) + self.runs_after_tuning

    def plain(self) -> dict[str, Any]:
        """Return the plan as data that JSON can hold."""
        deviations, points = self.detectable_difference
        return {
            "champions": [
                {"trial": champion.name, "method": champion.label, "sparsity": champion.sparsity}
                for champion in self.champions
            ],
            "rivals": list(RIVALS),
            "comparisons": self.comparisons,
            "seeds": self.seeds,
            "runs": self.runs,
            "device_hours": self.device_hours,
            "shown_difference_points": points,
            "shown_difference_deviations": deviations if math.isfinite(deviations) else None,
            "not_compared": self.exclusion_reasons,
        }


def plan(champion_study: ChampionStudy, seeds: int = DEFAULT_SEEDS) -> Plan:
    """Plan the runs that `run` starts.

    Args:
        champion_study: The study and its champions.
        seeds: The pairs of each comparison.
    """
    comparisons, tuning_runs = _list_comparisons(champion_study)
    pair_runs = (
        companion
        for pair_index in range(seeds)
        for comparison in comparisons
        for companion in comparison.make_companions(champion_study.pair_seed(pair_index))
    )
    missing = [*tuning_runs, *champion_study.companions.find_missing(pair_runs)]
    # One run stands for each champion whose tuned twin is not known yet.
    waiting = {companion.parent_key: companion for companion in tuning_runs}.values()
    later = [companion for companion in waiting for _ in range(seeds)]
    exclusions = [reason for champion in champion_study.champions if (reason := champion.exclusion_reason)]
    comparison_count = len(comparisons) + len(waiting)
    effect, deviation = analysis.detectable_effect(seeds, comparison_count), estimate_deviation(champion_study)
    return Plan(
        champions=[champion for champion in champion_study.champions if not champion.exclusion_reason],
        comparisons=comparison_count,
        exclusion_reasons=exclusions,
        seeds=seeds,
        missing=missing,
        runs_after_tuning=len(later),
        device_hours=champion_study.estimate_device_hours([*missing, *later]),
        detectable_difference=(effect, None if deviation is None else effect * deviation),
    )


def _list_comparisons(champion_study: ChampionStudy) -> tuple[list[Comparison], list[Companion]]:
    """List the comparisons that can run now, and the missing tuning runs that other comparisons wait for."""
    by_champion = [champion_study.list_comparisons(champion) for champion in champion_study.champions]
    return list(chain.from_iterable(group for group, _ in by_champion)), list(
        chain.from_iterable(group for _, group in by_champion)
    )


def run(champion_study: ChampionStudy, send: Sender, seeds: int = DEFAULT_SEEDS) -> str | None:
    """Run all pairs that are missing, after the tuning runs that they wait for.

    A tuned twin is known only after its tuning, so there may be two rounds.

    Args:
        champion_study: The study and its champions, which are read again after each round.
        send: Runs companions to their end.
        seeds: The pairs of each comparison.

    Returns:
        The reason why the runs ended early; None where they did not.
    """
    sent_keys: set[str] = set()
    while missing := [companion for companion in plan(champion_study, seeds).missing if companion.key not in sent_keys]:
        early_end = send(CompanionRuns(champion_study.study, missing))
        champion_study.refresh()
        if early_end:
            return early_end
        sent_keys |= {companion.key for companion in missing}
    return None


def conclude(
    champion_study: ChampionStudy, seeds: int = DEFAULT_SEEDS, margin: float = DEFAULT_MARGIN_POINTS, pool: bool = False
) -> pd.DataFrame:
    """Judge a study's comparisons by the pairs that have run, and keep the verdicts in MLflow.

    The verdicts are kept as a run of the kind `baseline` in the companion's experiment.

    Args:
        champion_study: The study and its champions.
        seeds: The pairs of each comparison.
        margin: The difference, in points of accuracy, below which two networks are as good as each other.
        pool: Whether to judge the champions of a method and band together, too.

    Returns:
        A row for each comparison, with the columns of `evidence.judge_comparisons`, and below them the rows of the
        champions that are judged together.
    """
    comparisons, _ = _list_comparisons(champion_study)
    pair_seeds = [champion_study.pair_seed(pair_index) for pair_index in range(seeds)]
    verdicts = judge_comparisons(comparisons, champion_study.companions, pair_seeds, margin)
    if pool:
        verdicts = pd.concat(
            [verdicts, judge_pooled(comparisons, champion_study.companions, pair_seeds, margin)], ignore_index=True
        )
    if len(verdicts):
        record = tracking.Record(champion_study.name + COMPANION, "baseline", f"baseline-{date.today().isoformat()}")
        record.write("verdicts.json", verdicts.to_json(orient="records", indent=1))
        record.log(
            {
                "margin": margin,
                **{str(verdict): float(count) for verdict, count in verdicts["verdict"].value_counts().items()},
            },
            {},
        )
        record.close()
    return verdicts


def check_seeds(seeds: int, option: str) -> None:
    """Raise InputError where so many pairs can say nothing of the next pair."""
    if seeds < 2:
        raise InputError(
            f"{option} {seeds}: one pair gives no estimate of the spread; allowed: at least 2 (a verdict needs at "
            f"least {MIN_PAIRS_FOR_VERDICT})"
        )


def check(name: str, top: int | None, edges: Sequence[float] | None, seeds: int | None) -> tuple[ChampionStudy, int]:
    """Check the options of a comparison, and read the study.

    Where neither champions nor seeds are requested, there are as many as an hour on a device has room for.

    Args:
        name: The name of the study.
        top: The number of champions of each band of sparsity; None takes the front.
        edges: The edges of the bands, in sparsity from 0 to 1, rising.
        seeds: The pairs of each comparison.

    Returns:
        The study with its champions, and the pairs of each comparison.

    Raises:
        InputError: An option makes no sense, there is no such study, or it has no trained trial.
    """
    if seeds is not None:
        check_seeds(seeds, "--seeds")
    if edges is not None:
        check_bands(edges, "--bands")
    champion_study = ChampionStudy(name, top, edges or SPARSITY_BAND_EDGES)
    if (top, edges, seeds) != (None, None, None):
        return champion_study, seeds or DEFAULT_SEEDS
    size = choose_size(champion_study)
    champion_study.restrict_to(size.champions)
    return champion_study, size.seeds


__all__ = [
    "DEFAULT_MARGIN_POINTS",
    "DEFAULT_SEEDS",
    "NIGHTLY_EXPERIMENT",
    "RIVALS",
    "Champion",
    "ChampionStudy",
    "Comparison",
    "Findings",
    "Nights",
    "Plan",
    "Sender",
    "Share",
    "check",
    "conclude",
    "load_last_nights",
    "make_sender",
    "plan",
    "plan_dense_runs",
    "run",
]

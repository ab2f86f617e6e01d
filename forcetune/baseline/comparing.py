"""One comparison of a study's champions with random pruning: its check, its plan, its runs and its verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain
from typing import Any

import pandas as pd

from forcetune import analysis, tracking
from forcetune.analysis import DEFAULT_COLLAPSE_MARGIN
from forcetune.baseline.champion_study import ChampionStudy
from forcetune.baseline.champions import Champion
from forcetune.baseline.evidence import Margins, judge_comparisons, judge_pooled
from forcetune.baseline.sending import Sender
from forcetune.baseline.sizing import MAX_SEEDS, Noise, choose_size, estimate_noise
from forcetune.baseline.twins import RIVAL_DESCRIPTIONS, Comparison
from forcetune.errors import InputError
from forcetune.formats import format_sparsity
from forcetune.names import COMPANION, VERDICTS_FILE
from forcetune.study import SPARSITY_BAND_EDGES, Companion, CompanionRuns, check_bands

DEFAULT_SEEDS, DEFAULT_MARGIN_POINTS = MAX_SEEDS, 0.5
VERDICTS = ("beats", "ties", "loses", "undecided")
RIVALS = tuple(RIVAL_DESCRIPTIONS)


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
        noise: The noise by which the difference in points is computed; None where the study has no fresh seeds yet.
        collapse_bound: The probability that one arm alone collapses, which so many pairs without a collapse bound.
        collapse_pairs: The pairs without a collapse that show that both arms collapse equally often.
    """

    champions: list[Champion]
    comparisons: int
    exclusion_reasons: list[str]
    seeds: int
    missing: list[Companion]
    runs_after_tuning: int
    device_hours: float
    detectable_difference: tuple[float, float | None]
    noise: Noise | None
    collapse_bound: float
    collapse_pairs: int

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
            "deviation_points": self.noise.deviation if self.noise else None,
            "deviation_source": self.noise.source if self.noise else None,
            "collapse_bound": self.collapse_bound,
            "collapse_pairs": self.collapse_pairs,
            "not_compared": self.exclusion_reasons,
        }


def plan(
    champion_study: ChampionStudy,
    seeds: int = DEFAULT_SEEDS,
    collapse_margin: float = DEFAULT_COLLAPSE_MARGIN,
) -> Plan:
    """Plan the runs that `run` starts.

    Args:
        champion_study: The study and its champions.
        seeds: The pairs of each comparison.
        collapse_margin: The difference of two rates of collapses, from 0 to 1, below which they count as equal.
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
    comparison_count = len(comparisons) + len(waiting)
    effect, noise = analysis.detectable_effect(seeds, comparison_count), estimate_noise(champion_study)
    return Plan(
        champions=champion_study.comparable,
        comparisons=comparison_count,
        exclusion_reasons=champion_study.exclusion_reasons,
        seeds=seeds,
        missing=missing,
        runs_after_tuning=len(later),
        device_hours=champion_study.estimate_device_hours([*missing, *later]),
        detectable_difference=(effect, None if noise is None else effect * noise.deviation),
        noise=noise,
        collapse_bound=analysis.bound_without_collapse(seeds, comparison_count),
        collapse_pairs=analysis.fewest_pairs_without_collapse(comparison_count, collapse_margin),
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
    champion_study: ChampionStudy,
    seeds: int = DEFAULT_SEEDS,
    margin: float = DEFAULT_MARGIN_POINTS,
    pool: bool = False,
    collapse_margin: float = DEFAULT_COLLAPSE_MARGIN,
) -> pd.DataFrame:
    """Judge a study's comparisons by the pairs that have run, and keep the verdicts in MLflow.

    The verdicts are kept as a run of the kind `baseline` in the companion's experiment.

    Args:
        champion_study: The study and its champions.
        seeds: The pairs of each comparison.
        margin: The difference, in points of accuracy, below which two networks are as good as each other.
        pool: Whether to judge the champions of a method and band together, too.
        collapse_margin: The difference of two rates of collapses, from 0 to 1, below which they count as equal.

    Returns:
        A row for each comparison, with the columns of `evidence.judge_comparisons`, and below them the rows of the
        champions that are judged together.
    """
    comparisons, _ = _list_comparisons(champion_study)
    pair_seeds = [champion_study.pair_seed(pair_index) for pair_index in range(seeds)]
    margins = Margins(margin, collapse_margin)
    verdicts = judge_comparisons(comparisons, champion_study.companions, pair_seeds, margins)
    if pool:
        verdicts = pd.concat(
            [verdicts, judge_pooled(comparisons, champion_study.companions, pair_seeds, margins)], ignore_index=True
        )
    if len(verdicts):
        record = tracking.Record(champion_study.name + COMPANION, "baseline", f"baseline-{date.today().isoformat()}")
        record.write(VERDICTS_FILE, verdicts.to_json(orient="records", indent=1))
        record.log(
            {
                "margin": margin,
                "collapse_margin": collapse_margin,
                **{verdict: float((verdicts["verdict"] == verdict).sum()) for verdict in VERDICTS},
            },
            {},
        )
        record.close()
    return verdicts


def _check_pairs(champion_study: ChampionStudy, seeds: int) -> None:
    """Raise InputError where so many pairs allow no verdict."""
    comparisons, needed = _count_comparisons(champion_study)
    if not comparisons or seeds >= needed:
        return
    names = ", ".join(
        f"{champion.name} ({champion.label} at {format_sparsity(champion.sparsity)})"
        for champion in champion_study.comparable
    )
    pairs = "1 pair allows" if seeds == 1 else f"{seeds} pairs allow"
    raise InputError(
        f"--seeds {seeds}: {names}, each against {', '.join(RIVALS)}: {pairs} no verdict over {comparisons} "
        f"comparisons that are judged together; allowed: at least {needed} pairs, or fewer champions by --top and "
        "--bands"
    )


def _count_comparisons(champion_study: ChampionStudy) -> tuple[int, int]:
    """Return the number of comparisons, and the fewest pairs with which each of them can have a verdict."""
    comparisons, tuning_runs = _list_comparisons(champion_study)
    count = len(comparisons) + len({companion.parent_key for companion in tuning_runs})
    return count, analysis.fewest_pairs(count) if count else 0


def check(name: str, top: int | None, edges: Sequence[float] | None, seeds: int | None) -> tuple[ChampionStudy, int]:
    """Check the options of a comparison, and read the study.

    Where neither champions nor seeds are requested, there are as many of both as an hour on a device has room for.
    Where only champions are requested, there are as many seeds as a verdict needs, and at least twelve.

    Args:
        name: The name of the study.
        top: The number of champions of each band of sparsity; None takes the front.
        edges: The edges of the bands, in sparsity from 0 to 1, rising.
        seeds: The pairs of each comparison.

    Returns:
        The study with its champions, and the pairs of each comparison.

    Raises:
        InputError: An option makes no sense, the pairs are too few for a verdict, there is no such study, or it has no
            trained trial.
    """
    if edges is not None:
        check_bands(edges, "--bands")
    champion_study = ChampionStudy(name, top, edges or SPARSITY_BAND_EDGES)
    if seeds is not None:
        _check_pairs(champion_study, seeds)
        return champion_study, seeds
    if (top, edges) != (None, None):
        return champion_study, max(DEFAULT_SEEDS, _count_comparisons(champion_study)[1])
    champions, seeds = choose_size(champion_study)
    champion_study.restrict_to(champions)
    return champion_study, seeds

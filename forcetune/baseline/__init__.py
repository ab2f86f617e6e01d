"""Champions against random pruning: their twins with fresh seeds, and what the difference is worth."""

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
from forcetune.baseline.dense import missing_dense_runs
from forcetune.baseline.evidence import pooled, verdicts
from forcetune.baseline.findings import Findings
from forcetune.baseline.nightly import EXPERIMENT, Nights, Share, last_nights
from forcetune.baseline.sending import Send, sender
from forcetune.baseline.sizing import MOST_SEEDS, size, spread_of_differences
from forcetune.baseline.twins import ASKED, Comparison
from forcetune.errors import InputError
from forcetune.names import COMPANION
from forcetune.spec import BANDS, Companion, CompanionRuns, check_bands

SEEDS, MARGIN = MOST_SEEDS, 0.5
RIVALS = tuple(ASKED)
FEWEST = 6  # pairs of which flipped signs allow a p below 5 %: 2 / 2**6


@dataclass(frozen=True)
class Plan:
    """What would be run for a study's champions, and what it costs.

    champions: those that are compared; comparisons: of each champion with each rival, also those that wait for tuning;
    by_chance: why a champion is not compared; seeds: pairs of a comparison; missing: runs that the study lacks; later:
    those that follow once tuning has found the tuned twins; device_hours: that missing and later ones take, by what
    the champions took; shows: the mean difference that so many pairs show in four of five cases, in standard
    deviations of the differences, and in points (None where that deviation is not known yet).
    """

    champions: list[Champion]
    comparisons: int
    by_chance: list[str]
    seeds: int
    missing: list[Companion]
    later: int
    device_hours: float
    shows: tuple[float, float | None]

    @property
    def runs(self) -> int:
        """What is left to be run."""
        return len(self.missing) + self.later

    def plain(self) -> dict[str, Any]:
        """As data that JSON knows."""
        effect, points = self.shows
        return {
            "champions": [{"trial": one.name, "method": one.label, "sparsity": one.sparsity} for one in self.champions],
            "rivals": list(RIVALS),
            "comparisons": self.comparisons,
            "seeds": self.seeds,
            "runs": self.runs,
            "device_hours": self.device_hours,
            "shown_difference_points": points,
            "shown_difference_deviations": effect if math.isfinite(effect) else None,
            "not_compared": self.by_chance,
        }


def plan(bench: ChampionStudy, seeds: int = SEEDS) -> Plan:
    """What `run` would do for these champions with so many seeds."""
    comparisons, lacking = _comparisons(bench)
    sides = (side for place in range(seeds) for one in comparisons for side in one.sides(bench.seed(place)))
    missing = [*lacking, *bench.companions.lacks(sides)]
    tuned = {one.of: one for one in lacking}.values()  # a run of each champion whose tuned twin is to be found
    later = [one for one in tuned for _ in range(seeds)]
    chance = [why for champion in bench.champions if (why := champion.by_chance)]
    count = len(comparisons) + len(tuned)
    effect, deviation = analysis.shown_effect(seeds, count), spread_of_differences(bench)
    return Plan(
        champions=[champion for champion in bench.champions if not champion.by_chance],
        comparisons=count,
        by_chance=chance,
        seeds=seeds,
        missing=missing,
        later=len(later),
        device_hours=bench.device_hours([*missing, *later]),
        shows=(effect, None if deviation is None else effect * deviation),
    )


def _comparisons(bench: ChampionStudy) -> tuple[list[Comparison], list[Companion]]:
    """The comparisons that have begun or can begin, and the tuning runs that are missing before others can."""
    found = [bench.comparisons(champion) for champion in bench.champions]
    return list(chain.from_iterable(each for each, _ in found)), list(chain.from_iterable(each for _, each in found))


def run(bench: ChampionStudy, send: Send, seeds: int = SEEDS) -> str | None:
    """Run all pairs that are missing, tuning first; why that ended early, if so.

    A tuned twin is known only once its tuning has run, so there may be two rounds.
    """
    done: set[str] = set()
    while missing := [one for one in plan(bench, seeds).missing if one.key not in done]:
        ending = send(CompanionRuns(bench.study, missing))
        bench.refresh()
        if ending:
            return ending
        done |= {one.key for one in missing}
    return None


def conclude(bench: ChampionStudy, seeds: int = SEEDS, margin: float = MARGIN, pool: bool = False) -> pd.DataFrame:
    """The verdicts of a study's comparisons, by the pairs that are there; as `evidence.verdicts` says.

    margin: points of accuracy within which two are as good as each other; pool: champions of a method and band taken
    together, below the rest. They are kept in MLflow, as a run of kind `baseline` in the companion's experiment.
    """
    comparisons, _ = _comparisons(bench)
    asked = [bench.seed(place) for place in range(seeds)]
    found = verdicts(comparisons, bench.companions, asked, margin)
    if pool:
        found = pd.concat([found, pooled(comparisons, bench.companions, asked, margin)], ignore_index=True)
    if len(found):
        record = tracking.Record(bench.name + COMPANION, "baseline", f"baseline-{date.today().isoformat()}")
        record.write("verdicts.json", found.to_json(orient="records", indent=1))
        record.log({"margin": margin, **{str(n): float(c) for n, c in found["verdict"].value_counts().items()}}, {})
        record.close()
    return found


def check_seeds(seeds: int, place: str) -> None:
    """Raise InputError where so many pairs can say nothing, or never decide."""
    if seeds < 2:
        raise InputError(
            f"{place} {seeds}: one pair has no spread and says nothing of the next one; allowed: at least 2, and "
            f"{FEWEST} before any verdict is possible"
        )


def check(name: str, top: int | None, edges: Sequence[float] | None, seeds: int | None) -> tuple[ChampionStudy, int]:
    """The bench of a study and the pairs of a comparison, once all that was asked for makes sense.

    Where neither champions nor seeds are asked for, they are as many as an hour on a device has room for.
    """
    if seeds is not None:
        check_seeds(seeds, "--seeds")
    if edges is not None:
        check_bands(edges, "--bands")
    bench = ChampionStudy(name, top, edges or BANDS)
    if (top, edges, seeds) != (None, None, None):
        return bench, seeds or SEEDS
    sized = size(bench)
    bench.keep(sized.champions)
    return bench, sized.seeds


__all__ = [
    "EXPERIMENT",
    "MARGIN",
    "RIVALS",
    "SEEDS",
    "Champion",
    "ChampionStudy",
    "Comparison",
    "Findings",
    "Nights",
    "Plan",
    "Send",
    "Share",
    "check",
    "conclude",
    "last_nights",
    "missing_dense_runs",
    "plan",
    "run",
    "sender",
]

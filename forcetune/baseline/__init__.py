"""Champions against random pruning: their twins with fresh seeds, and what the difference is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain

import pandas as pd

from forcetune import tracking
from forcetune.baseline.bench import Bench
from forcetune.baseline.champions import Champion
from forcetune.baseline.dense import dense_errand
from forcetune.baseline.evidence import pooled, verdicts
from forcetune.baseline.findings import Findings
from forcetune.baseline.nightly import EXPERIMENT, Nights, Share, last_nights
from forcetune.baseline.sending import Send, sender
from forcetune.baseline.twins import Comparison
from forcetune.errors import InputError
from forcetune.names import COMPANION
from forcetune.spec import Companion, Errand, check_bands

SEEDS, MARGIN = 12, 0.5
FEWEST = 6  # pairs of which flipped signs allow a p below 5 %: 2 / 2**6


@dataclass(frozen=True)
class Plan:
    """What would be run for a study's champions, and what it costs.

    comparisons: those that have begun or can begin; by_chance: why a champion is not compared; missing: runs that the
    study lacks; later: those that follow once tuning has found the tuned twins; device_hours: that all of them take,
    by what the champions took.
    """

    comparisons: list[Comparison]
    by_chance: list[str]
    missing: list[Companion]
    later: int
    device_hours: float


def plan(bench: Bench, seeds: int = SEEDS) -> Plan:
    """What `run` would do for these champions with so many seeds."""
    found = [bench.comparisons(champion) for champion in bench.champions]
    comparisons = list(chain.from_iterable(each for each, _ in found))
    lacking = list(chain.from_iterable(each for _, each in found))
    sides = (side for place in range(seeds) for one in comparisons for side in one.sides(bench.seed(place)))
    missing = [*lacking, *bench.companions.lacks(sides)]
    tuned = {one.of: one for one in lacking}.values()  # a run of each champion whose tuned twin is to be found
    later = [one for one in tuned for _ in range(seeds)]
    chance = [why for champion in bench.champions if (why := champion.by_chance)]
    return Plan(comparisons, chance, missing, len(later), bench.device_hours([*missing, *later]))


def run(bench: Bench, send: Send, seeds: int = SEEDS) -> str | None:
    """Run all pairs that are missing, tuning first; why that ended early, if so.

    A tuned twin is known only once its tuning has run, so there may be two rounds.
    """
    done: set[str] = set()
    while missing := [one for one in plan(bench, seeds).missing if one.key not in done]:
        ending = send(Errand(bench.study, missing))
        bench.refresh()
        if ending:
            return ending
        done |= {one.key for one in missing}
    return None


def conclude(bench: Bench, seeds: int = SEEDS, margin: float = MARGIN, pool: bool = False) -> pd.DataFrame:
    """The verdicts of a study's comparisons, by the pairs that are there; as `evidence.verdicts` says.

    margin: points of accuracy within which two are as good as each other; pool: champions of a method and band taken
    together, below the rest. They are kept in MLflow, as a run of kind `baseline` in the companion's experiment.
    """
    comparisons = plan(bench, seeds).comparisons
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


def check(name: str, top: int | None, edges: Sequence[float], seeds: int) -> Bench:
    """The bench of a study, once all that was asked for makes sense."""
    check_seeds(seeds, "--seeds")
    check_bands(edges, "--bands")
    return Bench(name, top, edges)


__all__ = [
    "EXPERIMENT",
    "MARGIN",
    "SEEDS",
    "Bench",
    "Champion",
    "Comparison",
    "Findings",
    "Nights",
    "Plan",
    "Send",
    "Share",
    "check",
    "conclude",
    "dense_errand",
    "last_nights",
    "plan",
    "run",
    "sender",
]

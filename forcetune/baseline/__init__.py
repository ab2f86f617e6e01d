"""Champions against random pruning: their twins with fresh seeds, and what the difference is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain

import pandas as pd

from forcetune import analysis, tracking
from forcetune.baseline.champions import Champion, champions, told
from forcetune.baseline.evidence import Companions, pooled, verdicts
from forcetune.baseline.sending import Send, sender
from forcetune.baseline.twins import TUNING, Comparison, best_random, compared_seed, fixed, tuned, tuning
from forcetune.errors import InputError
from forcetune.names import COMPANION
from forcetune.spec import BANDS, Companion, Errand, Study, Trial, check_bands

SEEDS, MARGIN = 12, 0.5


@dataclass(frozen=True)
class Plan:
    """What would be run for a study's champions, and what it costs.

    comparisons: those that have begun or can begin; by_chance: why a champion is not compared; missing: runs that the
    study lacks; device_hours: that they take, by what the champions took.
    """

    comparisons: list[Comparison]
    by_chance: list[str]
    missing: list[Companion]
    device_hours: float


class Bench:
    """A study with its champions, as its stores have it now."""

    def __init__(self, name: str, top: int | None = None, edges: Sequence[float] = BANDS) -> None:
        self.study = Study.from_dict(tracking.study_file(name))
        self.table = analysis.with_seeds(tracking.table(name), tracking.reruns(name))
        self.champions = champions(name, self.table, top, edges)
        self.refresh()

    def refresh(self) -> None:
        """Read anew what has been run beside the study."""
        self.beside = tracking.companions(self.study.study)
        self.companions = Companions(self.study, self.beside)

    def seed(self, place: int) -> int:
        """Of the pair at this place."""
        return compared_seed(self.study, place)

    def comparisons(self, champion: Champion, night: str | None = None) -> tuple[list[Comparison], list[Companion]]:
        """A champion's comparisons, and the tuning runs that are missing before it can have the tuned one."""
        if champion.by_chance:
            return [], []
        lacking = self.companions.lacks(tuning(self.study, champion, self.table, night))
        if lacking:
            return fixed(champion), lacking
        best = best_random(champion, self.table, self._tried(champion))
        own = [] if best is None else [tuned(champion, Trial(**tracking.trial_fields(str(best["run_id"]))))]
        return [*fixed(champion), *own], []

    def device_hours(self, runs: Iterable[Companion]) -> float:
        """That these take, each as long as the champion that it is there for."""
        resources = self.study.resources
        gpus = 1.0 if resources.gpus == "auto" else float(resources.gpus)
        took = self.table.set_index("trial")
        spent = took["train_seconds"].fillna(0) + took["prune_seconds"].fillna(0)
        return sum(float(spent.get(one.of, spent.mean())) for one in runs) / 3600 * (gpus or resources.cpus)

    def _tried(self, champion: Champion) -> pd.DataFrame:
        """The champion's tuning runs."""
        if self.beside is None or "arm" not in self.beside:
            return pd.DataFrame()
        return self.beside[(self.beside["arm"] == TUNING) & (self.beside["of"] == champion.key)]


def plan(bench: Bench, seeds: int = SEEDS) -> Plan:
    """What `run` would do for these champions with so many seeds."""
    found = [bench.comparisons(champion) for champion in bench.champions]
    comparisons = list(chain.from_iterable(each for each, _ in found))
    lacking = list(chain.from_iterable(each for _, each in found))
    sides = (side for place in range(seeds) for one in comparisons for side in one.sides(bench.seed(place)))
    missing = [*lacking, *bench.companions.lacks(sides)]
    chance = [why for champion in bench.champions if (why := champion.by_chance)]
    return Plan(comparisons, chance, missing, bench.device_hours(missing))


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


def conclude(
    bench: Bench, seeds: int = SEEDS, margin: float = MARGIN, pool: bool = False, keep: bool = True
) -> pd.DataFrame:
    """The verdicts of a study's comparisons, by the pairs that are there; as `evidence.verdicts` says.

    margin: points of accuracy within which two are as good as each other; pool: champions of a method and band taken
    together, below the rest. keep: also in MLflow, as a run of kind `baseline` in the companion's experiment.
    """
    name = bench.study.study
    comparisons = plan(bench, seeds).comparisons
    companions, asked = {name: bench.companions}, {name: [bench.seed(place) for place in range(seeds)]}
    found = verdicts(comparisons, companions, asked, margin)
    if pool:
        found = pd.concat([found, pooled(comparisons, companions, asked, margin)], ignore_index=True)
    if keep and len(found):
        record = tracking.Record(name + COMPANION, "baseline", f"baseline-{date.today().isoformat()}")
        record.write("verdicts.json", found.to_json(orient="records", indent=1))
        record.log({"margin": margin, **{str(n): float(c) for n, c in found["verdict"].value_counts().items()}}, {})
        record.close()
    return found


def check_seeds(seeds: int, place: str) -> None:
    """Raise InputError where so many pairs can say nothing, or never decide."""
    if seeds < 2:
        raise InputError(
            f"{place} {seeds}: one pair has no spread and says nothing of the next one; allowed: at least 2, and "
            f"{fewest()} before any verdict is possible"
        )


def fewest() -> int:
    """Pairs below which no p can be small enough: sign flips allow none below 2 / 2^n."""
    return 6


def check(name: str, top: int | None, edges: Sequence[float], seeds: int) -> Bench:
    """The bench of a study, once all that was asked for makes sense."""
    check_seeds(seeds, "--seeds")
    check_bands(edges, "--bands")
    return Bench(name, top, edges)


__all__ = [
    "MARGIN",
    "SEEDS",
    "Bench",
    "Champion",
    "Comparison",
    "Plan",
    "check",
    "conclude",
    "plan",
    "run",
    "sender",
    "told",
]

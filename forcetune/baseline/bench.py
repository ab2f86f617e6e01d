"""A study with its champions and all that was run beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count as count_from
from itertools import islice

import pandas as pd

from forcetune import results, tracking
from forcetune.baseline.champions import Champion, champions, made
from forcetune.baseline.evidence import Companions, Pair
from forcetune.baseline.twins import ITSELF, TUNING, Comparison, best_random, compared_seed, fixed, tuned, tuning
from forcetune.spec import BANDS, Companion, Study, Trial


class Bench:
    """A study with its champions, as its stores have it now."""

    def __init__(self, name: str, top: int | None = None, edges: Sequence[float] = BANDS) -> None:
        self.name = name
        self.study = Study.from_dict(tracking.study_file(name))
        self.table = results.load(name)
        self._edges = edges
        self.champions = champions(name, self.table, top, edges)
        self.left_out = 0
        self.refresh()

    def keep(self, champions: Sequence[Champion]) -> None:
        """Compare these champions alone; `left_out` counts the others of which something could be said."""
        comparable = [champion for champion in self.champions if not champion.by_chance]
        self.left_out = len(comparable) - len(champions)
        self.champions = [*champions, *(champion for champion in self.champions if champion.by_chance)]

    def refresh(self) -> None:
        """Read anew what has been run beside the study."""
        self.beside = tracking.companions(self.name)
        self.companions = Companions(self.study, self.beside, self._chance)

    @property
    def _chance(self) -> float | None:
        """The accuracy of guessing: the objective's reference, unless the study names one of its own."""
        is_plain = isinstance(self.study.objectives.get("val_accuracy"), str)
        return self.table.attrs["references"].get("val_accuracy") if is_plain else None

    def seed(self, place: int) -> int:
        """Of the pair at this place."""
        return compared_seed(self.study, place)

    def comparisons(self, champion: Champion, night: str | None = None) -> tuple[list[Comparison], list[Companion]]:
        """A champion's comparisons, and the tuning runs that are missing before it can have the tuned one."""
        if champion.by_chance:
            return [], []
        lacking = self.companions.lacks(tuning(self.study, champion, self.table, night))
        return [*fixed(champion), *([] if lacking else self._tuned(champion))], lacking

    def champion(self, key: str | None) -> Champion | None:
        """The study's trial with this key."""
        return next(iter(made(self.name, self.table[self.table["trial"] == key], self._edges)), None)

    def evidence(self) -> list[tuple[Comparison, list[Pair]]]:
        """All comparisons of which a pair was run, also those of champions that no longer are, and their pairs."""
        known = {champion.key: champion for champion in [*self._earlier(), *self.champions]}
        compared = [champion for champion in known.values() if not champion.by_chance]
        begun = [one for champion in compared for one in [*fixed(champion), *self._tuned(champion)]]
        return [(one, pairs) for one in begun if (pairs := self.companions.pairs(one))]

    def free_places(self, comparison: Comparison, count: int) -> list[int]:
        """The next places at which a side of the comparison has not ended."""
        places = (place for place in count_from(0) if self.companions.lacks(comparison.sides(self.seed(place))))
        return list(islice(places, count))

    def spent(self, night: str) -> float:
        """Device hours of what was run on a night."""
        if self.beside is None or "night" not in self.beside:
            return 0.0
        tonight = self.beside[self.beside["night"] == night]
        return float(tonight["device_seconds"].sum()) / 3600

    def device_hours(self, runs: Iterable[Companion]) -> float:
        """That these take, each as long as the champion that it is there for."""
        took = self.table.set_index("trial")["device_seconds"]
        return sum(float(took.get(one.of, took.mean())) for one in runs) / 3600

    def _earlier(self) -> list[Champion]:
        """Those that pairs were run for."""
        if self.beside is None or "arm" not in self.beside:
            return []
        keys = self.beside.loc[self.beside["arm"] == ITSELF, "of"].unique()
        return made(self.name, self.table[self.table["trial"].isin(keys)], self._edges)

    def _tuned(self, champion: Champion) -> list[Comparison]:
        """The one with the best random trial that is known by now, if any is."""
        best = best_random(champion, self.table, self._tried(champion))
        return [] if best is None else [tuned(champion, Trial(**tracking.trial_fields(str(best["run_id"]))))]

    def _tried(self, champion: Champion) -> pd.DataFrame:
        """The champion's tuning runs."""
        if self.beside is None or "arm" not in self.beside:
            return pd.DataFrame()
        return self.beside[(self.beside["arm"] == TUNING) & (self.beside["of"] == champion.key)]

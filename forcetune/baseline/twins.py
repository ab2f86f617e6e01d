"""What a champion is compared with: its twins, which inherit its settings, and random pruning as well tuned as it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from forcetune import analysis, search
from forcetune.baseline.champions import Champion, in_band
from forcetune.pruning import METHODS
from forcetune.spec import CONTROLS, Companion, Study, Trial

ITSELF = "champion"  # the arm that a champion is itself
TUNING = "tuning"  # the runs among which the tuned twin is chosen; on no side of any comparison
COMPARED = 1000  # seeds of comparisons begin so far above those of the study: no re-run that chose a champion is one
FIXED: dict[str, Mapping[str, Any]] = {
    "random_uniform": {"method": "random_uniform"},
    "random_erk": {"method": "random_erk"},
    "shuffled": {"shuffle": True},
    "small_dense": {"small_dense": "macs"},
}
TUNED = "tuned_random"
STRONGEST = "random_erk"  # of the rows of random pruning, in what is published and in forcetune's own nights
ASKED: dict[str, str] = {
    "random_uniform": "as dense in every layer, weights at random",
    "random_erk": "denser where layers are small (ERK), weights at random",
    "shuffled": "the champion's layer densities, weights at random: does it choose weights, or only layers?",
    "small_dense": "an unpruned network with as many multiply-adds",
    TUNED: "the best random trial of the band, ERK given as many tries as the champion's method had there",
}
_FREE = {"shuffle": False, "invert": False, "layers_from": None}


@dataclass(frozen=True)
class Comparison:
    """A champion and one rival; twin: its fields, but for the seed, which both sides share."""

    champion: Champion
    against: str
    twin: Trial

    @property
    def kind(self) -> Literal["fixed", "tuned"]:
        """Whether the twin inherits the champion's settings, or has its own."""
        return "tuned" if self.against == TUNED else "fixed"

    @property
    def name(self) -> str:
        """What no other comparison has: a study that goes on may find a better tuned twin."""
        return f"{self.champion.study} {self.champion.key} {self.against} {self.twin.key}"

    def sides(self, seed: int, night: str | None = None) -> tuple[Companion, Companion]:
        """The champion and its twin with this seed."""
        marks = {"night": night} if night else {}
        return (
            Companion(with_seed(self.champion.trial, seed), self.champion.key, {"arm": ITSELF, **marks}),
            Companion(with_seed(self.twin, seed), self.champion.key, {"arm": self.against, **marks}),
        )


def fixed(champion: Champion) -> list[Comparison]:
    """The champion against the twins that inherit its settings."""
    return [Comparison(champion, against, _twin(champion.trial, fields)) for against, fields in FIXED.items()]


def tuned(champion: Champion, trial: Trial) -> Comparison:
    """The champion against random pruning with the settings of this trial, as dense as the champion."""
    return Comparison(champion, TUNED, changed(trial, {"density": champion.trial.density}))


def with_seed(trial: Trial, seed: int) -> Trial:
    """The same configuration with this seed."""
    return changed(trial, {"seed": seed})


def compared_seed(study: Study, place: int) -> int:
    """The seed of the pair at this place, from 0; neither the study's own nor one of its re-runs' has it."""
    return study.first_fresh_seed + COMPARED + place


def changed(trial: Trial, fields: Mapping[str, Any]) -> Trial:
    """The trial with these fields, and without what its method then does not have."""
    return Trial(**trial.model_copy(update=dict(fields)).fields())


def tuning(study: Study, champion: Champion, table: pd.DataFrame, night: str | None = None) -> list[Companion]:
    """The trials of random pruning that the study lacks for it to have been tried as often as the champion's method.

    table: the study's. They are drawn from the study's space, as dense as the champion, with the strongest row of
    random pruning: it says little that the weaker rows were tried as often.
    """
    band = in_band(table, champion.band)
    strongest = _random(band)
    strongest = strongest[strongest["method"] == STRONGEST]
    missing = int((band["method"] == champion.trial.method).sum()) - len(strongest)
    if missing <= 0:
        return []
    marks = {"arm": TUNING, **({"night": night} if night else {})}
    drawn = search.draw(_random_search(study, champion), missing)
    return [Companion(trial, champion.key, marks) for trial in drawn]


def best_random(champion: Champion, table: pd.DataFrame, tried: pd.DataFrame) -> pd.Series | None:
    """The most accurate random trial of the champion's band, of the study or of `tried`; None where all have failed.

    One that collapsed counts as what it is, a network that guesses.
    """
    both = [_random(in_band(table, champion.band)), tried]
    found = pd.concat([each[each["outcome"].isin(analysis.COUNTED)] for each in both if len(each)] or [pd.DataFrame()])
    if found.empty:
        return None
    return found.sort_values("val_accuracy", ascending=False, kind="stable").iloc[0]


def _random_search(study: Study, champion: Champion) -> Study:
    """The study with random pruning alone, at the champion's density and without controls."""
    sampled = {name: domain for name, domain in study.trial.items() if name not in CONTROLS}
    fields = {**sampled, "method": STRONGEST, "density": champion.trial.density}
    search = {"sampler": "random", "seed": int(champion.key[:8], 16)}
    return Study.model_validate({**study.model_dump(), "trial": fields, "search": search})


def _random(table: pd.DataFrame) -> pd.DataFrame:
    names = {name for name in METHODS if METHODS[name].is_random}
    plain = table["method"].isin(names)
    for control in ("small_dense", "layers_from"):
        if control in table:
            plain &= table[control].isna()
    return table[plain]


def _twin(trial: Trial, fields: Mapping[str, Any]) -> Trial:
    """The trial with another mask; one that is random has no use for what controls a choice."""
    return changed(trial, {**(_FREE if "method" in fields else {}), **fields})

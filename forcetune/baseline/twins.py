"""The rivals of a champion: twins, which inherit its settings, and random pruning that is tuned as well as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from forcetune import analysis, run
from forcetune.baseline.champions import Champion, select_band_rows
from forcetune.pruning import method_row
from forcetune.study import CONTROLS, Companion, Study, Trial

CHAMPION_ARM = "champion"  # of the champion itself
TUNING_ARM = "tuning"  # of the runs that the tuned twin is chosen from; no comparison contains them
# The seeds of comparisons begin this far above those of re-runs: no run that chose a champion may be compared.
COMPARISON_SEED_OFFSET = 1000
FIXED_TWIN_FIELDS: dict[str, Mapping[str, Any]] = {
    "random_uniform": {"method": "random_uniform"},
    "random_erk": {"method": "random_erk"},
    "shuffled": {"shuffle": True},
    "small_dense": {"small_dense": "macs"},
}
TUNED_TWIN_ARM = "tuned_random"
STRONGEST_RANDOM_METHOD = "random_erk"  # both in publications and in forcetune's own nights
RIVAL_DESCRIPTIONS: dict[str, str] = {
    "random_uniform": "random weights, with the same density in every layer",
    "random_erk": "random weights, with higher densities in small layers (ERK)",
    "shuffled": "random weights, with the champion's layer densities: tests whether the method chooses weights or only "
    "layer densities; the rivals of a champion of whole channels are random channels",
    "small_dense": "an unpruned network with as many multiply-adds as the champion",
    TUNED_TWIN_ARM: "the best random trial of the band, after as many ERK trials as the champion's method has there",
}
_RANDOM_MASK_FIELDS = {"shuffle": False, "invert": False, "layers_from": None}


@dataclass(frozen=True)
class Comparison:
    """A comparison of a champion with a rival.

    Attributes:
        champion: The champion.
        against: The arm of the rival.
        twin: The fields of the rival, except for the seed, which both runs of a pair share.
    """

    champion: Champion
    against: str
    twin: Trial

    @property
    def kind(self) -> Literal["fixed", "tuned"]:
        """The kind of the twin: `fixed` inherits the champion's settings, `tuned` has its own."""
        return "tuned" if self.against == TUNED_TWIN_ARM else "fixed"

    @property
    def name(self) -> str:
        """The name of the comparison, which no other comparison has.

        It contains the twin's key, because a study that goes on may find a better tuned twin.
        """
        return f"{self.champion.study} {self.champion.key} {self.against} {self.twin.key}"

    def make_companions(self, seed: int, night: str | None = None) -> tuple[Companion, Companion]:
        """Make the two runs of a pair: the champion and its twin, both with this seed.

        Args:
            seed: The seed of the pair.
            night: The date of the night that asks for the pair; None outside nights.
        """
        tags = {"night": night} if night else {}
        return (
            Companion(
                replace_fields(self.champion.trial, {"seed": seed}), self.champion.key, {"arm": CHAMPION_ARM, **tags}
            ),
            Companion(replace_fields(self.twin, {"seed": seed}), self.champion.key, {"arm": self.against, **tags}),
        )


def make_fixed_comparisons(champion: Champion) -> list[Comparison]:
    """Make the comparisons of a champion with the twins that inherit its settings.

    The twins of a champion that was pruned while it trained have random masks from the start, and as many operations
    of training as the champion, in at most four times its passes. `shuffled` and `small_dense` then take the layer
    densities of the champion's last masks, since its first ones tell nothing.
    """
    return [
        Comparison(champion, against, _make_twin(champion, fields)) for against, fields in FIXED_TWIN_FIELDS.items()
    ]


def make_tuned_comparison(champion: Champion, trial: Trial) -> Comparison:
    """Make the comparison of a champion with random pruning at the same density.

    Args:
        champion: The champion.
        trial: The random trial whose settings the twin has.
    """
    return Comparison(champion, TUNED_TWIN_ARM, replace_fields(trial, {"density": champion.trial.density}))


def get_comparison_seed(study: Study, pair_index: int) -> int:
    """Return the seed of a pair by its index, from 0; no trial of the study and none of its re-runs has this seed."""
    return study.first_fresh_seed + COMPARISON_SEED_OFFSET + pair_index


def replace_fields(trial: Trial, fields: Mapping[str, Any]) -> Trial:
    """Return the trial with these fields replaced, and without the fields that its method then lacks."""
    return Trial(**trial.model_copy(update=dict(fields)).fields())


def plan_tuning(study: Study, champion: Champion, table: pd.DataFrame, night: str | None = None) -> list[Companion]:
    """Plan the random trials that are missing until random pruning has as many tries as the champion's method.

    The trials are drawn from the study's space, at the champion's density and with the strongest method of random
    pruning. Trials of weaker random methods do not count: many tries of a weak method show little.

    Args:
        study: The study.
        champion: The champion, whose band is counted.
        table: The trials of the study.
        night: The date of the night that asks for the trials; None outside nights.
    """
    band = select_band_rows(table, champion.band)
    strongest = _select_random(band, champion)
    strongest = strongest[strongest["method"] == STRONGEST_RANDOM_METHOD]
    missing = int((band["method"] == champion.trial.method).sum()) - len(strongest)
    if missing <= 0:
        return []
    tags = {"arm": TUNING_ARM, **({"night": night} if night else {})}
    drawn = run.draw_trials(_make_random_study(study, champion), missing)
    return [Companion(trial, champion.key, tags) for trial in drawn]


def find_best_random(champion: Champion, table: pd.DataFrame, tuning_runs: pd.DataFrame) -> pd.Series | None:
    """Find the most accurate random trial in the champion's band, of the study or of the tuning runs.

    A trial that collapsed counts with the accuracy of guessing.

    Args:
        champion: The champion.
        table: The trials of the study.
        tuning_runs: The champion's tuning runs.

    Returns:
        The row of the trial; None where every trial has failed.
    """
    tables = [_select_random(select_band_rows(table, champion.band), champion), tuning_runs]
    candidates = pd.concat(
        [rows[rows["outcome"].isin(analysis.COUNTED_OUTCOMES)] for rows in tables if len(rows)] or [pd.DataFrame()]
    )
    if candidates.empty:
        return None
    return candidates.sort_values("val_accuracy", ascending=False, kind="stable").iloc[0]


def _make_random_study(study: Study, champion: Champion) -> Study:
    """Return the study with random pruning alone, at the champion's density and without controls."""
    domains = {name: domain for name, domain in study.trial.items() if name not in CONTROLS}
    fields = {**domains, "method": STRONGEST_RANDOM_METHOD, "density": champion.trial.density}
    fields["granularity"] = _find_granularity(champion)
    random_search = {"sampler": "random", "seed": int(champion.key[:8], 16)}
    return Study.model_validate({**study.model_dump(), "trial": fields, "search": random_search})


def _find_granularity(champion: Champion) -> str:
    return "channel" if champion.trial.prunes_channels else "weight"


def _select_random(table: pd.DataFrame, champion: Champion) -> pd.DataFrame:
    """Select the trials of random pruning that prune weights or channels as the champion does."""
    is_random = table["method"].isin(analysis.RANDOM_METHODS)
    for control in ("small_dense", "layers_from"):
        if control in table:
            is_random &= table[control].isna()
    granularity = table["granularity"].fillna("weight") if "granularity" in table else pd.Series("weight", table.index)
    is_random &= granularity == _find_granularity(champion)
    return table[is_random]


def _make_twin(champion: Champion, fields: Mapping[str, Any]) -> Trial:
    """Return the trial with another mask; a random mask needs none of the fields that control the choice of weights."""
    has_rule = method_row(champion.trial.method).rule is not None
    if has_rule and "shuffle" in fields:
        fields = {"method": "random", "layers_from": champion.run_id}
    elif has_rule and "small_dense" in fields:
        fields = {"method": "random", "layers_from": champion.run_id, **fields}
    if has_rule:
        # As many operations as the champion's, which trains the whole network until its masks settle, level by level
        fields = {**fields, "epochs": champion.trial.total_epochs, "equal_compute": True}
    if champion.trial.prunes_channels and "method" in fields:
        fields = {"granularity": "channel", **fields}
    return replace_fields(champion.trial, {**(_RANDOM_MASK_FIELDS if "method" in fields else {}), **fields})

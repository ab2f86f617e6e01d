"""The best trials of a study, by validation accuracy, band by band of sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from forcetune import analysis, tracking
from forcetune.errors import InputError
from forcetune.pruning import method_row
from forcetune.spec import BANDS, Trial, method_label

if TYPE_CHECKING:
    import pandas as pd

Band = tuple[float, float]
ROUNDING = 1e-12  # 1 - density is not exact in floating point


@dataclass(frozen=True)
class Champion:
    """A trial of a study: its name and its fields; sparsity: measured; band: the one that holds it, [low, high)."""

    study: str
    name: str
    trial: Trial
    sparsity: float
    band: Band

    @property
    def key(self) -> str:
        """Its trial's."""
        return self.trial.key

    @property
    def label(self) -> str:
        """Its method, and the controls that are on."""
        return method_label(self.trial.fields())

    @property
    def by_chance(self) -> str | None:
        """Why there is nothing to compare it with; None where its weights were chosen by more than chance."""
        if self.trial.small_dense:
            return f"{self.name} at {self.sparsity:.2%} is a small dense network, of which nothing was pruned"
        if self.trial.shuffle or method_row(self.trial.method).is_random:
            return f"{self.name} at {self.sparsity:.2%} is itself random ({self.label}): there is nothing to beat"
        return None


def champions(
    study: str, table: pd.DataFrame, top: int | None = None, edges: Sequence[float] = BANDS
) -> list[Champion]:
    """The front, or the `top` most accurate trials of each band; sorted by sparsity.

    table: the study's, as `analysis.with_seeds` leaves it. edges: of the bands; what lies in none of them is left out.
    Raises InputError where no trial was trained to its end, or none tells its accuracy.
    """
    trained = table[table["outcome"] == "trained"] if len(table) else table
    if trained.empty:
        raise InputError(f"the study {study!r} has no trial that was trained to its end; search first")
    if "val_accuracy" not in trained:
        raise InputError(f"the trials of the study {study!r} tell no val_accuracy, by which champions are compared")
    chosen = analysis.best(table) if top is None else _top(trained, top, edges)
    return made(study, chosen, edges)


def made(study: str, rows: pd.DataFrame, edges: Sequence[float]) -> list[Champion]:
    """Champions of these rows of a study's table, as far as a band holds them, sorted by sparsity."""
    return [
        Champion(study, row["name"], Trial(**tracking.trial_fields(row["run_id"])), row["sparsity"], band)
        for row in rows.sort_values("sparsity", kind="stable").to_dict("records")
        if (band := band_of(row["sparsity"], edges))
    ]


def band_of(sparsity: float, edges: Sequence[float]) -> Band | None:
    """The band that holds a sparsity; None where none does."""
    for low, high in pairwise(edges):
        if low <= sparsity + ROUNDING < high:
            return low, high
    return None


def in_band(table: pd.DataFrame, band: Band) -> pd.DataFrame:
    """The trials within a band."""
    sparsity = table["sparsity"] + ROUNDING
    return table[(band[0] <= sparsity) & (sparsity < band[1])]


def told(band: Band) -> str:
    """A band in words."""
    return f"{band[0]:.4%}".rstrip("0%").rstrip(".") + "–" + f"{band[1]:.4%}".rstrip("0%").rstrip(".") + " %"


def _top(trained: pd.DataFrame, top: int, edges: Sequence[float]) -> pd.DataFrame:
    ranked = trained.sort_values(analysis.believed(trained, "val_accuracy"), ascending=False, kind="stable")
    bands = ranked["sparsity"].map(lambda sparsity: band_of(sparsity, edges))
    return ranked[bands.notna()].groupby(bands[bands.notna()], sort=False).head(top)

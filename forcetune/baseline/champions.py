"""The champions of a study: its best trials by validation accuracy, band by band of sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from forcetune import analysis, tracking
from forcetune.analysis.questions import BOUND_TOLERANCE
from forcetune.errors import InputError
from forcetune.formats import format_percent, format_sparsity
from forcetune.pruning import method_row
from forcetune.study import SPARSITY_BAND_EDGES, Trial, method_label

if TYPE_CHECKING:
    import pandas as pd

Band = tuple[float, float]


@dataclass(frozen=True)
class Champion:
    """A trial of a study that is compared with random pruning.

    Attributes:
        study: The name of the study.
        name: The name of the trial.
        trial: The fields of the trial.
        sparsity: The measured sparsity, from 0 to 1.
        band: The band of sparsity, [low, high), that holds the trial.
        run_id: The id of the trial's run in MLflow, which has its masks.
    """

    study: str
    name: str
    trial: Trial
    sparsity: float
    band: Band
    run_id: str = ""

    @property
    def key(self) -> str:
        """The key of the trial."""
        return self.trial.key

    @property
    def label(self) -> str:
        """The method of the trial, and the controls that are on."""
        return method_label(self.trial.fields())

    @property
    def exclusion_reason(self) -> str | None:
        """The reason why the trial is compared with nothing; None where more than chance chose its weights."""
        if self.trial.small_dense:
            return f"{self.name} at {format_sparsity(self.sparsity)} is a small dense network without pruning"
        if self.trial.shuffle or method_row(self.trial.method).is_random:
            sparsity = format_sparsity(self.sparsity)
            return f"{self.name} at {sparsity} has a random mask ({self.label}): it has no random twin to beat"
        return None


def select_champions(
    study: str, table: tracking.TrialTable, top: int | None = None, edges: Sequence[float] = SPARSITY_BAND_EDGES
) -> list[Champion]:
    """Select the champions of a study: its front, or the most accurate trials of each band.

    Args:
        study: The name of the study.
        table: The trials of the study, as `load_results` returns them.
        top: The number of champions of each band; None takes the front.
        edges: The edges of the bands, in sparsity, rising. A trial that lies in no band is left out.

    Returns:
        The champions, sorted by sparsity.

    Raises:
        InputError: No trial was trained to its end, or no trial has a validation accuracy.
    """
    trained = table.trials[table.trials["outcome"] == "trained"] if len(table.trials) else table.trials
    if trained.empty:
        raise InputError(
            f"the study {study!r} has no trial that was trained to its end; run `forcetune search FILE` first"
        )
    if "val_accuracy" not in trained:
        raise InputError(f"no trial of the study {study!r} has a val_accuracy, which champions are compared by")
    rows = analysis.front(table.trials, table.objectives) if top is None else _select_top(trained, top, edges)
    return make_champions(study, rows, edges)


def make_champions(study: str, rows: pd.DataFrame, edges: Sequence[float]) -> list[Champion]:
    """Make champions of those rows of a study's table that lie in a band, sorted by sparsity."""
    return [
        Champion(
            study, row["name"], Trial(**tracking.load_trial_fields(row["run_id"])), row["sparsity"], band, row["run_id"]
        )
        for row in rows.sort_values("sparsity", kind="stable").to_dict("records")
        if (band := find_band(row["sparsity"], edges))
    ]


def find_band(sparsity: float, edges: Sequence[float]) -> Band | None:
    """Return the band that holds a sparsity; None where no band does."""
    for low, high in pairwise(edges):
        if low <= sparsity + BOUND_TOLERANCE < high:
            return low, high
    return None


def select_band_rows(table: pd.DataFrame, band: Band) -> pd.DataFrame:
    """Select the trials whose sparsity lies in a band."""
    sparsity = table["sparsity"] + BOUND_TOLERANCE
    return table[(band[0] <= sparsity) & (sparsity < band[1])]


def format_band(band: Band) -> str:
    """Format a band as a range of percent."""
    low, high = (format_percent(edge)[:-1] for edge in band)
    return f"{low}–{high} %"


def _select_top(trained: pd.DataFrame, top: int, edges: Sequence[float]) -> pd.DataFrame:
    ranked = trained.sort_values(analysis.objective_column(trained, "val_accuracy"), ascending=False, kind="stable")
    bands = ranked["sparsity"].map(lambda sparsity: find_band(sparsity, edges))
    return ranked[bands.notna()].groupby(bands[bands.notna()], sort=False).head(top)

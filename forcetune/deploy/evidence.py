"""The evidence behind a trial: the seeds and the interval of its accuracy, and the verdicts against its controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from forcetune import analysis, tracking
from forcetune.names import COMPANION, NIGHTLY_EXPERIMENT, VERDICTS_FILE
from forcetune.tracking import TrialTable

ACCURACY = "val_accuracy"


@dataclass(frozen=True)
class ControlVerdict:
    """The verdict of the comparison of a trial with a control.

    Attributes:
        against: The control, such as `random_erk`.
        verdict: `beats`, `ties`, `loses` or `undecided`.
        pairs: The number of pairs of runs.
        mean: The mean difference of test accuracy, trial minus control, in points.
        low: The lower end of its 95 % interval; NaN below two pairs.
        high: The upper end of that interval.
        source: The name of the run that has the verdict: a comparison, or a night.
    """

    against: str
    verdict: str
    pairs: int
    mean: float
    low: float
    high: float
    source: str


@dataclass(frozen=True)
class TrialEvidence:
    """The evidence behind the accuracy of a trial.

    Attributes:
        study: The name of its study; empty where it has none.
        seeds: The number of fresh seeds with which it was trained again.
        mean: The mean of `val_accuracy` over them; None without fresh seeds.
        interval: The 95 % interval of that mean; None where there are too few seeds.
        verdicts: The verdicts against its controls; none where no comparison was run.
    """

    study: str = ""
    seeds: int = 0
    mean: float | None = None
    interval: tuple[float, float] | None = None
    verdicts: Sequence[ControlVerdict] = field(default_factory=list)


def load_evidence(run_id: str, uri: str | None = None) -> TrialEvidence:
    """Return the evidence behind a trial, as MLflow has it.

    Args:
        run_id: The id of the trial's run.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The evidence; a companion has none.

    Raises:
        InputError: There is no such run, or the store does not answer.
    """
    study = tracking.find_study(run_id, uri)
    if study.endswith(COMPANION):
        return TrialEvidence(study.removesuffix(COMPANION))
    trials = load_estimated_table(study, uri).trials
    rows = trials[trials["run_id"] == run_id]
    if rows.empty:  # the run was deleted in MLflow, which still returns it by its id
        return TrialEvidence(study)
    row = rows.iloc[0]
    seeds = int(rows["seeds"].fillna(0).iloc[0]) if "seeds" in rows else 0
    ends = tuple(float(row.get(f"{ACCURACY}_{end}", math.nan)) for end in ("low", "high"))
    mean = float(row.get(f"{ACCURACY}_mean", math.nan))
    return TrialEvidence(
        study=study,
        seeds=seeds,
        mean=mean if seeds and not math.isnan(mean) else None,
        interval=(ends[0], ends[1]) if seeds and not any(map(math.isnan, ends)) else None,
        verdicts=_load_verdicts(study, str(row["trial"]), uri),
    )


def load_estimated_table(study: str, uri: str | None = None) -> TrialTable:
    """Return the table of a study with the estimates from its fresh seeds.

    Args:
        study: The name of the study.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: There is no such study, or the store does not answer.
    """
    table, reruns = tracking.load_table(study, uri), tracking.load_reruns(study, uri)
    return replace(table, trials=analysis.add_seed_estimates(table.trials, reruns, table.objectives, table.references))


def _load_verdicts(study: str, key: str, uri: str | None) -> list[ControlVerdict]:
    """Return the newest verdict against each control; one of a night, where evidence adds up, counts before others."""
    verdicts: dict[str, ControlVerdict] = {}
    for experiment, kind in ((study + COMPANION, "baseline"), (NIGHTLY_EXPERIMENT, "nightly")):
        for record in tracking.list_records(experiment, kind, uri):
            for row in tracking.read_json(record["id"], VERDICTS_FILE, uri) or []:
                if row.get("study") == study and row.get("trial") == key:
                    verdicts[row["against"]] = _read_verdict(row, record["name"])
    return list(verdicts.values())


def _read_verdict(row: Mapping[str, Any], source: str) -> ControlVerdict:
    mean, low, high = (math.nan if row.get(name) is None else float(row[name]) for name in ("mean", "low", "high"))
    return ControlVerdict(
        row["against"], row.get("holds") or row["verdict"], int(row["pairs"]), mean, low, high, source
    )

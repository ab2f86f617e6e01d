"""Studies as tables: their trials and their companions, the input of all questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from forcetune import analysis, tracking
from forcetune.errors import InputError

if TYPE_CHECKING:
    from forcetune.study import Trial

DENSE_ARM = "dense"  # the arm of companions with nothing pruned


@dataclass(frozen=True)
class LoadedTrial:
    """A trial that was run.

    On the same machine and build, training it with as many threads gives the run's numbers to the last digit:
    `torch.set_num_threads(loaded.threads)`, then `forcetune.trial.run(loaded.trial)`. A study with functions of its own
    (`loss`, `metrics`, `train`, ...) has them in its task, the second argument of `run`.

    Attributes:
        run_id: The id of its run in MLflow.
        trial: Its fields.
        threads: The number of threads that torch had. None for runs of versions that did not record it; a trial has as
            many as `resources.cpus` says, one by default.
    """

    run_id: str
    trial: Trial
    threads: int | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Results(tracking.TrialTable):
    """Studies as they were at one moment: their trials and properties, and their companions.

    The trials also have the columns of `analysis.add_seed_estimates`, and `study`.

    Attributes:
        companions: The companions, with their study in the column `study`; there may be none.
        varied: The fields that vary, as `analysis.rank_varied_fields` orders them for all trials.
    """

    companions: pd.DataFrame
    varied: Sequence[str]

    @property
    def front(self) -> pd.DataFrame:
        """The rows of the trials on the front, by rising sparsity."""
        return analysis.front(self.trials, self.objectives)

    @property
    def quality(self) -> str:
        """The objective by which a network counts as good, as `analysis.choose_quality` returns it."""
        return analysis.choose_quality(self.objectives)[0]

    @property
    def way(self) -> str:
        """The direction of the quality, `max` or `min`."""
        return analysis.choose_quality(self.objectives)[1]

    @property
    def reruns(self) -> pd.DataFrame:
        """The companions that are trials with a fresh seed; `of` is the key of the trial."""
        reruns = tracking.select_reruns(self.companions)
        return self.companions if reruns is None else reruns

    @property
    def dense(self) -> pd.DataFrame:
        """The dense companions that trained to their end; `study` and `of` (a trial's key) say what they belong to."""
        if "arm" not in self.companions:
            return self.companions.iloc[:0]
        ended = self.companions["outcome"] == "trained"
        return self.companions[ended & (self.companions["arm"] == DENSE_ARM)]


def load_results(*studies: str) -> pd.DataFrame:
    """Return the trials of one study, or of several with the same objectives.

    Args:
        *studies: The names of the studies.

    Returns:
        A row for each trial: its fields, its metrics, the estimates of `analysis.add_seed_estimates`, and `study`.

    Raises:
        InputError: There is no such study, or the objectives of the studies differ.
    """
    return load(*studies).trials


def load(*studies: str) -> Results:
    """Return the results of one study, or of several with the same objectives: trials, companions and properties.

    Args:
        *studies: The names of the studies.

    Raises:
        InputError: There is no such study, or the objectives of the studies differ.
    """
    companions_by_study = {name: tracking.load_companions(name) for name in dict.fromkeys(studies)}
    tables = [_load_table(name, companions) for name, companions in companions_by_study.items()]
    labelled = [
        companions.assign(study=name) for name, companions in companions_by_study.items() if companions is not None
    ]
    joined = pd.concat(labelled, ignore_index=True) if labelled else pd.DataFrame()
    table = tables[0] if len(tables) == 1 else _join_tables(tables)
    varied = analysis.rank_varied_fields(table.trials, table.fields, table.objectives)
    return Results(**vars(table), companions=joined, varied=varied)


def load_trial(run: str, uri: str | None = None) -> LoadedTrial:
    """Return the trial of a run.

    Args:
        run: The id of the run, or its study and its name, as in `digits/trial-0036`.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: There is no such trial, or the store does not answer.
    """
    from forcetune.study import Trial

    run_id = tracking.find_run(run, uri)
    threads = tracking.load_run_tags(run_id, uri).get("forcetune.threads")
    return LoadedTrial(run_id, Trial(**tracking.load_trial_fields(run_id, uri)), int(threads) if threads else None)


def _load_table(study: str, companions: pd.DataFrame | None) -> tracking.TrialTable:
    """Return the table of a study's trials, with the estimates from its re-runs."""
    table = tracking.load_table(study)
    trials = analysis.add_seed_estimates(
        table.trials, tracking.select_reruns(companions), table.objectives, table.references
    )
    return replace(table, trials=trials.assign(study=study))


def _join_tables(tables: Sequence[tracking.TrialTable]) -> tracking.TrialTable:
    """Return the tables of several studies as one; refuse studies with different objectives.

    In a study without fresh seeds the trial's own value stands for the mean over them.
    """
    if len({frozenset(table.objectives.items()) for table in tables}) > 1:
        differences = "; ".join(
            f"{table.studies[0]} has {', '.join(f'{name} ({way})' for name, way in table.objectives.items())}"
            for table in tables
        )
        raise InputError(f"studies with different objectives cannot share a front: {differences}")
    nonempty = [table.trials for table in tables if len(table.trials)]
    trials = pd.concat(nonempty, ignore_index=True) if nonempty else pd.DataFrame()
    for name in tables[0].objectives:
        if f"{name}_mean" in trials:
            trials[f"{name}_mean"] = trials[f"{name}_mean"].fillna(trials[name])
    hours = [table.device_hours for table in tables if table.device_hours is not None]
    return tracking.TrialTable(
        trials=trials,
        studies=[table.studies[0] for table in tables],
        objectives=tables[0].objectives,
        fields=list(dict.fromkeys(name for table in tables for name in table.fields)),
        device_hours=sum(hours) if len(hours) == len(tables) else None,
        devices={run: device for table in tables for run, device in table.devices.items()},
        state="RUNNING" if any(table.state == "RUNNING" for table in tables) else "FINISHED",
    )

"""Studies as tables: their trials and their companions, the input of all questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forcetune import analysis, tracking
from forcetune.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

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


@dataclass(frozen=True)
class Results:
    """Studies as they were at one moment.

    Attributes:
        trials: The table of their trials.
        companions: The table of their companions; it may be empty.
    """

    trials: pd.DataFrame
    companions: pd.DataFrame

    @property
    def dense(self) -> pd.DataFrame:
        """The dense companions that trained to their end; `study` and `of` (a trial's key) say what they belong to."""
        if "arm" not in self.companions:
            return self.companions.iloc[:0]
        ended = self.companions["outcome"] == "trained"
        return self.companions[ended & (self.companions["arm"] == DENSE_ARM)]


def read(*studies: str) -> Results:
    """Return the results of one study, or of several with the same objectives.

    Args:
        *studies: The names of the studies.

    Returns:
        The trials as `load_results` gives them, and the companions, with their study in the column `study`.

    Raises:
        InputError: There is no such study, or the objectives of the studies differ.
    """
    import pandas as pd

    companions_by_study = {name: tracking.load_companions(name) for name in dict.fromkeys(studies)}
    tables = [_load_table(name, companions) for name, companions in companions_by_study.items()]
    labelled = [
        companions.assign(study=name) for name, companions in companions_by_study.items() if companions is not None
    ]
    for companions in labelled:
        companions.attrs = {}  # pandas would compare the attributes of the tables that it joins
    joined = pd.concat(labelled, ignore_index=True) if labelled else pd.DataFrame()
    return Results(tables[0] if len(tables) == 1 else _join_tables(tables), joined)


def load_results(*studies: str) -> pd.DataFrame:
    """Return the trials of one study, or of several with the same objectives.

    Args:
        *studies: The names of the studies.

    Returns:
        A table as `tracking.load_table` and `analysis.add_seed_estimates` give it, with the further column `study`. The
        `.attrs` of several studies have what they share: objectives, the sum of device_hours, studies, fields and
        state.

    Raises:
        InputError: There is no such study, or the objectives of the studies differ.
    """
    return read(*studies).trials


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


def dense(*studies: str) -> pd.DataFrame:
    """Return the dense companions of studies, as `Results.dense` has them.

    Args:
        *studies: The names of the studies.

    Raises:
        InputError: There is no such study, or the objectives of the studies differ.
    """
    return read(*studies).dense


def _load_table(study: str, companions: pd.DataFrame | None) -> pd.DataFrame:
    """Return the table of a study's trials, with the estimates from its re-runs."""
    table = analysis.add_seed_estimates(tracking.load_table(study), tracking.select_reruns(companions))
    attrs = table.attrs
    table = table.assign(study=study)
    table.attrs = {**attrs, "studies": [study]}
    table.attrs["varied"] = analysis.rank_varied_fields(table)
    return table


def _join_tables(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of several studies as one; refuse studies with different objectives."""
    import pandas as pd

    all_attrs = [table.attrs for table in tables]
    if len({tuple(attrs["objectives"].items()) for attrs in all_attrs}) > 1:
        differences = "; ".join(f"{attrs['study']} has {', '.join(attrs['objectives'])}" for attrs in all_attrs)
        raise InputError(f"studies with different objectives cannot share a front: {differences}")
    for table in tables:
        table.attrs = {}  # pandas would compare the attributes of the tables that it joins
    nonempty = [table for table in tables if len(table)]
    joined = pd.concat(nonempty, ignore_index=True) if nonempty else pd.DataFrame()
    hours = [attrs["device_hours"] for attrs in all_attrs]
    joined.attrs = {
        "objectives": all_attrs[0]["objectives"],
        "studies": [attrs["study"] for attrs in all_attrs],
        "device_hours": None if None in hours else sum(hours),
        "fields": list(dict.fromkeys(name for attrs in all_attrs for name in attrs["fields"])),
        "state": "RUNNING" if any(attrs["state"] == "RUNNING" for attrs in all_attrs) else "FINISHED",
    }
    joined.attrs["varied"] = analysis.rank_varied_fields(joined)
    return joined

"""Studies as tables, with all that was run beside them: what questions are asked of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forcetune import analysis, tracking
from forcetune.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.spec import Trial

DENSE = "dense"  # the arm of companions of which nothing is pruned


@dataclass(frozen=True)
class LoadedTrial:
    """A trial that was run: its run in MLflow, its fields, and the threads that torch had.

    On the same machine and build, training it with as many threads gives the run's numbers to the last digit:
    `torch.set_num_threads(loaded.threads)`, then `forcetune.trial.run(loaded.trial)`. A study with functions of its own
    (`loss`, `metrics`, `train`, ...) has them in its task, the second argument of `run`. Runs of versions that did not
    note the threads have None; a trial has as many as `resources.cpus` says, one by default.
    """

    run_id: str
    trial: Trial
    threads: int | None


@dataclass(frozen=True)
class Results:
    """Studies as they were at one moment: the table of their trials, and that of their companions, perhaps empty."""

    trials: pd.DataFrame
    companions: pd.DataFrame

    @property
    def dense(self) -> pd.DataFrame:
        """The dense companions, trained to their end; study and `of` (a trial's key) say what for."""
        if "arm" not in self.companions:
            return self.companions.iloc[:0]
        ended = self.companions["outcome"] == "trained"
        return self.companions[ended & (self.companions["arm"] == DENSE)]


def read(*studies: str) -> Results:
    """One study, or several with the same objectives: trials as `load` gives them, and companions, `study` whose.

    Raises InputError where there is no such study, or their objectives differ.
    """
    import pandas as pd

    beside = {name: tracking.companions(name) for name in dict.fromkeys(studies)}
    tables = [_table(name, companions) for name, companions in beside.items()]
    some = [companions.assign(study=name) for name, companions in beside.items() if companions is not None]
    for companions in some:
        companions.attrs = {}  # pandas compares them
    found = pd.concat(some, ignore_index=True) if some else pd.DataFrame()
    return Results(tables[0] if len(tables) == 1 else _joined(tables), found)


def load(*studies: str) -> pd.DataFrame:
    """The trials of one study, or of several with the same objectives, as `tracking.table` and `with_seeds` tell them.

    The column `study` says whose each is; of several `.attrs` has what they share: objectives, the sum of device_hours,
    studies. Raises InputError where there is no such study, or their objectives differ.
    """
    return read(*studies).trials


def load_trial(run: str, uri: str | None = None) -> LoadedTrial:
    """Return the trial of a run.

    Args:
        run: The id of the run, or its study and its name, as in `digits/trial-0036`.
        uri: Of the MLflow store; MLFLOW_TRACKING_URI, or mlflow.db in the current folder, where it is not given.

    Raises:
        InputError: There is no such trial, or the store does not answer.
    """
    from forcetune.spec import Trial

    run_id = tracking.find_run(run, uri)
    threads = tracking.run_tags(run_id, uri).get("forcetune.threads")
    return LoadedTrial(run_id, Trial(**tracking.trial_fields(run_id, uri)), int(threads) if threads else None)


def dense(*studies: str) -> pd.DataFrame:
    """The dense companions of these studies, as `Results.dense` tells them."""
    return read(*studies).dense


def _table(study: str, companions: pd.DataFrame | None) -> pd.DataFrame:
    found = analysis.with_seeds(tracking.table(study), tracking.without_arms(companions))
    attrs = found.attrs
    found = found.assign(study=study)
    found.attrs = {**attrs, "studies": [study]}
    found.attrs["varied"] = analysis.by_spread(found)
    return found


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    attrs = [table.attrs for table in tables]
    if len({tuple(each["objectives"].items()) for each in attrs}) > 1:
        told = "; ".join(f"{each['study']} has {', '.join(each['objectives'])}" for each in attrs)
        raise InputError(f"studies with different objectives have no front in common: {told}")
    for table in tables:
        table.attrs = {}  # pandas compares them
    some = [table for table in tables if len(table)]
    found = pd.concat(some, ignore_index=True) if some else pd.DataFrame()
    hours = [each["device_hours"] for each in attrs]
    found.attrs = {
        "objectives": attrs[0]["objectives"],
        "studies": [each["study"] for each in attrs],
        "device_hours": None if None in hours else sum(hours),
        "fields": list(dict.fromkeys(name for each in attrs for name in each["fields"])),
        "state": "RUNNING" if any(each["state"] == "RUNNING" for each in attrs) else "FINISHED",
    }
    found.attrs["varied"] = analysis.by_spread(found)
    return found

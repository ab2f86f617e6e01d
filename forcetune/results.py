"""Studies as tables, with all that was run beside them: what questions are asked of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forcetune import analysis, tracking
from forcetune.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

DENSE = "dense"  # the arm of companions of which nothing is pruned


def load(*studies: str) -> pd.DataFrame:
    """The trials of one study, or of several with the same objectives, as `tracking.table` and `with_seeds` tell them.

    Asked for several, the column `study` says whose each is, and `.attrs` has what they share: objectives, the sum of
    device_hours, studies. Raises InputError where there is no such study, or their objectives differ.
    """
    tables = [_load(name) for name in dict.fromkeys(studies)]
    return tables[0] if len(tables) == 1 else _joined(tables)


def dense(*studies: str) -> pd.DataFrame:
    """The dense companions of these studies, trained to their end; study and `of` (a trial's key) say what for."""
    import pandas as pd

    found = [_dense(name) for name in dict.fromkeys(studies)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _load(study: str) -> pd.DataFrame:
    found = analysis.with_seeds(tracking.table(study), tracking.reruns(study))
    attrs = found.attrs
    found = found.assign(study=study)
    found.attrs = {**attrs, "studies": [study]}
    return found


def _dense(study: str) -> pd.DataFrame:
    import pandas as pd

    beside = tracking.companions(study)
    if beside is None or "arm" not in beside:
        return pd.DataFrame()
    found = beside[(beside["arm"] == DENSE) & (beside["outcome"] == "trained")]
    return found.assign(study=study)


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
    return found

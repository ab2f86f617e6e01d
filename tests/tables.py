"""Results of invented studies, as `results.load` returns them."""

import pandas as pd
from shared_constants import DEFAULT_OBJECTIVES

from forcetune.report.results import Results


def make_results(trials, objectives=DEFAULT_OBJECTIVES, fields=(), **properties):
    """Make the results of a finished study with these trials and no companions."""
    fixed = {"studies": ["s"], "companions": pd.DataFrame(), "varied": (), "device_hours": 0.5, "state": "FINISHED"}
    return Results(trials=trials, objectives=objectives, fields=fields, **{**fixed, **properties})

"""The accuracy of methods side by side over sparsity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from forcetune.analysis.paired import student_half_width


def compare(table: pd.DataFrame, configurations: Sequence[dict[str, Any]], chance: float) -> pd.DataFrame:
    """Return the validation accuracy of each method at each density.

    Args:
        table: The trials of the study, as `Results.trials` has them.
        configurations: A record for each trial of the study: trial (its key), method and density.
        chance: The accuracy at which collapsed and failed trials count.

    Returns:
        A row for each method and density, with the columns method, density, sparsity, seeds, mean, std, half_width
        (half of Student's 95 % interval of the mean; NaN for one seed), collapsed and failed (the numbers of such
        trials), and reached (the mean density that the trials reached: whole channels reach less than was asked for).
    """
    outcomes = pd.DataFrame(
        {
            "trial": table["trial"],
            "outcome": table["outcome"],
            "accuracy": table.get("val_accuracy", np.nan),
            "reached": table.get("density", np.nan),
        }
    )
    ended = pd.DataFrame(configurations).merge(outcomes.dropna(subset="outcome"), on="trial")
    ended["accuracy"] = ended["accuracy"].where(ended["outcome"] == "trained", chance)
    for outcome in ("collapsed", "failed"):
        ended[outcome] = ended["outcome"] == outcome
    rows = ended.groupby(["method", "density"], sort=False, as_index=False).agg(
        seeds=("accuracy", "size"),
        mean=("accuracy", "mean"),
        std=("accuracy", "std"),
        collapsed=("collapsed", "sum"),
        failed=("failed", "sum"),
        reached=("reached", "mean"),
    )
    rows["half_width"] = student_half_width(rows["std"] / np.sqrt(rows["seeds"]), rows["seeds"] - 1)
    rows.insert(2, "sparsity", 1 - rows["density"])
    return rows

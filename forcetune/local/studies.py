"""The studies that the stores have, and the page of each study in MLflow's UI and in Optuna Dashboard."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable

from forcetune import tracking
from forcetune.errors import InputError
from forcetune.names import suggestion

OPTUNA_DASHBOARD_TIMEOUT_S = 10  # that it may take to list its studies


def experiment_pages(uri: str) -> dict[str, str]:
    """Return the page of each experiment of an MLflow store or server, as a path below the server's address.

    Raises InputError where the store cannot be read.
    """
    return {experiment.name: experiment.page for experiment in tracking.list_experiments(uri)}


def ledger_pages(address: str) -> dict[str, str]:
    """Return the page of each study in Optuna Dashboard, as a path below its address.

    Raises InputError where it does not answer.
    """
    try:
        with urllib.request.urlopen(f"{address}/api/studies", timeout=OPTUNA_DASHBOARD_TIMEOUT_S) as response:
            summaries = json.load(response)["study_summaries"]
    except (OSError, ValueError) as error:
        raise InputError(f"Optuna Dashboard does not answer at {address}: {error}") from None
    return {study["study_name"]: f"/dashboard/studies/{study['study_id']}" for study in summaries}


def unknown_study(study: str, studies: Iterable[str]) -> InputError:
    """Return an error for a study that is not among the studies of the stores."""
    names = ", ".join(sorted(studies)) or "none yet"
    return InputError(f"no study {study!r} in these stores{suggestion(study, studies)}; their studies: {names}")

"""Which studies the stores have, and the page of each in the two UIs."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable

from forcetune import tracking
from forcetune.errors import InputError
from forcetune.names import suggestion

ANSWER = 10  # seconds that Optuna Dashboard gets to list its studies


def experiments(uri: str) -> dict[str, str]:
    """The experiments of an MLflow store or server, and the page of each below the server's address.

    Raises InputError where it cannot be read.
    """
    return {each.name: each.page for each in tracking.experiments(uri)}


def ledgers(address: str) -> dict[str, str]:
    """The studies that Optuna Dashboard has, and the page of each below its address.

    Raises InputError where it does not answer.
    """
    try:
        with urllib.request.urlopen(f"{address}/api/studies", timeout=ANSWER) as answer:
            found = json.load(answer)["study_summaries"]
    except (OSError, ValueError) as error:
        raise InputError(f"Optuna Dashboard does not answer at {address}: {error}") from None
    return {study["study_name"]: f"/dashboard/studies/{study['study_id']}" for study in found}


def unknown(study: str, known: Iterable[str]) -> InputError:
    """The refusal of a study that is not among the known ones."""
    names = ", ".join(sorted(known)) or "none yet"
    return InputError(f"no study {study!r} in these stores{suggestion(study, known)}; there are: {names}")

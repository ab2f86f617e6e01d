"""The links that `ui` prints: to the dashboards, or to the pages of a study in them, and to reports in MLflow."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace

from forcetune import tracking
from forcetune.errors import InputError
from forcetune.local.dashboards import Link
from forcetune.names import suggestion
from forcetune.stores import hide_password, is_http, sqlite_path

OPTUNA_DASHBOARD_TIMEOUT_S = 10  # that it may take to list its studies


def find_links(study: str | None, dashboards: list[Link]) -> list[Link]:
    """Return the links to the dashboards, and below them those to the reports that MLflow keeps.

    Before the dashboards are started it checks the study where it can: a file or a server lists its studies, a database
    or a ledger does so only through a server on it.

    Args:
        study: The study whose pages and report are linked; None for the dashboards and the reports of all studies.
        dashboards: MLflow's, Optuna's and Ray's dashboard.

    Raises:
        InputError: MLflow, or without MLflow Optuna's ledger, does not have the study; or a store cannot be read.
    """
    mlflow, optuna, ray = dashboards
    source = mlflow.store if is_http(mlflow.store) or sqlite_path(mlflow.store) else mlflow.address
    experiments = {experiment.name: experiment for experiment in tracking.list_experiments(source)} if source else {}
    if not study:
        written = [experiment for experiment in experiments.values() if experiment.report_page]
        return [*dashboards, *(_link_report(mlflow.address, experiment) for experiment in written)]
    ledger_pages = _list_ledger_pages(optuna.address) if optuna.address else {}
    studies = [*experiments] if source else [*ledger_pages]
    is_listed = source or optuna.address or not (mlflow.store or optuna.store)
    if is_listed and study not in studies:
        names = ", ".join(sorted(studies)) or "none yet"
        raise InputError(f"no study {study!r} in these stores{suggestion(study, studies)}; their studies: {names}")
    reports = [_link_report(mlflow.address, experiments[study])] if source else []
    if source:
        mlflow = replace(mlflow, address=mlflow.address + experiments[study].page)
    if study in ledger_pages:
        optuna = replace(optuna, address=optuna.address + ledger_pages[study])
    elif optuna.address:
        ledger = hide_password(optuna.store)
        optuna = replace(optuna, note=f"{ledger} has no study {study!r}; `FORCETUNE_STORAGE` can name another ledger")
    return [mlflow, optuna, ray, *reports]


def _link_report(server: str, experiment: tracking.Experiment) -> Link:
    name = f"report of {experiment.name}"
    if experiment.report_page:
        return Link(name, server + experiment.report_page)
    return Link(name, note=f"not written yet: `forcetune report {experiment.name}` writes it")


def _list_ledger_pages(address: str) -> dict[str, str]:
    """Return the page of each study in Optuna Dashboard, as a path below its address."""
    try:
        with urllib.request.urlopen(f"{address}/api/studies", timeout=OPTUNA_DASHBOARD_TIMEOUT_S) as response:
            summaries = json.load(response)["study_summaries"]
    except (OSError, ValueError) as error:
        raise InputError(f"Optuna Dashboard does not answer at {address}: {error}") from None
    return {study["study_name"]: f"/dashboard/studies/{study['study_id']}" for study in summaries}

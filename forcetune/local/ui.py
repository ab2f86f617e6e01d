"""MLflow's UI, Optuna Dashboard and Ray's dashboard, as far as they exist, and one page of links to them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from threading import Event

from forcetune.errors import InputError
from forcetune.local.children import DASHBOARD_START_LIMIT_S, Children
from forcetune.local.dashboards import MLFLOW, OPTUNA, Dashboard, find
from forcetune.local.page import Page
from forcetune.local.service import LOOPBACK, free_port
from forcetune.local.start import mlflow_server, optuna_dashboard
from forcetune.local.studies import experiment_pages, ledger_pages, unknown_study

PREFERRED_PORTS = {MLFLOW: 5000, OPTUNA: 8080}  # the defaults of their own commands; a free port where one is taken
PREFERRED_PAGE_PORT = 8000


def run(
    study: str | None, stop: Event, on_open: Callable[[Page], None], start_limit_s: float = DASHBOARD_START_LIMIT_S
) -> None:
    """Show the dashboards of the current folder, or those that the environment names, until `stop` is set.

    Dashboards that were started here end with this call, and die with this process where it is killed.

    Args:
        study: The study whose pages the links lead to.
        stop: Ends the call once it is set.
        on_open: Called once with the page, when all dashboards answer.
        start_limit_s: Seconds that each started dashboard may take to answer.

    Raises:
        InputError: There is nothing to show, or no such study.
        StoppedError: A dashboard does not start; none is left running.
    """
    dashboards = find()
    _check_study(study, dashboards)
    with Children(stop, start_limit_s) as children:
        dashboards = [_start(dashboard, children) for dashboard in dashboards]
        for dashboard in dashboards:
            if dashboard.name in children.names:
                children.wait(dashboard.name, dashboard.probe_address)
        if stop.is_set():
            return
        _check_study(study, dashboards)
        with closing(Page(dashboards, study, children.has_ended, free_port(PREFERRED_PAGE_PORT))) as page:
            on_open(page)
            stop.wait()


def _start(dashboard: Dashboard, children: Children) -> Dashboard:
    """Return the dashboard with its address, after starting it where only its store exists."""
    if dashboard.address or not dashboard.store:
        return dashboard
    port = free_port(PREFERRED_PORTS[dashboard.name])
    command = mlflow_server if dashboard.name == MLFLOW else optuna_dashboard
    children.start(dashboard.name, *command(dashboard.store, port))
    return replace(dashboard, address=f"http://{LOOPBACK}:{port}")


def _check_study(study: str | None, dashboards: list[Dashboard]) -> None:
    """Raise InputError where MLflow does not have the study; without MLflow, where Optuna's ledger does not.

    A file or a server can be asked before anything is started, a database or a ledger only through a server on it.
    """
    mlflow, optuna = (
        next(dashboard for dashboard in dashboards if dashboard.name == name) for name in (MLFLOW, OPTUNA)
    )
    if study is None:
        return
    if mlflow.source:
        studies = experiment_pages(mlflow.source)
    elif optuna.address and not mlflow.store:
        studies = ledger_pages(optuna.address)
    elif mlflow.store or optuna.store:
        return
    else:
        raise InputError(f"there is no study {study!r}: MLflow's store and Optuna's ledger do not exist here")
    if study not in studies:
        raise unknown_study(study, studies)

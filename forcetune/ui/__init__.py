"""What exists of MLflow's UI, Optuna Dashboard and Ray's dashboard, and one page of links to them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from threading import Event

from forcetune.errors import InputError
from forcetune.service import LOOPBACK, free_port
from forcetune.ui.children import START_LIMIT_S, Children
from forcetune.ui.dashboards import MLFLOW, OPTUNA, Dashboard, find
from forcetune.ui.page import Page
from forcetune.ui.start import mlflow_server, optuna_dashboard
from forcetune.ui.studies import experiments, ledgers, unknown

PORTS = {MLFLOW: 5000, OPTUNA: 8080}  # as their own commands have them, where they are free
PAGE = 8000


def run(study: str | None, stop: Event, opened: Callable[[Page], None], start_limit_s: float = START_LIMIT_S) -> None:
    """Show what there is in the current folder, or where the environment points, until `stop` is set.

    study: whose pages the links lead to; opened: called once with the page, when all answer. What was started here
    is ended in any case, and dies with this process where that is killed. start_limit_s: seconds that each of it may
    take to answer.
    Raises InputError where there is nothing to show or no such study, StoppedError where a dashboard does not start;
    nothing is left running then.
    """
    dashboards = find()
    _check(study, dashboards)
    with Children(stop, start_limit_s) as children:
        dashboards = [_start(dashboard, children) for dashboard in dashboards]
        for dashboard in dashboards:
            if dashboard.name in children.names:
                children.wait(dashboard.name, dashboard.probe)
        if stop.is_set():
            return
        _check(study, dashboards)
        with closing(Page(dashboards, study, children.ended, free_port(PAGE))) as page:
            opened(page)
            stop.wait()


def _start(dashboard: Dashboard, children: Children) -> Dashboard:
    """The dashboard with its address; started where there is only a store to start it on."""
    if dashboard.address or not dashboard.store:
        return dashboard
    port = free_port(PORTS[dashboard.name])
    command = mlflow_server if dashboard.name == MLFLOW else optuna_dashboard
    children.start(dashboard.name, *command(dashboard.store, port))
    return replace(dashboard, address=f"http://{LOOPBACK}:{port}")


def _check(study: str | None, dashboards: list[Dashboard]) -> None:
    """Refuse a study that MLflow does not have, as far as it can be asked; Optuna's ledger where there is no MLflow.

    Before anything is started a file or a server can be asked; a database and a ledger once there is a server on it.
    """
    mlflow, optuna = (next(each for each in dashboards if each.name == name) for name in (MLFLOW, OPTUNA))
    if study is None:
        return
    if mlflow.source:
        known = experiments(mlflow.source)
    elif optuna.address and not mlflow.store:
        known = ledgers(optuna.address)
    elif mlflow.store or optuna.store:
        return
    else:
        raise InputError(f"there is no study {study!r}: neither MLflow's store nor Optuna's ledger is here")
    if study not in known:
        raise unknown(study, known)

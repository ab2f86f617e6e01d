"""The three dashboards: where each of them runs, or on which store it can be started."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from forcetune import tracking
from forcetune.errors import InputError
from forcetune.local import service
from forcetune.local.service import Service
from forcetune.stores import (
    absolute_uri,
    hide_password,
    mlflow_uri,
    optuna_uri,
    ray_address,
    sqlite_path,
    without_login,
)

MLFLOW, OPTUNA, RAY = "MLflow", "Optuna Dashboard", "Ray Dashboard"
DASHBOARD_CONTENTS = {
    MLFLOW: "every trial: its curves, its metrics and params, its masks and reports",
    OPTUNA: "the search: its front, its history, and the importance of each hyperparameter",
    RAY: "the machines: nodes, jobs, actors, cores and GPUs in use, logs",
}
PROBE_PATHS = {MLFLOW: "/health", OPTUNA: "/api/studies", RAY: "/api/version"}
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306}  # for addresses without a port
DATABASE_TIMEOUT_S = 5.0  # that a database may take to accept a connection
INSTALL_HINT = "Optuna Dashboard is not installed: `pip install 'forcetune[ui]'`"


@dataclass(frozen=True)
class Dashboard:
    """One of the three dashboards.

    Attributes:
        name: MLFLOW, OPTUNA or RAY.
        address: Where it answers, without user and password; empty where it has to be started, or does not exist.
        store: The address of what it shows, empty where it does not exist. It may hold a password: print
            `printable_store` instead.
        note: What one should know besides, or why the dashboard does not exist.
    """

    name: str
    address: str = ""
    store: str = field(default="", repr=False)
    note: str = ""

    @property
    def is_available(self) -> bool:
        """Return whether there is something to link to."""
        return bool(self.address or self.store)

    @property
    def printable_store(self) -> str:
        """The address of the store without its password."""
        return hide_password(self.store)

    @property
    def source(self) -> str:
        """The server or the file that lists the studies; for a database, the server on it."""
        direct = _is_http(self.store) or sqlite_path(self.store)
        return self.store if direct else self.address

    @property
    def probe_address(self) -> str:
        """The address that answers while the dashboard runs."""
        return self.address + PROBE_PATHS[self.name]


def find() -> list[Dashboard]:
    """Find the three dashboards, by the environment, the service of this folder and its files.

    Returns:
        MLflow's, Optuna's and Ray's dashboard, in this order.

    Raises:
        InputError: None of them exists, or the MLflow server that the environment names does not answer.
    """
    local_service = service.find()
    dashboards = [_mlflow(local_service), _optuna(local_service), _ray(local_service)]
    if not any(dashboard.is_available for dashboard in dashboards):
        raise InputError(_explain_absence(dashboards))
    return dashboards


def _mlflow(local_service: Service | None) -> Dashboard:
    is_set = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    uri = mlflow_uri()
    if _is_http(uri):
        tracking.check_answers(uri)
        return Dashboard(MLFLOW, without_login(uri), uri)
    if local_service and (not is_set or uri == local_service.backend):
        note = f"started by `forcetune up` on `{hide_password(local_service.backend)}`"
        return Dashboard(MLFLOW, local_service.mlflow, local_service.mlflow, note)
    return _store_dashboard(MLFLOW, uri, "MLFLOW_TRACKING_URI")


def _optuna(local_service: Service | None) -> Dashboard:
    uri = optuna_uri()
    if local_service and not os.environ.get("FORCETUNE_STORAGE"):
        uri = absolute_uri(local_service.storage)
    dashboard = _store_dashboard(OPTUNA, uri, "FORCETUNE_STORAGE")
    return (
        Dashboard(OPTUNA, note=INSTALL_HINT)
        if dashboard.is_available and not find_spec("optuna_dashboard")
        else dashboard
    )


def _ray(local_service: Service | None) -> Dashboard:
    address = ray_address()
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if _is_http(address):
        token_hint = (
            f"asks for a token: the one in {token}" if token else "may ask for a token (see RAY_AUTH_TOKEN_PATH)"
        )
        return Dashboard(RAY, without_login(address), note=token_hint)
    if local_service:
        return Dashboard(RAY, local_service.ray, note=f"asks for a token: the one in {local_service.token}")
    return Dashboard(
        RAY, note="none: `forcetune up` starts one; `RAY_ADDRESS=http://HOST:8265` names that of a cluster"
    )


def _store_dashboard(name: str, uri: str, variable: str) -> Dashboard:
    """Return a dashboard to be started on a store, if the store exists: otherwise the server would create it."""
    path = sqlite_path(uri)
    if path is None:
        _check_listens(uri, variable)
    if path is None or path.is_file():
        return Dashboard(name, store=uri)
    return Dashboard(name, note=f"none: there is no `{path}`, and `{variable}` names no other store")


def _check_listens(uri: str, variable: str) -> None:
    """Raise InputError where the host of a database does not answer; the servers would retry for minutes."""
    url = urlsplit(uri)
    try:
        port = url.port or DATABASE_PORTS.get(url.scheme.partition("+")[0])
    except ValueError:  # an address with several hosts, which only the servers can read
        return
    if url.hostname and port:
        try:
            socket.create_connection((url.hostname, port), timeout=DATABASE_TIMEOUT_S).close()
        except OSError as error:
            raise InputError(f"the database of {variable}, {hide_password(uri)}, does not answer: {error}") from None


def _explain_absence(dashboards: list[Dashboard]) -> str:
    if any(dashboard.note == INSTALL_HINT for dashboard in dashboards):
        return f"there is only an Optuna ledger here, and {INSTALL_HINT}"
    return (
        f"nothing to show: {Path.cwd()} has no mlflow.db and no optuna.db, and MLFLOW_TRACKING_URI, FORCETUNE_STORAGE "
        "and RAY_ADDRESS name no existing store or cluster; run a search here, or go to a folder where one ran"
    )


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))

"""Which of the three dashboards there are: where each runs, or on which store it can be started."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from forcetune import service, tracking
from forcetune.errors import InputError
from forcetune.service import Service
from forcetune.stores import absolute, mlflow_uri, optuna_uri, ray_address, shown, sqlite_path, without_login

MLFLOW, OPTUNA, RAY = "MLflow", "Optuna Dashboard", "Ray Dashboard"
SHOWS = {
    MLFLOW: "every trial: its curves, its metrics and params, its masks and reports",
    OPTUNA: "the search itself: the front, its history, which hyperparameter matters",
    RAY: "the machines: nodes, jobs, actors, cores and GPUs in use, logs",
}
PROBES = {MLFLOW: "/health", OPTUNA: "/api/studies", RAY: "/api/version"}
PORTS = {"postgresql": 5432, "mysql": 3306}  # where an address names none
ANSWER = 5.0  # seconds that a database gets to say that it is there
INSTALL = "Optuna Dashboard is not installed: `pip install 'forcetune[ui]'`"


@dataclass(frozen=True)
class Dashboard:
    """One of the three.

    address: where it answers, without user and password, empty where it has to be started or there is none; store: what
    it shows, an address that may hold a password (never print it, `place` is for that), empty where there is none;
    told: what one should know besides, or why there is none.
    """

    name: str
    address: str = ""
    store: str = field(default="", repr=False)
    told: str = ""

    @property
    def exists(self) -> bool:
        """Whether there is something to link to."""
        return bool(self.address or self.store)

    @property
    def place(self) -> str:
        """The store as it may be shown."""
        return shown(self.store)

    @property
    def source(self) -> str:
        """What says which studies it has: a server or a file; a database is left to the server on it."""
        direct = _is_http(self.store) or sqlite_path(self.store)
        return self.store if direct else self.address

    @property
    def probe(self) -> str:
        """What answers while it runs."""
        return self.address + PROBES[self.name]


def find() -> list[Dashboard]:
    """MLflow's, Optuna's and Ray's, in this order, by the environment, this folder's service and its files.

    Raises InputError where there is none of them, or the MLflow server that the environment names does not answer.
    """
    running = service.find()
    found = [_mlflow(running), _optuna(running), _ray(running)]
    if not any(each.exists for each in found):
        raise InputError(_nothing(found))
    return found


def _mlflow(running: Service | None) -> Dashboard:
    chosen = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    uri = mlflow_uri()
    if _is_http(uri):
        tracking.check_answers(uri)
        return Dashboard(MLFLOW, without_login(uri), uri)
    if running and (not chosen or uri == running.backend):
        told = f"started by `forcetune up` on `{shown(running.backend)}`"
        return Dashboard(MLFLOW, running.mlflow, running.mlflow, told)
    return _on(MLFLOW, uri, "MLFLOW_TRACKING_URI")


def _optuna(running: Service | None) -> Dashboard:
    uri = optuna_uri()
    if running and not os.environ.get("FORCETUNE_STORAGE"):
        uri = absolute(running.storage)
    found = _on(OPTUNA, uri, "FORCETUNE_STORAGE")
    return Dashboard(OPTUNA, told=INSTALL) if found.exists and not find_spec("optuna_dashboard") else found


def _ray(running: Service | None) -> Dashboard:
    address = ray_address()
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if _is_http(address):
        where = f"the one in {token}" if token else "the one in RAY_AUTH_TOKEN_PATH, if it asks for one"
        return Dashboard(RAY, without_login(address), told=f"asks for a token: {where}")
    if running:
        return Dashboard(RAY, running.ray, told=f"asks for a token: the one in {running.token}")
    return Dashboard(RAY, told="none: `forcetune up` starts one, `RAY_ADDRESS=http://HOST:8265` names a cluster's")


def _on(name: str, uri: str, variable: str) -> Dashboard:
    """A dashboard that is to be started on a store, if that is there: one that was not there would be made."""
    path = sqlite_path(uri)
    if path is None:
        _check_listens(uri, variable)
    if path is None or path.is_file():
        return Dashboard(name, store=uri)
    return Dashboard(name, told=f"none: there is no `{path}`, and `{variable}` names no other store")


def _check_listens(uri: str, variable: str) -> None:
    """Refuse a database whose host does not answer; the servers would try for minutes."""
    parts = urlsplit(uri)
    try:
        port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    except ValueError:  # several hosts: left to the servers
        return
    if parts.hostname and port:
        try:
            socket.create_connection((parts.hostname, port), timeout=ANSWER).close()
        except OSError as error:
            raise InputError(f"the database of {variable}, {shown(uri)}, does not answer: {error}") from None


def _nothing(found: list[Dashboard]) -> str:
    if any(each.told == INSTALL for each in found):
        return f"there is only an Optuna ledger here, and {INSTALL}"
    return (
        f"nothing to show: {Path.cwd()} has no mlflow.db and no optuna.db, and MLFLOW_TRACKING_URI, FORCETUNE_STORAGE "
        "and RAY_ADDRESS name no store or cluster that is there; run a search here, or go where one ran"
    )


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))

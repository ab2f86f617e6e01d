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
from forcetune.stores import hide_password, is_http, mlflow_uri, optuna_uri, ray_address, sqlite_path, without_login

MLFLOW, OPTUNA, RAY = "MLflow", "Optuna Dashboard", "Ray Dashboard"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306}  # for addresses without a port
DATABASE_TIMEOUT_S = 5.0  # that a database may take to accept a connection
INSTALL_HINT = "it is not installed: `pip install 'forcetune[ui]'`"


@dataclass(frozen=True)
class Link:
    """A link to a dashboard or to a report; it leads nowhere where it has neither an address nor a store.

    Attributes:
        name: MLFLOW, OPTUNA, RAY, or the name of a report.
        address: The address to open, without user and password; empty where a dashboard has to be started.
        store: The address of what a dashboard shows, which may hold a password; empty where that does not exist.
        note: A hint for the user, or the reason why there is no address and what to do about it.
    """

    name: str
    address: str = ""
    store: str = field(default="", repr=False)
    note: str = ""


def find() -> list[Link]:
    """Find the three dashboards, by the environment, the service of this folder and its files.

    Returns:
        MLflow's, Optuna's and Ray's dashboard, in this order.

    Raises:
        InputError: None of them exists, or the MLflow server that the environment names does not answer.
    """
    local_service = service.find()
    dashboards = [_mlflow(local_service), _optuna(local_service), _ray(local_service)]
    if not any(dashboard.address or dashboard.store for dashboard in dashboards):
        notes = "; ".join(f"{dashboard.name}: {dashboard.note}" for dashboard in dashboards)
        raise InputError(f"nothing to show in {Path.cwd()}. {notes}")
    return dashboards


def _mlflow(local_service: Service | None) -> Link:
    uri = mlflow_uri()
    if is_http(uri):
        tracking.check_answers(uri)
        return Link(MLFLOW, without_login(uri), uri)
    if local_service and (not os.environ.get("MLFLOW_TRACKING_URI") or uri == local_service.backend):
        note = f"started by `forcetune up` on `{hide_password(local_service.backend)}`"
        return Link(MLFLOW, local_service.mlflow, local_service.mlflow, note)
    return _find_store(MLFLOW, uri, "MLFLOW_TRACKING_URI")


def _optuna(local_service: Service | None) -> Link:
    uri = optuna_uri()
    if local_service and not os.environ.get("FORCETUNE_STORAGE"):
        uri = local_service.storage
    dashboard = _find_store(OPTUNA, uri, "FORCETUNE_STORAGE")
    is_installed = not dashboard.store or find_spec("optuna_dashboard")
    return dashboard if is_installed else Link(OPTUNA, note=INSTALL_HINT)


def _ray(local_service: Service | None) -> Link:
    address = ray_address()
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if is_http(address):
        hint = f"asks for a token: the one in {token}" if token else "may ask for a token (see RAY_AUTH_TOKEN_PATH)"
        return Link(RAY, without_login(address), note=hint)
    if local_service:
        return Link(RAY, local_service.ray, note=f"asks for a token: the one in {local_service.token}")
    hint = "no cluster: `forcetune up` starts one; `RAY_ADDRESS=http://HOST:8265` names the dashboard of one"
    return Link(RAY, note=hint)


def _find_store(name: str, uri: str, variable: str) -> Link:
    """Return a dashboard to be started on a store, if the store exists: otherwise the server would create it."""
    path = sqlite_path(uri)
    if path is None:
        _check_listens(uri, variable)
    if path is None or path.is_file():
        return Link(name, store=uri)
    return Link(name, note=f"there is no `{path}`; run a search here, or let `{variable}` name a store")


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

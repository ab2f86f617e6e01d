"""The client of a cluster's Jobs API: it finds the API, answers within seconds, and explains failures in a sentence."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forcetune.errors import InputError, StoppedError
from forcetune.local import service
from forcetune.stores import is_http, ray_address

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_TIMEOUT_S, RESPONSE_TIMEOUT_S = 5, 60
VERSION_ENDPOINT = "/api/version"  # the first request; a cluster that does not answer it soon counts as absent


@contextmanager
def connect_client(address: str | None = None) -> Iterator[JobSubmissionClient]:
    """Connect a client to a cluster.

    Args:
        address: The address of the cluster's dashboard; RAY_ADDRESS or the service of the current folder where it is
            None.

    Yields:
        The client.

    Raises:
        InputError: There is no address, or the cluster does not answer, refuses the token or has another version of
            Ray.
        StoppedError: The connection breaks while a log is followed.
    """
    dashboard, headers = _resolve_address(address)
    with _translate_errors(dashboard):
        with _set_variable("RAY_API_SERVER_ADDRESS", dashboard):  # Ray prefers this variable to the client's argument
            client = _make_client(dashboard, headers)
        yield client


def _make_client(address: str, headers: dict[str, str]) -> JobSubmissionClient:
    import ray
    from ray.job_submission import JobSubmissionClient

    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        """A client with time limits: Ray's client waits for ever."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            timeouts = (CONNECT_TIMEOUT_S, CONNECT_TIMEOUT_S if endpoint == VERSION_ENDPOINT else RESPONSE_TIMEOUT_S)
            return super()._do_request(method, endpoint, **{"timeout": timeouts, **options})

    client = Client(address, headers=headers)
    if client._server_ray_version != ray.__version__:
        raise InputError(
            f"the client and the cluster have different versions: ray {ray.__version__} on the client, "
            f"{client._server_ray_version} on the cluster. Install the same on both; nothing was run"
        )
    return client


@contextmanager
def _set_variable(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment, and restore it at the end."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


@contextmanager
def _translate_errors(address: str) -> Iterator[None]:
    """Translate the errors of the Jobs API into InputError and StoppedError."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise InputError(
            f"the Ray cluster at {address} refuses the token, or requires one; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH to the file that holds it"
        ) from None
    except (requests.RequestException, ConnectionError) as error:
        raise InputError(f"no Ray cluster answers at {address}: {_innermost(error)}") from None
    except (aiohttp.ClientError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "closed unexpectedly" not in str(error):
            raise
        raise StoppedError(f"the connection to the cluster at {address} broke; its jobs may still run") from None


def _resolve_address(address: str | None) -> tuple[str, dict[str, str]]:
    """Return the address of the dashboard, and the header with the token where it is the service of this folder.

    For other clusters Ray finds the token itself, by variables that it reads when it is imported.
    """
    chosen = address or ray_address()
    local_service = service.find()
    if not chosen and local_service is None:
        raise InputError(
            "no cluster is named: start one on this machine with `forcetune up`, or give the address of a dashboard "
            "with --address or RAY_ADDRESS (http://HOST:8265)"
        )
    if local_service is not None and (not chosen or chosen.rstrip("/") == local_service.ray):
        return local_service.ray, {"Authorization": f"Bearer {Path(local_service.token).read_text()}"}
    assert chosen
    if not is_http(chosen):
        raise InputError(
            f"{chosen} is the address of a cluster's head; jobs need the address of its dashboard, http://HOST:8265"
        )
    return chosen.rstrip("/"), {}


def _innermost(error: BaseException) -> str:
    """Return the first line of the innermost exception, which is the socket's."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error).partition("\n")[0]

"""The Jobs API of a cluster: found, reached within seconds, and what goes wrong told in a sentence."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forcetune import service
from forcetune.errors import InputError, StoppedError
from forcetune.stores import ray_address

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT, ANSWER = 5, 60  # seconds
HERE = "/api/version"  # what is asked first: who does not answer that soon is not there


@contextmanager
def connected(address: str | None = None) -> Iterator[JobSubmissionClient]:
    """A client for the cluster at `address`, else RAY_ADDRESS, else the service of the current folder.

    Raises InputError where none of them is there, where it does not answer, where it refuses the token, and where it
    has another Ray; StoppedError where the connection breaks while something is followed.
    """
    wanted, headers = _address(address)
    with _answering(wanted):
        with _variable("RAY_API_SERVER_ADDRESS", wanted):  # which Ray takes before the address that it is given
            client = _client(wanted, headers)
        yield client


def _client(address: str, headers: dict[str, str]) -> JobSubmissionClient:
    import ray
    from ray.job_submission import JobSubmissionClient

    for chatty in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{chatty}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        """With limits of time: Ray's own waits for ever."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            limits = (CONNECT, CONNECT if endpoint == HERE else ANSWER)
            return super()._do_request(method, endpoint, **{"timeout": limits, **options})

    client = Client(address, headers=headers)
    if client._server_ray_version != ray.__version__:
        raise InputError(
            f"the client and the cluster differ: ray {ray.__version__} against {client._server_ray_version} on the "
            "cluster. Install the same on both; nothing was run"
        )
    return client


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """The environment with this variable, and afterwards as it was."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


@contextmanager
def _answering(address: str) -> Iterator[None]:
    """What the Jobs API may answer instead of what was asked for, as InputError."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise InputError(
            f"the Ray cluster at {address} refuses the token, or wants one; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH to the file that holds it"
        ) from None
    except (requests.RequestException, ConnectionError) as error:
        raise InputError(f"no Ray cluster answers at {address}: {_innermost(error)}") from None
    except (aiohttp.ClientError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "closed unexpectedly" not in str(error):
            raise
        raise StoppedError(f"the connection to the cluster at {address} broke; its jobs may go on") from None


def _address(given: str | None) -> tuple[str, dict[str, str]]:
    """Of the dashboard, and the header with the token where the service of this folder is meant.

    Of other clusters Ray finds the token by itself, by variables that it reads when it is imported.
    """
    chosen = given or ray_address()
    here = service.find()
    if not chosen and here is None:
        raise InputError(
            "no cluster is named: start one on this machine with `forcetune up`, or give the address of a dashboard "
            "with --address or RAY_ADDRESS (http://HOST:8265)"
        )
    if here is not None and (not chosen or chosen.rstrip("/") == here.ray):
        return here.ray, {"Authorization": f"Bearer {Path(here.token).read_text()}"}
    assert chosen
    if not chosen.startswith(("http://", "https://")):
        raise InputError(f"the address {chosen} is a cluster's own; jobs are sent to its dashboard: http://HOST:8265")
    return chosen.rstrip("/"), {}


def _innermost(error: BaseException) -> str:
    """What the socket said, of all that is wrapped around it."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error).partition("\n")[0]

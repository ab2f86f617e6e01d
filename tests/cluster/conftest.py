"""Real processes in a network of their own: a Ray cluster of two nodes, PostgreSQL, an MLflow server."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import NIGHTLY_YAML, SCORES_PY, Search
from servers import POSTGRESQL_PROGRAMS, Cluster, MLflowServer, PostgreSQL, write_secret
from shared_constants import REPOSITORY

CLONE_NEWNET = 0x40000000


@pytest.fixture(scope="package", autouse=True)
def network() -> Iterator[None]:
    """Give this thread and its processes a network with loopback alone, because Ray listens on every address."""
    libc = ctypes.CDLL(None, use_errno=True)
    previous_network = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET):
        pytest.skip(f"no separate network: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    yield
    libc.setns(previous_network, CLONE_NEWNET)
    os.close(previous_network)


@pytest.fixture(scope="package")
def environment() -> Iterator[dict[str, str]]:
    """Make the environment of all processes, with a home whose path is short enough for the sockets of Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "FORCETUNE_"))}
    home = tempfile.mkdtemp(prefix="ft", dir="/tmp")
    changes = {"HOME": home, "RAY_TMPDIR": home, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    changes["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where a job finds `python`
    changes |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(write_secret(Path(home) / "token"))}
    yield {**kept, **changes, "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="package")
def cluster(environment: dict[str, str], network: None) -> Iterator[Cluster]:
    """Start a Ray cluster of two nodes."""
    cluster = Cluster(environment)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def search(tmp_path: Path, environment: dict[str, str], empty_mlflow: Path) -> Iterator[Callable[..., Search]]:
    """Return a function that makes a search, which starts its own Ray unless `RAY_ADDRESS` is among its variables."""
    searches: list[Search] = []

    def make(variables: dict[str, str] | None = None, folder: Path | None = None, **changes: object) -> Search:
        searches.append(Search(folder or tmp_path / "study", {**environment, **(variables or {})}, **changes))
        shutil.copy(empty_mlflow, searches[-1].folder / "mlflow.db")
        return searches[-1]

    yield make
    for search in searches:
        search.close()


@pytest.fixture(scope="package")
def postgresql(network: None) -> Iterator[PostgreSQL]:
    """Start PostgreSQL 15 as an ordinary user."""
    if not POSTGRESQL_PROGRAMS.is_dir():
        pytest.fail(f"PostgreSQL 15 is not in {POSTGRESQL_PROGRAMS}: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    folder.chmod(0o755)
    server = PostgreSQL(folder / "server", 5433)
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def mlflow_server(tmp_path: Path, environment: dict[str, str], empty_mlflow: Path) -> Iterator[MLflowServer]:
    """Start an MLflow server on an empty store."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    server = MLflowServer(tmp_path, environment)
    yield server
    server.stop()


@pytest.fixture(scope="package")
def searched_study(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], empty_mlflow: Path, network: None
) -> Iterator[Search]:
    """Search a study whose method is the user's, and run two nights of it."""
    study = Search(
        tmp_path_factory.mktemp("nights") / "study",
        environment,
        trial={
            "model": "mlp",
            "width": 12,
            "epochs": 3,
            "method": ["scores:score", "random"],
            "density": [0.2, 0.1],
            "lr": 0.1,
        },
        search={"sampler": "grid"},
    )
    shutil.copy(empty_mlflow, study.folder / "mlflow.db")
    (study.folder / "scores.py").write_text(SCORES_PY.format(sign=""))
    (study.folder / "nightly.yaml").write_text(NIGHTLY_YAML)
    for command in ((), *(("nightly", "nightly.yaml", "--date", f"2026-11-{day:02}") for day in (1, 2))):
        process = study.start(*command)
        assert process.wait() == 0, process.output
    yield study
    study.close()


@pytest.fixture
def study_copy(searched_study: Search, tmp_path: Path) -> Iterator[Search]:
    """Copy the study after its two nights, so that each test can change it."""
    study = searched_study.with_folder(tmp_path / "study")
    for name in ("mlflow.db", "optuna.db", "scores.py", "nightly.yaml", "study.yaml"):
        shutil.copy(searched_study.folder / name, study.folder / name)
    yield study
    study.close()

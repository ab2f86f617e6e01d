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
from processes import NIGHTLY, ROOT, SCORES, Search
from servers import POSTGRESQL, Cluster, MLflowServer, PostgreSQL, secret

CLONE_NEWNET = 0x40000000


@pytest.fixture(scope="package", autouse=True)
def network() -> Iterator[None]:
    """A network with loopback alone for this thread and all that it starts: Ray listens on every address."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET):
        pytest.skip(f"no network of our own: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    yield
    libc.setns(before, CLONE_NEWNET)
    os.close(before)


@pytest.fixture(scope="package")
def environment() -> Iterator[dict[str, str]]:
    """A home of its own, with a short name since Ray's sockets lie in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "FORCETUNE_"))}
    home = tempfile.mkdtemp(prefix="ft", dir="/tmp")
    own = {"HOME": home, "RAY_TMPDIR": home, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    own["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # of a job's `python`
    own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(secret(Path(home) / "token"))}
    yield {**kept, **own, "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="package")
def cluster(environment: dict[str, str], network: None) -> Iterator[Cluster]:
    """Two nodes, both there."""
    found = Cluster(environment)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def search(tmp_path: Path, environment: dict[str, str], empty_mlflow: Path) -> Iterator[Callable[..., Search]]:
    """Make a search, on a Ray of its own unless `RAY_ADDRESS` is among the variables given."""
    made: list[Search] = []

    def make(variables: dict[str, str] | None = None, folder: Path | None = None, **changed: object) -> Search:
        made.append(Search(folder or tmp_path / "study", {**environment, **(variables or {})}, **changed))
        shutil.copy(empty_mlflow, made[-1].folder / "mlflow.db")
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="package")
def postgresql(network: None) -> Iterator[PostgreSQL]:
    """PostgreSQL 15, started as an ordinary user."""
    if not POSTGRESQL.is_dir():
        pytest.fail(f"PostgreSQL 15 is not in {POSTGRESQL}: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    folder.chmod(0o755)
    server = PostgreSQL(folder / "server", 5433)
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def mlflow_server(tmp_path: Path, environment: dict[str, str], empty_mlflow: Path) -> Iterator[MLflowServer]:
    """MLflow's own server, on an empty store."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    server = MLflowServer(tmp_path, environment)
    yield server
    server.stop()


@pytest.fixture(scope="package")
def searched(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], empty_mlflow: Path, network: None
) -> Iterator[Search]:
    """A study whose method is the user's own, searched, and two nights of it."""
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
    (study.folder / "scores.py").write_text(SCORES.format(sign=""))
    (study.folder / "nightly.yaml").write_text(NIGHTLY)
    for command in ((), *(("nightly", "nightly.yaml", "--date", f"2026-11-{day:02}") for day in (1, 2))):
        started = study.start(*command)
        assert started.wait() == 0, started.said
    yield study
    study.close()


@pytest.fixture
def branch(searched: Search, tmp_path: Path) -> Iterator[Search]:
    """The same two nights, from which tests go different ways."""
    made = searched.with_folder(tmp_path / "study")
    for name in ("mlflow.db", "optuna.db", "scores.py", "nightly.yaml", "study.yaml"):
        shutil.copy(searched.folder / name, made.folder / name)
    yield made
    made.close()

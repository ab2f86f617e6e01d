"""Real processes in a network of their own: a Ray cluster of two nodes, PostgreSQL, an MLflow server."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import ROOT, Search, kill_tree, spawn, until

CLONE_NEWNET = 0x40000000
POSTGRESQL = Path("/usr/lib/postgresql/15/bin")


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
    yield {**kept, **own, "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    shutil.rmtree(home, ignore_errors=True)


class Cluster:
    """A head and a second node, of one core each."""

    address = "127.0.0.1:6379"

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._log = open(Path(environment["HOME"]) / "ray.log", "wb")  # noqa: SIM115
        self._head = self._start("--head", "--port=6379", "--include-dashboard=false")
        self.second = self.add()

    def add(self) -> "subprocess.Popen[bytes]":
        """Start a second node; it joins some seconds later."""
        self.second = self._start(f"--address={self.address}")
        return self.second

    def lose(self) -> None:
        """Kill the second node with all that runs there."""
        kill_tree(self.second.pid)
        self.second.wait()

    def nodes(self) -> int:
        """How many are alive."""
        code = "import ray; ray.init(logging_level='ERROR'); print(sum(node['Alive'] for node in ray.nodes()))"
        variables = {**self._environment, "RAY_ADDRESS": self.address}
        asked = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
        return int(asked.stdout) if asked.returncode == 0 else 0

    def close(self) -> None:
        for node in (self.second, self._head):
            kill_tree(node.pid)
            node.wait()
        self._log.close()

    def _start(self, *options: str) -> "subprocess.Popen[bytes]":
        ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block", *options]
        size = ["--num-cpus=1", "--object-store-memory=80000000", "--node-ip-address=127.0.0.1"]
        return spawn(Path("/"), self._environment, [*ray, *size], self._log)


@pytest.fixture(scope="package")
def cluster(environment: dict[str, str], network: None) -> Iterator[Cluster]:
    """Two nodes, both there."""
    found = Cluster(environment)
    try:
        until(lambda: found.nodes() == 2, "two nodes", 90)
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


class PostgreSQL:
    """A server with a database for each of Optuna and MLflow."""

    def __init__(self, folder: Path, port: int) -> None:
        self._data = folder / "data"
        self._port = port
        self._user = "postgres" if os.geteuid() == 0 else None
        folder.mkdir()
        if self._user:
            shutil.chown(folder, self._user)
        self._run("initdb", "--username=postgres", "--auth=trust", "--no-sync")
        options = f"listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories='{folder}'\nfsync=off\n"
        with open(self._data / "postgresql.conf", "a") as file:
            file.write(options)
        self.start()

    def address(self, database: str) -> str:
        """Of a database, made where there is none."""
        made = f"postgresql://postgres@127.0.0.1:{self._port}/{database}"
        subprocess.run(
            [POSTGRESQL / "createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "postgres", database],
            capture_output=True,
            check=False,
        )
        return made

    def start(self) -> None:
        self._run("pg_ctl", "--wait", "--log", str(self._data / "log"), "start")

    def stop(self) -> None:
        """As a crash would: no connection is told."""
        self._run("pg_ctl", "--wait", "--mode=immediate", "stop")

    def _run(self, program: str, *options: str) -> None:
        command = [str(POSTGRESQL / program), f"--pgdata={self._data}", *options]
        subprocess.run(command, user=self._user, check=True, stdout=subprocess.DEVNULL, cwd="/")


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


class MLflowServer:
    """A server of MLflow on SQLite, for artifacts too."""

    address = "http://127.0.0.1:5001"

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "5001", "--workers", "1"]
        stores = ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db", "--artifacts-destination", "artifacts"]
        with open(self._folder / "server.log", "ab") as log:
            self._process = spawn(self._folder, self._environment, [*command, *stores], log)
        until(self._answers, "MLflow's server")

    def stop(self) -> None:
        kill_tree(self._process.pid)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def mlflow_server(tmp_path: Path, environment: dict[str, str], empty_mlflow: Path) -> Iterator[MLflowServer]:
    """MLflow's own server, on an empty store."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    server = MLflowServer(tmp_path, environment)
    yield server
    server.stop()

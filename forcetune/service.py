"""A small service on one machine: a Ray head with its dashboard and an MLflow server, on loopback alone."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil

from forcetune.errors import InputError, StoppedError
from forcetune.stores import absolute, is_postgresql, make_schema, password_apart, shown, sqlite_path
from forcetune.temporary import is_long, make_ray_folder

FOLDER = Path(".forcetune") / "service"  # below the folder in which it was started
LOOPBACK = "127.0.0.1"
START_LIMIT_S = 120.0  # that each process of a service may take to answer
ENDING = 40.0  # seconds that it gets to end by itself: Ray drains for 30
SAME = 60.0  # seconds by which a process's start may seem to move where the clock is set
WEEK = 7 * 24 * 3600  # for which Ray keeps the code of a job, so that it can be resumed


@dataclass(frozen=True)
class Service:
    """What runs, and where it is reached.

    ray, mlflow, metrics: http addresses (jobs and dashboard, tracking, Prometheus); storage, backend: of Optuna's and
    MLflow's store; token: the file with Ray's token; temporary: Ray's own folder; processes: the id of each and when
    it was started, by which it is known again.
    """

    ray: str
    mlflow: str
    metrics: str
    storage: str
    backend: str
    token: str
    temporary: str
    processes: Mapping[str, tuple[int, float]]

    @property
    def variables(self) -> dict[str, str]:
        """What a shell in another folder needs to reach it."""
        return {
            "RAY_ADDRESS": self.ray,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": self.token,
            "MLFLOW_TRACKING_URI": self.mlflow,
        }

    def alive(self) -> dict[str, psutil.Process]:
        """Those of its processes that still run."""
        found = {name: _process(*known) for name, known in self.processes.items()}
        return {name: process for name, process in found.items() if process}

    def exposed(self) -> list[tuple[str, str, int]]:
        """Where it can be reached from beyond loopback, which is nowhere: a process's name, the address, the port."""
        return sorted(
            (process.name(), each.laddr.ip, each.laddr.port)
            for process in trees(self.alive().values())
            for each in _connections(process)
            if each.status == psutil.CONN_LISTEN and not ip_address(each.laddr.ip.removeprefix("::ffff:")).is_loopback
        )


def find(folder: Path | None = None) -> Service | None:
    """The service that was started in a folder, the current one unless given, if all of it runs."""
    known = _read((folder or Path.cwd()) / FOLDER)
    return known if known and len(known.alive()) == len(known.processes) else None


def up(
    database: str | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    folder: Path | None = None,
    start_limit_s: float = START_LIMIT_S,
) -> tuple[Service, bool]:
    """Start the service of a folder, the current one unless given, or leave it as it runs; and whether it is new.

    The stores are mlflow.db, with mlruns/, and optuna.db in that folder, as of a search without a service, or two
    schemas of the PostgreSQL `database`; a password in its address goes to a file and nowhere else. cpus, gpus: that
    Ray counts, what the machine has unless given. start_limit_s: seconds that each process may take to answer.
    Raises InputError where the database cannot be used, StoppedError where something does not start; nothing is left
    running then.
    """
    place = (folder or Path.cwd()) / FOLDER
    with _alone(place):
        known = find(folder)
        if known:
            return known, False
        _end(place)
        try:
            starting = _Starting(place, place.parents[1], database, start_limit_s)
            return starting.start({"num-cpus": cpus, "num-gpus": gpus}), True
        except BaseException:
            _end(place)
            raise


def down(folder: Path | None = None) -> list[str]:
    """End what `up` started in a folder and nothing else; what that was. Its stores stay as they are."""
    place = (folder or Path.cwd()) / FOLDER
    if not place.is_dir():
        return []
    with _alone(place):
        ended = _end(place)
        for name in ("mlflow.log", "ray.log", "service.json~", "lock"):
            (place / name).unlink(missing_ok=True)
    with suppress(OSError):  # a search keeps something there: of a study named as this folder is, its checkpoints
        place.rmdir()
        place.parent.rmdir()
    return ended


class _Starting:
    """One start: its files, its environment, and its two processes."""

    def __init__(self, place: Path, folder: Path, database: str | None, start_limit_s: float) -> None:
        self._place = place
        self._start_limit_s = start_limit_s
        self._folder = folder
        self._processes: dict[str, tuple[int, float]] = {}
        self._backend = absolute(f"sqlite:///{folder}/mlflow.db")
        self._storage = absolute(f"sqlite:///{folder}/optuna.db")
        if database:
            self._backend, self._storage = _schemas(database, place / "pgpass")
        self._token = _secret(place / "token", secrets.token_hex(32))
        preferred = {"ray": 8265, "mlflow": 5000, "metrics": 8080, "agent": 52365}
        self._ports = {name: free_port(port) for name, port in preferred.items()}
        self._temporary, self._ray_folder = make_ray_folder()

    def start(self, sizes: Mapping[str, float | None]) -> Service:
        from forcetune import tracking  # here, since it is not wanted by who only looks for a service

        if path := sqlite_path(self._backend):
            tracking.make_tables(path, str(self._folder / "mlruns"))  # MLflow's server would leave a part if killed
        self._run("mlflow", self._mlflow())
        self._run("ray", self._ray(sizes), self._temporary.lock)
        self._temporary.release()  # Ray has the lock, and the folder is abandoned when Ray ends
        self._wait("mlflow", f"{self._address('mlflow')}/health")
        token = self._token.read_text()
        self._wait("ray", f"{self._address('ray')}/api/version", token)
        self._wait("ray", f"{self._address('agent')}/api/local_raylet_healthz", token)  # the last to be there
        return self._record()

    def _mlflow(self) -> list[str]:
        # files go straight to the folder, so that they are found there also when the server is down again
        stores = ["--backend-store-uri", self._backend, "--no-serve-artifacts"]
        artifacts = ["--default-artifact-root", str(self._folder / "mlruns")]
        address = ["--host", LOOPBACK, "--port", str(self._ports["mlflow"]), "--workers", "1"]
        return [sys.executable, "-m", "mlflow", "server", *address, *stores, *artifacts]

    def _ray(self, sizes: Mapping[str, float | None]) -> list[str]:
        options = {
            "node-ip-address": LOOPBACK,
            "port": free_port(6379),
            "dashboard-host": LOOPBACK,
            "dashboard-port": self._ports["ray"],
            "dashboard-agent-listen-port": self._ports["agent"],
            "ray-client-server-port": free_port(10001),
            "metrics-export-port": self._ports["metrics"],
            "temp-dir": str(self._ray_folder),
            **sizes,
        }
        given = [f"--{name}={value:g}" for name, value in options.items() if isinstance(value, float)]
        given += [f"--{name}={value}" for name, value in options.items() if isinstance(value, int | str)]
        ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
        return [*ray, *given]

    def _run(self, name: str, command: list[str], *inherited: int) -> None:
        with open(self._place / f"{name}.log", "wb") as log:
            started = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=inherited,
            )
        self._processes[name] = started.pid, psutil.Process(started.pid).create_time()
        self._record()

    def _environment(self) -> dict[str, str]:
        """Of both: what jobs inherit, which is why it holds paths of secrets and no secret."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        return {
            **inherited,
            **({"TMPDIR": str(self._temporary.path)} if is_long(tempfile.gettempdir()) else {}),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # of a job's `python`
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its name tells of one effect; another: loopback alone
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S": str(WEEK),
            "MLFLOW_TRACKING_URI": self._address("mlflow"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "FORCETUNE_STORAGE": self._storage,
            "FORCETUNE_STATE": str(self._folder / ".forcetune"),
        }

    def _wait(self, name: str, url: str, token: str | None = None) -> None:
        deadline = time.monotonic() + self._start_limit_s
        while not _answers(url, token):
            process = _process(*self._processes[name])
            if process is None or time.monotonic() > deadline:
                why = (
                    "has ended"
                    if process is None
                    else f"does not answer within {self._start_limit_s:g} s (--start-limit)"
                )
                log = self._place / f"{name}.log"
                raise StoppedError(f"{name} {why}; the end of its log:\n{_tail(log)}")
            time.sleep(0.2)

    def _address(self, name: str) -> str:
        return f"http://{LOOPBACK}:{self._ports[name]}"

    def _record(self) -> Service:
        service = Service(
            ray=self._address("ray"),
            mlflow=self._address("mlflow"),
            metrics=f"{self._address('metrics')}/metrics",
            storage=self._storage,
            backend=self._backend,
            token=str(self._token),
            temporary=str(self._temporary.path),
            processes=dict(self._processes),
        )
        part = self._place / "service.json~"
        part.write_text(json.dumps(asdict(service), indent=1))
        part.replace(self._place / "service.json")
        return service


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One start or end of a folder's service at a time."""
    while (lock := _locked(place)) is None:
        time.sleep(0.01)
    try:
        yield
    finally:
        os.close(lock)


def _locked(place: Path) -> int | None:
    """Return the descriptor of the folder's lock once it is ours; None where `down` has removed it meanwhile."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o700)
        lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except (FileExistsError, FileNotFoundError):
        return None
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        if os.fstat(lock).st_ino == os.stat(place / "lock").st_ino:
            return lock
    except FileNotFoundError:
        pass
    os.close(lock)
    return None


def _read(place: Path) -> Service | None:
    try:
        return Service(**json.loads((place / "service.json").read_text()))
    except FileNotFoundError:
        return None


def _end(place: Path) -> list[str]:
    """End what is left of a service with all below it, and take its secrets away."""
    known = _read(place)
    alive = known.alive() if known else {}
    everything = trees(alive.values())
    for process in alive.values():
        process.terminate()
    psutil.wait_procs(alive.values(), timeout=ENDING)
    for process in everything:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(everything, timeout=ENDING)
    if known:
        shutil.rmtree(known.temporary, ignore_errors=True)
    for name in ("service.json", "token", "pgpass"):
        (place / name).unlink(missing_ok=True)
    return list(alive)


def trees(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes and all below them."""
    found: list[psutil.Process] = []
    for process in processes:
        try:
            found += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def _process(number: int, started: float) -> psutil.Process | None:
    """The process of this id, if it is the one that was started then and not a later one."""
    try:
        process = psutil.Process(number)
        same = abs(process.create_time() - started) < SAME and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def _connections(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections(kind="inet"))
    except psutil.Error:  # it has just ended
        return []


def _schemas(database: str, passfile: Path) -> tuple[str, str]:
    """The addresses of MLflow's and Optuna's part of a PostgreSQL database, its password in a file."""
    if not is_postgresql(database):
        raise InputError(f"--database {shown(database)}: allowed: postgresql://USER@HOST/DATABASE")
    address, line = password_apart(database)
    if line:
        address += f"{'&' if '?' in address else '?'}passfile={_secret(passfile, line)}"
    return make_schema(address, "mlflow"), make_schema(address, "forcetune")


def _secret(path: Path, content: str) -> Path:
    """A file that its owner alone can read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(content)
    return path


def free_port(preferred: int) -> int:
    """That port, or a free one where it is taken."""
    for port in (preferred, 0):
        with closing(socket.socket()) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(one.getsockname()[1])
    raise StoppedError("no port is free")


def _answers(url: str, token: str | None) -> bool:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

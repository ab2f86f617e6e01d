"""A service on one machine: a Ray head with its dashboard and an MLflow server, on loopback alone."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path

import psutil

from forcetune.errors import InputError, StoppedError
from forcetune.local.processes import end_trees, find_process, http_status, list_connections, list_trees
from forcetune.locks import lock_file
from forcetune.state_files import write_whole
from forcetune.stores import absolute_uri, hide_password, is_postgresql, make_schema, split_password, sqlite_path
from forcetune.temporary import is_too_long, make_ray_folder

SERVICE_FOLDER = Path(".forcetune") / "service"  # below the folder in which the service was started
LOOPBACK = "127.0.0.1"
SERVICE_START_LIMIT_S = 120.0  # that each process of a service may take to answer
SERVICE_END_LIMIT_S = 40.0  # that processes may take to end by themselves: Ray drains for 30
JOB_CODE_KEPT_S = 7 * 24 * 3600  # for which Ray keeps the code of a job, so that the job can be resumed


@dataclass(frozen=True)
class Service:
    """The processes of a service, and the addresses at which they are reached.

    Attributes:
        ray: The http address of Ray's jobs and dashboard.
        mlflow: The http address of the MLflow server.
        metrics: The http address of the metrics for Prometheus.
        storage: The address of Optuna's store.
        backend: The address of MLflow's store.
        token: The path of the file with Ray's token.
        temporary: The path of Ray's own folder.
        processes: The id of each process and its start in seconds since 1970, which together identify it.
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
        """The environment variables with which a shell in another folder reaches the service."""
        return {
            "RAY_ADDRESS": self.ray,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": self.token,
            "MLFLOW_TRACKING_URI": self.mlflow,
        }

    def running_processes(self) -> dict[str, psutil.Process]:
        """Return the processes of the service that still run, by name."""
        processes = {name: find_process(*recorded) for name, recorded in self.processes.items()}
        return {name: process for name, process in processes.items() if process}

    def exposed_ports(self) -> list[tuple[str, str, int]]:
        """Return the ports that listen beyond loopback, none as a rule: process name, address and port of each."""
        return sorted(
            (process.name(), connection.laddr.ip, connection.laddr.port)
            for process in list_trees(self.running_processes().values())
            for connection in list_connections(process)
            if connection.status == psutil.CONN_LISTEN
            and not ip_address(connection.laddr.ip.removeprefix("::ffff:")).is_loopback
        )


def find(folder: Path | None = None) -> Service | None:
    """Return the service that was started in a folder, or None where not all of its processes run.

    Args:
        folder: The folder; None for the current one.

    Raises:
        InputError: The record of the service is not one of this version.
    """
    recorded = _read_service((folder or Path.cwd()) / SERVICE_FOLDER)
    return recorded if recorded and len(recorded.running_processes()) == len(recorded.processes) else None


def up(
    database: str | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    folder: Path | None = None,
    start_limit_s: float = SERVICE_START_LIMIT_S,
) -> tuple[Service, bool]:
    """Start the service of a folder, or leave it unchanged where it runs.

    The stores are mlflow.db, with mlruns/, and optuna.db in that folder, as those of a search without a service, or two
    schemas of a PostgreSQL database. A password in the database's address is written to one file and nowhere else.

    Args:
        database: The address of a PostgreSQL database for both stores; None for SQLite files.
        cpus: Cores that Ray counts; None for those of the machine.
        gpus: GPUs that Ray counts; None for those of the machine.
        folder: The folder; None for the current one.
        start_limit_s: Seconds that each process may take to answer.

    Returns:
        The service, and whether this call has started it.

    Raises:
        InputError: The database cannot be used, or the record of an earlier service is not one of this version.
        StoppedError: A process does not start; none is left running.
    """
    service_folder = (folder or Path.cwd()) / SERVICE_FOLDER
    with _service_lock(service_folder):
        running_service = find(folder)
        if running_service:
            return running_service, False
        _end_service(service_folder)
        try:
            starting = _ServiceStart(service_folder, service_folder.parents[1], database, start_limit_s)
            return starting.start({"num-cpus": cpus, "num-gpus": gpus}), True
        except BaseException:
            _end_service(service_folder)
            raise


def down(folder: Path | None = None) -> list[str]:
    """End the processes that `up` started in a folder, and nothing else. The stores stay as they are.

    Args:
        folder: The folder; None for the current one.

    Returns:
        The names of the processes that were ended.

    Raises:
        InputError: The record of the service is not one of this version; nothing is ended.
    """
    service_folder = (folder or Path.cwd()) / SERVICE_FOLDER
    if not service_folder.is_dir():
        return []
    with _service_lock(service_folder):
        ended = _end_service(service_folder)
        for name in ("mlflow.log", "ray.log", "service.json~", "lock"):
            (service_folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # not empty: a study called `service` keeps its checkpoints there
        service_folder.rmdir()
        service_folder.parent.rmdir()
    return ended


class _ServiceStart:
    """One start of a service: its files, its environment, and its two processes."""

    def __init__(self, service_folder: Path, folder: Path, database: str | None, start_limit_s: float) -> None:
        self._service_folder = service_folder
        self._start_limit_s = start_limit_s
        self._folder = folder
        self._processes: dict[str, tuple[int, float]] = {}
        self._backend = absolute_uri(f"sqlite:///{folder}/mlflow.db")
        self._storage = absolute_uri(f"sqlite:///{folder}/optuna.db")
        if database:
            self._backend, self._storage = _make_schemas(database, service_folder / "pgpass")
        self._token = _write_secret(service_folder / "token", secrets.token_hex(32))
        preferred = {"ray": 8265, "mlflow": 5000, "metrics": 8080, "agent": 52365}
        self._ports = {name: free_port(port) for name, port in preferred.items()}
        self._temporary, self._ray_folder = make_ray_folder()

    def start(self, sizes: Mapping[str, float | None]) -> Service:
        from forcetune import tracking  # slow to import, and not needed to look for a service

        if path := sqlite_path(self._backend):
            # the server would make the tables too, and leave a part of them if it is killed
            tracking.make_tables(path, str(self._folder / "mlruns"))
        self._run("mlflow", self._mlflow())
        self._run("ray", self._ray(sizes), self._temporary.lock)
        self._temporary.release()  # Ray has the lock, and the folder is abandoned when Ray ends
        self._wait("mlflow", f"{self._address('mlflow')}/health")
        token = self._token.read_text()
        self._wait("ray", f"{self._address('ray')}/api/version", token)
        self._wait("ray", f"{self._address('agent')}/api/local_raylet_healthz", token)  # the last one to answer
        return self._record()

    def _mlflow(self) -> list[str]:
        # artifacts go straight to the folder, so that they can be read when the server is down
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
        arguments = [f"--{name}={value:g}" for name, value in options.items() if isinstance(value, float)]
        arguments += [f"--{name}={value}" for name, value in options.items() if isinstance(value, int | str)]
        ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
        return [*ray, *arguments]

    def _run(self, name: str, command: list[str], *inherited: int) -> None:
        with open(self._service_folder / f"{name}.log", "wb") as log:
            process = psutil.Popen(
                command,
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=inherited,
            )
        self._processes[name] = process.pid, process.create_time()
        self._record()

    def _environment(self) -> dict[str, str]:
        """Return the environment of both processes. Jobs inherit it: it holds paths of secrets, but no secret."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        return {
            **inherited,
            **({"TMPDIR": str(self._temporary.path)} if is_too_long(tempfile.gettempdir()) else {}),
            # so that a job's `python` is this one
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name it also makes Ray listen on loopback alone
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S": str(JOB_CODE_KEPT_S),
            "MLFLOW_TRACKING_URI": self._address("mlflow"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "FORCETUNE_STORAGE": self._storage,
            "FORCETUNE_STATE": str(self._folder / ".forcetune"),
        }

    def _wait(self, name: str, url: str, token: str | None = None) -> None:
        deadline = time.monotonic() + self._start_limit_s
        while http_status(url, token) != 200:
            process = find_process(*self._processes[name])
            if process is None or time.monotonic() > deadline:
                problem = (
                    "has ended"
                    if process is None
                    else f"does not answer within {self._start_limit_s:g} s (--start-limit)"
                )
                log = self._service_folder / f"{name}.log"
                raise StoppedError(f"{name} {problem}; the end of its log:\n{_tail(log)}")
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
        write_whole(self._service_folder / "service.json", json.dumps(asdict(service), indent=1).encode())
        return service


@contextmanager
def _service_lock(service_folder: Path) -> Iterator[None]:
    """Hold the lock of a folder's service, so that one start or end runs at a time."""

    def make_folder() -> None:
        service_folder.mkdir(parents=True, exist_ok=True)
        service_folder.chmod(0o700)

    lock = lock_file(service_folder / "lock", True, make_folder, 0o600)
    assert lock is not None
    try:
        yield
    finally:
        os.close(lock)


def _read_service(service_folder: Path) -> Service | None:
    path = service_folder / "service.json"
    try:
        return Service(**json.loads(path.read_text()))
    except (FileNotFoundError, PermissionError):  # no service, or one of another account
        return None
    except (ValueError, TypeError) as error:  # no JSON, or the fields of another version
        raise InputError(
            f"{path} does not describe a service of this version of forcetune ({error}). End the service with the "
            "version that started it, or end its processes and delete the file"
        ) from error


def _end_service(service_folder: Path) -> list[str]:
    """End what is left of a service with all its descendants, and remove its secrets."""
    recorded = _read_service(service_folder)
    alive = recorded.running_processes() if recorded else {}
    end_trees(alive.values(), SERVICE_END_LIMIT_S)
    if recorded:
        shutil.rmtree(recorded.temporary, ignore_errors=True)
    for name in ("service.json", "token", "pgpass"):
        (service_folder / name).unlink(missing_ok=True)
    return list(alive)


def _make_schemas(database: str, passfile: Path) -> tuple[str, str]:
    """Return the addresses of MLflow's and Optuna's schema in a PostgreSQL database, without the password."""
    if not is_postgresql(database):
        raise InputError(f"--database {hide_password(database)}: allowed: postgresql://USER@HOST/DATABASE")
    address, line = split_password(database)
    if line:
        address += f"{'&' if '?' in address else '?'}passfile={_write_secret(passfile, line)}"
    return make_schema(address, "mlflow"), make_schema(address, "forcetune")


def _write_secret(path: Path, content: str) -> Path:
    """Write a file that its owner alone can read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(content)
    return path


def free_port(preferred: int) -> int:
    """Return the preferred port, or a free one where it is taken."""
    for port in (preferred, 0):
        with closing(socket.socket()) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise StoppedError("no port is free")


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

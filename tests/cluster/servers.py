"""Servers that a search can use: a Ray cluster of two nodes, PostgreSQL, MLflow."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from processes import kill_tree, spawn, wait_until

POSTGRESQL_PROGRAMS = Path("/usr/lib/postgresql/15/bin")


def write_secret(path: Path) -> Path:
    """Write a random secret to a file, and return the path."""
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    return path


class Cluster:
    """A head node and a second node with one core each; the second one claims two GPUs that it does not have."""

    # `ray start` refuses the address of any cluster on the machine, even one in another network: it reads command lines
    address = f"127.0.0.1:{6400 + os.getpid() % 1000}"
    dashboard = "http://127.0.0.1:8265"
    metrics = "http://127.0.0.1:8081/metrics"

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._log = open(Path(environment["HOME"]) / "ray.log", "wb")  # noqa: SIM115
        self.start_nodes()

    def start_nodes(self) -> None:
        """Start both nodes, and wait until they are alive."""
        self._head = self._start_node(
            "--head",
            f"--port={self.address.rpartition(':')[2]}",
            "--dashboard-host=127.0.0.1",
            "--metrics-export-port=8081",
        )
        self.second = self.start_second_node()
        wait_until(lambda: self.count_nodes() == 2, "two nodes")

    def start_second_node(self) -> "subprocess.Popen[bytes]":
        """Start a second node, which joins the cluster some seconds later, and return its process."""
        # Ray assumes that nodes share no folder: in a common one, a node unpacks a job's code over that of the other.
        options = [f"--temp-dir={self._environment['HOME']}/2", "--dashboard-agent-listen-port=52366"]
        self.second = self._start_node(f"--address={self.address}", "--num-gpus=2", *options)
        return self.second

    def replace_second_node(self) -> None:
        """Start a second node in place of one that was killed, and wait until the cluster has it."""
        self.start_second_node()
        wait_until(lambda: self.count_nodes() == 2, "the second node", interval=0.2)

    def kill_second_node(self) -> None:
        """Kill the second node and all processes on it."""
        kill_tree(self.second.pid)
        self.second.wait()

    def count_nodes(self) -> int:
        """Return the number of nodes that are alive; 0 while the dashboard does not answer."""
        token = Path(self._environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        address = f"{self.dashboard}/nodes?view=summary&nocache=1"
        query = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(query, timeout=30) as response:
                nodes = json.load(response)["data"]["summary"]
        except OSError:
            return 0
        return sum(node["raylet"]["state"] == "ALIVE" for node in nodes)

    def close(self) -> None:
        self.kill()
        self._log.close()

    def kill(self) -> None:
        """Kill both nodes and all processes on them."""
        for node in (self.second, self._head):
            kill_tree(node.pid)
            node.wait()

    def _start_node(self, *options: str) -> "subprocess.Popen[bytes]":
        ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block", *options]
        limits = ["--num-cpus=1", "--object-store-memory=80000000", "--node-ip-address=127.0.0.1"]
        variables = {"FORCETUNE_STATE": f"{self._environment['HOME']}/state"}  # because Ray deletes the folder of a job
        return spawn(Path("/"), {**self._environment, **variables}, [*ray, *limits], self._log)


class PostgreSQL:
    """A PostgreSQL server that asks for a password."""

    def __init__(self, folder: Path, port: int) -> None:
        self._data = folder / "data"
        self._port = port
        self._user = "postgres" if os.geteuid() == 0 else None
        folder.mkdir()
        if self._user:
            shutil.chown(folder, self._user)
        self.password = write_secret(folder / "password").read_text()
        if self._user:
            shutil.chown(folder / "password", self._user)
        authentication = ["--auth=scram-sha-256", f"--pwfile={folder}/password"]
        self._run("initdb", "--username=postgres", *authentication, "--no-sync")
        self._passfile = folder / "pgpass"
        self._passfile.touch(mode=0o600)
        self._passfile.write_text(f"*:*:*:postgres:{self.password}")
        options = f"listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories='{folder}'\nfsync=off\n"
        with open(self._data / "postgresql.conf", "a") as file:
            file.write(options)
        self.start()

    def make_address(self, database: str) -> str:
        """Create a database unless it exists, and return its address."""
        address = f"postgresql://postgres@127.0.0.1:{self._port}/{database}?passfile={self._passfile}"
        subprocess.run(
            [POSTGRESQL_PROGRAMS / "createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "postgres", database],
            capture_output=True,
            check=False,
            env={**os.environ, "PGPASSFILE": str(self._passfile)},
        )
        return address

    def make_address_with_password(self, database: str) -> str:
        """Create a database unless it exists, and return its address with the password in it."""
        address, _, _ = self.make_address(database).partition("?")
        return address.replace("postgres@", f"postgres:{self.password}@")

    def start(self) -> None:
        self._run("pg_ctl", "--wait", "--log", str(self._data / "log"), "start")

    def stop(self) -> None:
        """Stop the server as a crash would, with connections left open."""
        self._run("pg_ctl", "--wait", "--mode=immediate", "stop")

    def _run(self, program: str, *options: str) -> None:
        command = [str(POSTGRESQL_PROGRAMS / program), f"--pgdata={self._data}", *options]
        subprocess.run(command, user=self._user, check=True, stdout=subprocess.DEVNULL, cwd="/")


class MLflowServer:
    """An MLflow server, with SQLite as its default store; it stores artifacts too."""

    address = "http://127.0.0.1:5001"

    def __init__(self, folder: Path, environment: dict[str, str], store: str | None = None) -> None:
        self._folder = folder
        self._environment = environment
        self._store = store or f"sqlite:///{folder}/mlflow.db"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "5001", "--workers", "1"]
        stores = ["--backend-store-uri", self._store, "--artifacts-destination", "artifacts"]
        with open(self._folder / "server.log", "ab") as log:
            self._process = spawn(self._folder, self._environment, [*command, *stores], log)
        wait_until(self._is_ready, "MLflow's server")

    def stop(self) -> None:
        kill_tree(self._process.pid)
        self._process.wait()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

"""What a search may need around it: a Ray cluster of two nodes, PostgreSQL, a server of MLflow."""

import os
import re
import secrets
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from processes import kill_tree, spawn, until

POSTGRESQL = Path("/usr/lib/postgresql/15/bin")


def secret(path: Path) -> Path:
    """A file with a secret in it."""
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    return path


class Cluster:
    """A head and a second node, of one core each; the second is told of two GPUs that it does not have."""

    address = "127.0.0.1:6379"
    dashboard = "http://127.0.0.1:8265"
    metrics = "http://127.0.0.1:8081/metrics"

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._log = open(Path(environment["HOME"]) / "ray.log", "wb")  # noqa: SIM115
        self.begin()

    def begin(self) -> None:
        """Start both nodes, and wait until they are there."""
        self._head = self._start("--head", "--port=6379", "--dashboard-host=127.0.0.1", "--metrics-export-port=8081")
        self.second = self.add()
        until(lambda: self.nodes() == 2, "two nodes", 90)

    def add(self) -> "subprocess.Popen[bytes]":
        """Start a second node; it joins some seconds later."""
        # Ray takes for granted that nodes do not share a folder: one unpacks a job's code over the other's
        own = [f"--temp-dir={self._environment['HOME']}/2", "--dashboard-agent-listen-port=52366"]
        self.second = self._start(f"--address={self.address}", "--num-gpus=2", *own)
        return self.second

    def lose(self) -> None:
        """Kill the second node with all that runs there."""
        kill_tree(self.second.pid)
        self.second.wait()

    def nodes(self) -> int:
        """How many are alive."""
        code = "import ray; ray.init(logging_level='ERROR', log_to_driver=False); "
        code += "print('alive:', sum(node['Alive'] for node in ray.nodes()))"
        variables = {**self._environment, "RAY_ADDRESS": self.address}
        asked = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
        alive = re.search(r"^alive: (\d+)$", asked.stdout, re.MULTILINE)  # Ray may say something before and after
        return int(alive[1]) if alive else 0

    def close(self) -> None:
        self.kill()
        self._log.close()

    def kill(self) -> None:
        """End both nodes at once."""
        for node in (self.second, self._head):
            kill_tree(node.pid)
            node.wait()

    def _start(self, *options: str) -> "subprocess.Popen[bytes]":
        ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block", *options]
        size = ["--num-cpus=1", "--object-store-memory=80000000", "--node-ip-address=127.0.0.1"]
        own = {"FORCETUNE_STATE": f"{self._environment['HOME']}/state"}  # of jobs, whose folder is not kept
        return spawn(Path("/"), {**self._environment, **own}, [*ray, *size], self._log)


class PostgreSQL:
    """A server with a database for each of Optuna and MLflow."""

    def __init__(self, folder: Path, port: int) -> None:
        self._data = folder / "data"
        self._port = port
        self._user = "postgres" if os.geteuid() == 0 else None
        folder.mkdir()
        if self._user:
            shutil.chown(folder, self._user)
        self.password = secret(folder / "password").read_text()
        if self._user:
            shutil.chown(folder / "password", self._user)
        words = ["--auth=scram-sha-256", f"--pwfile={folder}/password"]
        self._run("initdb", "--username=postgres", *words, "--no-sync")
        self._passfile = folder / "pgpass"
        self._passfile.touch(mode=0o600)
        self._passfile.write_text(f"*:*:*:postgres:{self.password}")
        options = f"listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories='{folder}'\nfsync=off\n"
        with open(self._data / "postgresql.conf", "a") as file:
            file.write(options)
        self.start()

    def address(self, database: str) -> str:
        """Of a database, made where there is none."""
        made = f"postgresql://postgres@127.0.0.1:{self._port}/{database}?passfile={self._passfile}"
        subprocess.run(
            [POSTGRESQL / "createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "postgres", database],
            capture_output=True,
            check=False,
            env={**os.environ, "PGPASSFILE": str(self._passfile)},
        )
        return made

    def with_password(self, database: str) -> str:
        """The same with the password in it."""
        made, _, _ = self.address(database).partition("?")
        return made.replace("postgres@", f"postgres:{self.password}@")

    def start(self) -> None:
        self._run("pg_ctl", "--wait", "--log", str(self._data / "log"), "start")

    def stop(self) -> None:
        """As a crash would: no connection is told."""
        self._run("pg_ctl", "--wait", "--mode=immediate", "stop")

    def _run(self, program: str, *options: str) -> None:
        command = [str(POSTGRESQL / program), f"--pgdata={self._data}", *options]
        subprocess.run(command, user=self._user, check=True, stdout=subprocess.DEVNULL, cwd="/")


class MLflowServer:
    """A server of MLflow, on SQLite unless given another store; for artifacts too."""

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

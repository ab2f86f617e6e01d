"""A Slurm cluster of two nodes on loopback: munged, slurmctld and a slurmd for each node."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from processes import Search, kill_tree, wait_until

SLURM_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "srun")
BATCH_FILE = Path(__file__).parents[2] / "cluster" / "slurm" / "study.sbatch"
# Slurm resolves no address where the machine has none beside 127.0.0.1; this one is on the loopback device too.
SLURM_ADDRESS = "192.0.2.1"
# A job that was queued again starts once its old credentials have expired, after two minutes by default.
SLURM_CONF = """
ClusterName=forcetune
SlurmctldHost={host}({address})
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
KillWait=10
ReturnToService=2
NodeName=one NodeHostname={host} NodeAddr={address} Port=17001 CPUs=1 State=UNKNOWN
NodeName=two NodeHostname={host} NodeAddr={address} Port=17002 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def find_missing_slurm() -> str | None:
    """Return why no Slurm can be started on this machine; None where one can."""
    if os.geteuid():
        return "slurmd starts jobs as their users, for which it needs root"
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [program for program in SLURM_PROGRAMS if shutil.which(program, path=path) is None]
    return f"{', '.join(missing)} not installed: apt-get install slurm-wlm munge" if missing else None


class Slurm:
    """A Slurm cluster of two nodes with one core each."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        for name in ("state", "spool-one", "spool-two"):
            (folder / name).mkdir()
        conf = folder / "slurm.conf"
        conf.write_text(SLURM_CONF.format(host=socket.gethostname(), folder=folder, address=SLURM_ADDRESS))
        subprocess.run(["ip", "address", "add", f"{SLURM_ADDRESS}/32", "dev", "lo"], check=True)
        self.environment = {**environment, "SLURM_CONF": str(conf), "PATH": f"{environment['PATH']}:/usr/sbin"}
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        self._log = open(folder / "daemons.log", "wb")  # noqa: SIM115
        munge_files = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in ("pid-file", "log-file")]
        munge_files += [f"--socket={folder}/munge.socket", f"--key-file={key}", f"--seed-file={folder}/munge.seed"]
        self._processes = [self._start("munged", "--foreground", "--force", *munge_files)]
        wait_until((folder / "munge.socket").exists, "munged")
        self._processes.append(self._start("slurmctld", "-D", "-c"))
        self._processes += [self._start("slurmd", "-D", "-N", name) for name in ("one", "two")]
        try:
            wait_until(lambda: self._run("sinfo", "--noheader", "--format=%t %D") == "idle 2", "two idle nodes", 60)
        except AssertionError as error:
            logs = "".join(path.read_text() for path in folder.glob("*.log"))
            self.close()
            raise AssertionError(f"{error}\n{logs}") from None

    def submit(self, study: Search, *options: str) -> str:
        """Submit the study as a job, and return the job's number."""
        return self._run("sbatch", "--parsable", *options, str(BATCH_FILE), "study.yaml", study=study)

    def read_job(self, job: str) -> dict[str, str]:
        """Return the properties of a job, by the names that `scontrol` prints."""
        return dict(re.findall(r"(\w+)=(\S+)", self._run("scontrol", "show", "job", job)))

    def cancel(self, job: str) -> None:
        """Cancel a job, as a user does."""
        self._run("scancel", job)

    def close(self) -> None:
        """End all daemons and what they have started."""
        for process in reversed(self._processes):
            kill_tree(process.pid)
            process.wait()
        subprocess.run(["ip", "address", "delete", f"{SLURM_ADDRESS}/32", "dev", "lo"], check=True)
        self._log.close()

    def _start(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command, cwd=self._folder, env=self.environment, stdout=self._log, stderr=subprocess.STDOUT
        )

    def _run(self, *command: str, study: Search | None = None) -> str:
        variables = {**self.environment, **(study.environment if study else {})}
        variables |= {
            "SLURM_CONF": self.environment["SLURM_CONF"],
            "RAY_START_OPTIONS": "--object-store-memory=80000000",
        }
        result = subprocess.run(
            command, cwd=study.folder if study else None, env=variables, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout.strip()

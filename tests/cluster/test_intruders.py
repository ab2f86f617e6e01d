"""Who has another account on the machine gets nowhere, whatever the temporary folder is called."""

import json
import os
import re
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
from intruder import break_in
from processes import descendants, until

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")]

SESSION = re.compile(r"(/\S+?)/session_\d[\d_-]+")


@pytest.fixture
def long_folder(tmp_path):
    """A TMPDIR as Slurm sets it, too long for the addresses of Ray's sockets."""
    folder = tmp_path / "scratch" / ("job" * 20)
    folder.mkdir(parents=True)
    return folder


def ray_folders(process):
    """Where the Rays below a process keep their files."""
    words = [word for one in descendants(process) if psutil.pid_exists(one) for word in psutil.Process(one).cmdline()]
    return {Path(folder) for word in words for folder in SESSION.findall(word)}


def is_loopback(address):
    return ip_address(address.removeprefix("::ffff:")).is_loopback


def listening_beyond(process):
    """Addresses beyond loopback at which a process or one below it listens."""
    return {
        connection.laddr
        for one in descendants(process)
        if psutil.pid_exists(one)
        for connection in psutil.Process(one).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip)
    }


@pytest.mark.parametrize("address", ["", "local"])
def test_nobody_gets_into_a_search(search, long_folder, address):
    study = search({"TMPDIR": str(long_folder), "RAY_TMPDIR": "", "RAY_AUTH_MODE": "", "RAY_ADDRESS": address})
    driver = study.start()
    study.at_work()
    (folder,) = ray_folders(driver.process.pid)
    assert break_in(folder) == []
    assert listening_beyond(driver.process.pid) == set()
    tokens = {psutil.Process(one).environ().get("RAY_AUTH_MODE") for one in descendants(driver.process.pid)[1:]}
    assert "token" in tokens
    driver.kill()
    assert folder.exists()
    study.hurry()
    again = study.start()
    assert again.wait() == 0, again.said
    study.check_promise()
    assert not folder.exists(), "the next start clears what a killed driver left"
    assert not list(long_folder.glob("forcetune-*"))


def test_nobody_gets_into_the_service(search, long_folder):
    study = search({"TMPDIR": str(long_folder), "RAY_TMPDIR": ""})
    started = study.start("up")
    assert started.wait() == 0, started.said
    record = json.loads((study.folder / ".forcetune" / "service" / "service.json").read_text())
    (folder,) = ray_folders(record["processes"]["ray"][0])
    job = study.start("submit", "study.yaml")
    assert job.wait() == 0, job.said
    until(lambda: list(folder.glob("*/runtime_resources/working_dir_files/_ray_pkg_*")), "the code of the job")
    assert break_in(folder) == []
    study.at_work()
    other = study.with_folder(study.folder.with_name("other")).start("submit", "nothing.yaml")
    assert other.wait() == 2, "another start, which clears what is abandoned"
    assert folder.exists()
    ended = study.start("down")
    assert ended.wait() == 0, ended.said
    assert not folder.exists()

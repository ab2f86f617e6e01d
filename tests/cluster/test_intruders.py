"""Protection of a search and a service against other accounts of the machine."""

import json
import os
import re
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
from intruder import break_in
from processes import list_descendants, wait_until

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")]

RAY_SESSION_PATH = re.compile(r"(/\S+?)/session_\d[\d_-]+")


@pytest.fixture
def long_folder(tmp_path):
    """Make a folder like the TMPDIR of Slurm, whose path is too long for the sockets of Ray."""
    folder = tmp_path / "scratch" / ("job" * 20)
    folder.mkdir(parents=True)
    return folder


def find_ray_folders(process):
    """Return the folders of all Ray sessions that were started below a process."""
    words = [
        word
        for child in list_descendants(process)
        if psutil.pid_exists(child)
        for word in psutil.Process(child).cmdline()
    ]
    return {Path(folder) for word in words for folder in RAY_SESSION_PATH.findall(word)}


def is_loopback(address):
    return ip_address(address.removeprefix("::ffff:")).is_loopback


def find_outside_listeners(process):
    """Return the addresses other than loopback at which a process or one below it listens."""
    return {
        connection.laddr
        for child in list_descendants(process)
        if psutil.pid_exists(child)
        for connection in psutil.Process(child).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip)
    }


@pytest.mark.parametrize("address", ["", "local"])
def test_nobody_gets_into_a_search(search, long_folder, address):
    study = search({"TMPDIR": str(long_folder), "RAY_TMPDIR": "", "RAY_AUTH_MODE": "", "RAY_ADDRESS": address})
    driver = study.start()
    study.wait_for_training()
    (folder,) = find_ray_folders(driver.process.pid)
    assert break_in(folder) == []
    assert find_outside_listeners(driver.process.pid) == set()
    tokens = {
        psutil.Process(child).environ().get("RAY_AUTH_MODE") for child in list_descendants(driver.process.pid)[1:]
    }
    assert "token" in tokens
    driver.kill()
    assert folder.exists()
    study.hurry()
    next_driver = study.start()
    assert next_driver.wait() == 0, next_driver.output
    study.check_promise()
    assert not folder.exists(), "the next start deletes the folder of a killed driver"
    assert not list(long_folder.glob("forcetune-*"))


def test_nobody_gets_into_the_service(search, long_folder):
    study = search({"TMPDIR": str(long_folder), "RAY_TMPDIR": ""})
    up = study.start("up")
    assert up.wait() == 0, up.output
    record = json.loads((study.folder / ".forcetune" / "service" / "service.json").read_text())
    (folder,) = find_ray_folders(record["processes"]["ray"][0])
    job = study.start("submit", "study.yaml")
    assert job.wait() == 0, job.output
    wait_until(lambda: list(folder.glob("*/runtime_resources/working_dir_files/_ray_pkg_*")), "the code of the job")
    assert break_in(folder) == []
    study.wait_for_training()
    refused = study.with_folder(study.folder.with_name("other")).start("submit", "nothing.yaml")
    assert refused.wait() == 2, "a start that deletes abandoned folders"
    assert folder.exists()
    down = study.start("down")
    assert down.wait() == 0, down.output
    assert not folder.exists()

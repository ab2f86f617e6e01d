"""The service on one machine; tests/cluster starts real ones."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from forcetune.errors import InputError
from forcetune.local import service


@pytest.fixture
def sleeper():
    """A process that would be ended."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def record(folder, processes):
    place = folder / service.SERVICE_FOLDER
    place.mkdir(parents=True)
    fields = dict.fromkeys(("ray", "mlflow", "metrics", "storage", "backend"), "http://127.0.0.1:1")
    temporary = folder / "temporary"
    temporary.mkdir()
    kept = {**fields, "token": str(place / "token"), "temporary": str(temporary), "processes": processes}
    (place / "service.json").write_text(json.dumps(kept))
    (place / "token").write_text("secret")
    return place


def test_down_ends_what_was_started_and_its_secrets(tmp_path, sleeper):
    place = record(tmp_path, {"ray": [sleeper.pid, psutil.Process(sleeper.pid).create_time()]})
    assert service.find(tmp_path).token == str(place / "token")
    assert service.down(tmp_path) == ["ray"]
    assert not psutil.pid_exists(sleeper.pid)
    assert not place.exists()
    assert not (tmp_path / "temporary").exists()
    assert service.down(tmp_path) == []


def test_down_leaves_the_checkpoints_of_a_study_with_the_name_of_its_folder(tmp_path):
    """Earlier versions kept them in .forcetune/STUDY."""
    place = record(tmp_path, {})
    checkpoint = place / "0001" / "1" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    service.down(tmp_path)
    assert [path for path in place.rglob("*") if path.is_file()] == [checkpoint]


def test_a_lock_that_down_has_removed_keeps_nobody_out(tmp_path, monkeypatch):
    """Who opens the file before `down` removes it, and locks it afterwards, begins anew."""
    place, flock, calls = record(tmp_path, {}), fcntl.flock, []

    def lock_late(file, how):
        calls.append(file)
        if len(calls) == 1:
            (place / "lock").unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with service._service_lock(place):
        assert (place / "lock").exists()
    assert len(calls) == 2


def test_down_leaves_a_process_that_has_come_by_the_same_number(tmp_path, sleeper):
    record(tmp_path, {"ray": [sleeper.pid, psutil.Process(sleeper.pid).create_time() - 600]})
    assert service.find(tmp_path) is None
    assert service.down(tmp_path) == []
    time.sleep(0.2)
    assert sleeper.poll() is None


def test_a_service_of_which_a_part_died_is_not_found(tmp_path, sleeper):
    alive = [sleeper.pid, psutil.Process(sleeper.pid).create_time()]
    record(tmp_path, {"ray": alive, "mlflow": [os.getpid(), 0.0]})
    assert service.find(tmp_path) is None
    assert service.down(tmp_path) == ["ray"]


def test_another_port_where_one_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert service.free_port(port) != port
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert service.free_port(port) == port


@pytest.mark.parametrize(
    ("database", "message"),
    [
        (
            "mysql://me:secret@host/db",
            r"--database mysql://me:\*\*\*@host/db: allowed: postgresql://USER@HOST/DATABASE",
        ),
        ("postgresql://me:secret@127.0.0.1:1/db", r"the database postgresql://\S+ cannot be used: .*[Rr]efused"),
    ],
)
def test_a_database_that_cannot_be_used_is_refused_and_nothing_is_left(tmp_path, database, message):
    with pytest.raises(InputError, match=message) as refused:
        service.up(database, folder=tmp_path)
    assert "secret" not in str(refused.value)
    assert service.find(tmp_path) is None
    assert not (tmp_path / service.SERVICE_FOLDER / "token").exists()


@pytest.mark.parametrize(
    ("address", "exposed"),
    [("127.0.0.1", False), ("::1", False), ("::ffff:127.0.0.1", False), ("0.0.0.0", True), ("::", True)],
)
def test_what_listens_beyond_loopback_is_noticed(tmp_path, sleeper, monkeypatch, address, exposed):
    listening = SimpleNamespace(status=psutil.CONN_LISTEN, laddr=SimpleNamespace(ip=address, port=8265))
    connected = SimpleNamespace(status=psutil.CONN_ESTABLISHED, laddr=SimpleNamespace(ip="192.0.2.1", port=40000))
    monkeypatch.setattr(service, "_connections", lambda process: [listening, connected])
    record(tmp_path, {"ray": [sleeper.pid, psutil.Process(sleeper.pid).create_time()]})
    found = service.find(tmp_path).exposed_ports()
    assert [(ip, port) for _, ip, port in found] == ([(address, 8265)] if exposed else [])

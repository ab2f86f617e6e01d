"""The service on one machine, without its real processes, which tests/cluster starts."""

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
    """Yield a process that `down` may end."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def write_record(folder, processes):
    service_folder = folder / service.SERVICE_FOLDER
    service_folder.mkdir(parents=True)
    fields = dict.fromkeys(("ray", "mlflow", "metrics", "storage", "backend"), "http://127.0.0.1:1")
    temporary = folder / "temporary"
    temporary.mkdir()
    content = {**fields, "token": str(service_folder / "token"), "temporary": str(temporary), "processes": processes}
    (service_folder / "service.json").write_text(json.dumps(content))
    (service_folder / "token").write_text("secret")
    return service_folder


def test_down_ends_the_processes_and_removes_the_secrets(tmp_path, sleeper):
    service_folder = write_record(tmp_path, {"ray": [sleeper.pid, psutil.Process(sleeper.pid).create_time()]})
    assert service.find(tmp_path).token == str(service_folder / "token")
    assert service.down(tmp_path) == ["ray"]
    assert sleeper.poll() is not None
    assert not service_folder.exists()
    assert not (tmp_path / "temporary").exists()
    assert service.down(tmp_path) == []


def test_down_leaves_the_checkpoints_of_a_study_with_the_name_of_its_folder(tmp_path):
    """Remove the service beside the checkpoints that earlier versions kept in .forcetune/STUDY."""
    service_folder = write_record(tmp_path, {})
    checkpoint = service_folder / "0001" / "1" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    service.down(tmp_path)
    assert [path for path in service_folder.rglob("*") if path.is_file()] == [checkpoint]


def test_a_lock_file_that_down_has_removed_is_opened_anew(tmp_path, monkeypatch):
    """Lock a file that `down` removed after it was opened: the lock opens the new file."""
    service_folder, flock, calls = write_record(tmp_path, {}), fcntl.flock, []

    def lock_late(file, operation):
        calls.append(file)
        if len(calls) == 1:
            (service_folder / "lock").unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with service._service_lock(service_folder):
        assert (service_folder / "lock").exists()
    assert len(calls) == 2


def test_down_leaves_a_later_process_with_the_same_id(tmp_path, sleeper):
    write_record(tmp_path, {"ray": [sleeper.pid, psutil.Process(sleeper.pid).create_time() - 600]})
    assert service.find(tmp_path) is None
    assert service.down(tmp_path) == []
    time.sleep(0.2)
    assert sleeper.poll() is None


@pytest.mark.parametrize("content", ["{", "[]", '{"ray": "http://127.0.0.1:1"}'])
def test_a_record_of_another_version_is_refused_and_kept(tmp_path, content):
    service_folder = write_record(tmp_path, {})
    (service_folder / "service.json").write_text(content)
    for command in (service.find, service.down, lambda folder: service.up(folder=folder)):
        with pytest.raises(InputError, match=r"service.json does not describe a service of this version"):
            command(tmp_path)
    assert (service_folder / "service.json").read_text() == content


def test_a_service_with_a_dead_process_is_not_found(tmp_path, sleeper):
    alive = [sleeper.pid, psutil.Process(sleeper.pid).create_time()]
    write_record(tmp_path, {"ray": alive, "mlflow": [os.getpid(), 0.0]})
    assert service.find(tmp_path) is None
    assert service.down(tmp_path) == ["ray"]


def test_a_taken_port_is_replaced_by_a_free_one():
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
    with pytest.raises(InputError, match=message) as error:
        service.up(database, folder=tmp_path)
    assert "secret" not in str(error.value)
    assert service.find(tmp_path) is None
    assert not (tmp_path / service.SERVICE_FOLDER / "token").exists()


@pytest.mark.parametrize(
    ("address", "is_exposed"),
    [("127.0.0.1", False), ("::1", False), ("::ffff:127.0.0.1", False), ("0.0.0.0", True), ("::", True)],
)
def test_a_port_beyond_loopback_is_noticed(tmp_path, sleeper, monkeypatch, address, is_exposed):
    listening = SimpleNamespace(status=psutil.CONN_LISTEN, laddr=SimpleNamespace(ip=address, port=8265))
    connected = SimpleNamespace(status=psutil.CONN_ESTABLISHED, laddr=SimpleNamespace(ip="192.0.2.1", port=40000))
    monkeypatch.setattr(service, "list_connections", lambda process: [listening, connected])
    write_record(tmp_path, {"ray": [sleeper.pid, psutil.Process(sleeper.pid).create_time()]})
    ports = service.find(tmp_path).exposed_ports()
    assert [(ip, port) for _, ip, port in ports] == ([(address, 8265)] if is_exposed else [])

"""The lock that allows a study one driver, on a file; tests/cluster tests it on a server."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from forcetune.errors import HeldError, InputError
from forcetune.ledger.driver_lock import driver_lock


def test_a_locked_study_is_refused_with_the_name_of_its_holder(folder):
    with driver_lock("s", "sqlite:///optuna.db"):
        with pytest.raises(HeldError, match=f"another driver has the study 's': process {os.getpid()} on"):
            driver_lock("s", "sqlite:///optuna.db").__enter__()
        with driver_lock("other", "sqlite:///optuna.db"):
            pass
    with driver_lock("s", "sqlite:///optuna.db"):
        pass
    assert not (folder / ".forcetune").exists(), "nothing is left on disk"


def test_the_lock_ends_with_its_holder(folder):
    code = """
import os
from forcetune.ledger.driver_lock import driver_lock
driver_lock("s", "sqlite:///optuna.db").__enter__()
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with driver_lock("s", "sqlite:///optuna.db"):
        pass


def test_a_driver_that_waits_gets_the_lock(folder):
    first, entered = driver_lock("s", "sqlite:///optuna.db"), threading.Event()

    def wait():
        with driver_lock("s", "sqlite:///optuna.db", wait=True):
            entered.set()

    with first:
        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(0.5)
    thread.join(10)
    assert entered.is_set()


def test_a_lock_on_a_file_that_its_holder_has_removed_keeps_no_driver_out(folder, monkeypatch):
    """A driver that opens the file before its holder removes it, and locks it afterwards, starts again."""
    first, flock, calls = driver_lock("s", "sqlite:///optuna.db"), fcntl.flock, []
    first.__enter__()

    def lock_late(file, operation):
        if not calls.append(file) and len(calls) == 1:
            first.__exit__()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with driver_lock("s", "sqlite:///optuna.db"), pytest.raises(HeldError):
        driver_lock("s", "sqlite:///optuna.db").__enter__()
    assert len(calls) == 3


def test_many_drivers_at_once_are_refused_or_get_the_lock(folder):
    """The last holder removes the folder of the lock, perhaps while another driver makes a lock in it."""
    inside, errors = [], []

    def come_and_go():
        for _ in range(300):
            try:
                with driver_lock("s", "sqlite:///optuna.db"):
                    inside.append(1)
                    if len(inside) > 1:
                        errors.append("two are in")
                    inside.pop()
            except HeldError:
                continue
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_full_disk_leaves_no_lock(folder, monkeypatch):
    def fail(descriptor, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(os, "write", fail)
        with pytest.raises(InputError, match="No space left"):
            driver_lock("s", "sqlite:///optuna.db").__enter__()
    with driver_lock("s", "sqlite:///optuna.db"):
        pass


def test_a_missing_folder_is_named(folder):
    with pytest.raises(InputError, match="nowhere/optuna.db cannot be used: .*No such file"):
        driver_lock("s", "sqlite:///nowhere/optuna.db").__enter__()


def test_postgresql_without_its_driver(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"needs `pip install forcetune\[postgresql\]`"):
        driver_lock("s", "postgresql://user:secret@localhost/optuna").__enter__()


def test_a_server_that_does_not_answer(folder):
    with pytest.raises(InputError, match="user:\\*\\*\\*@127.0.0.1:9/optuna cannot be used") as refused:
        driver_lock("s", "postgresql://user:secret@127.0.0.1:9/optuna").__enter__()
    assert "secret" not in str(refused.value)

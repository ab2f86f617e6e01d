"""One driver a study, on a file; tests/cluster does the same on a server."""

import fcntl
import os
import subprocess
import sys
import threading

import pytest

from forcetune.errors import HeldError, InputError
from forcetune.ledger.driver_lock import driver_lock


def test_a_held_study_is_refused_and_says_by_whom(folder):
    with driver_lock("s", "sqlite:///optuna.db"):
        with pytest.raises(HeldError, match=f"another driver has the study 's': process {os.getpid()} on"):
            driver_lock("s", "sqlite:///optuna.db").__enter__()
        with driver_lock("other", "sqlite:///optuna.db"):
            pass
    with driver_lock("s", "sqlite:///optuna.db"):
        pass
    assert not (folder / ".forcetune").exists(), "nothing is left on disk"


def test_the_hold_dies_with_its_holder(folder):
    code = """
import os
from forcetune.ledger.driver_lock import driver_lock
driver_lock("s", "sqlite:///optuna.db").__enter__()
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with driver_lock("s", "sqlite:///optuna.db"):
        pass


def test_who_waits_gets_it(folder):
    first, entered = driver_lock("s", "sqlite:///optuna.db"), threading.Event()

    def wait():
        with driver_lock("s", "sqlite:///optuna.db", wait=True):
            entered.set()

    with first:
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.5)
    waiting.join(10)
    assert entered.is_set()


def test_a_lock_on_a_file_that_its_holder_has_removed_keeps_nobody_out(folder, monkeypatch):
    """Who opens the file before its holder removes it, and locks it afterwards, begins anew."""
    first, flock, calls = driver_lock("s", "sqlite:///optuna.db"), fcntl.flock, []
    first.__enter__()

    def lock_late(file, how):
        if not calls.append(file) and len(calls) == 1:
            first.__exit__()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with driver_lock("s", "sqlite:///optuna.db"), pytest.raises(HeldError):
        driver_lock("s", "sqlite:///optuna.db").__enter__()
    assert len(calls) == 3


def test_many_that_come_and_go_are_refused_or_let_in(folder):
    """The folder of the lock goes with its last holder, perhaps while another makes a lock in it."""
    inside, wrong = [], []

    def come_and_go():
        for _ in range(300):
            try:
                with driver_lock("s", "sqlite:///optuna.db"):
                    inside.append(1)
                    if len(inside) > 1:
                        wrong.append("two are in")
                    inside.pop()
            except HeldError:
                continue
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_folder_that_is_not_there_is_told(folder):
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

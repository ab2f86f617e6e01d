"""One driver a study, on a file; tests/cluster does the same on a server."""

import os
import subprocess
import sys
import threading

import pytest

from forcetune.errors import HeldError, InputError
from forcetune.search.hold import hold


def test_a_held_study_is_refused_and_says_by_whom(folder):
    with hold("s", "sqlite:///optuna.db"):
        with pytest.raises(HeldError, match=f"'s' is held by another driver: process {os.getpid()} on"):
            hold("s", "sqlite:///optuna.db").__enter__()
        with hold("other", "sqlite:///optuna.db"):
            pass
    with hold("s", "sqlite:///optuna.db"):
        pass
    assert not (folder / ".forcetune").exists(), "nothing is left on disk"


def test_the_hold_dies_with_its_holder(folder):
    code = (
        "import os; from forcetune.search.hold import hold; hold('s', 'sqlite:///optuna.db').__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with hold("s", "sqlite:///optuna.db"):
        pass


def test_who_waits_gets_it(folder):
    first, entered = hold("s", "sqlite:///optuna.db"), threading.Event()

    def wait():
        with hold("s", "sqlite:///optuna.db", wait=True):
            entered.set()

    with first:
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.5)
    waiting.join(10)
    assert entered.is_set()


def test_postgresql_without_its_driver(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"needs `pip install forcetune\[postgresql\]`"):
        hold("s", "postgresql://user:secret@localhost/optuna").__enter__()


def test_a_server_that_does_not_answer(folder):
    with pytest.raises(InputError, match="user:\\*\\*\\*@127.0.0.1:9/optuna cannot be used") as refused:
        hold("s", "postgresql://user:secret@127.0.0.1:9/optuna").__enter__()
    assert "secret" not in str(refused.value)

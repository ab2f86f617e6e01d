"""A Ray of this process: how it is started on a loaded machine, and what is said where its head is gone."""

import socket

import pytest

from forcetune.errors import StoppedError
from forcetune.execution import environment

environment.prepare()  # what Ray reads while it is imported

import ray  # noqa: E402

from forcetune.execution import connection  # noqa: E402


@pytest.fixture
def starts(monkeypatch):
    """Return a function that lets Ray fail to start so many times, and the list of its starts."""
    calls = []

    def prepare(failures):
        def init(*arguments, **options):
            calls.append(arguments)
            if len(calls) <= failures:
                raise Exception("The current node timed out during startup.\nMore lines.")

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        return calls

    return prepare


def test_ray_gets_another_try_on_a_loaded_machine(starts):
    calls = starts(failures=connection.START_TRIES - 1)
    connection._start_own_ray()
    assert calls == [("local",)] * connection.START_TRIES


def test_a_ray_that_never_starts_is_told_in_a_sentence(starts):
    starts(failures=100)
    with pytest.raises(StoppedError, match="did not start on this machine in 3 tries .The current node timed out"):
        connection._start_own_ray()


class Exited(BaseException):
    pass


@pytest.fixture
def heartbeat(monkeypatch):
    """Return a heartbeat of a head that listens, its socket, and the codes with which it ended the process."""
    codes = []

    def end(code):
        codes.append(code)
        raise Exited

    monkeypatch.setattr(connection, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(connection.os, "_exit", end)
    with socket.create_server(("127.0.0.1", 0)) as head:
        yield connection.RayHeartbeat(f"127.0.0.1:{head.getsockname()[1]}", patience_s=0.2), head, codes


def test_a_head_that_answers_is_left_alone(heartbeat):
    beat, head, codes = heartbeat
    head.settimeout(5)
    with beat:
        for _ in range(3):
            head.accept()[0].close()
    assert codes == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # in place of the process's end
def test_a_head_that_is_gone_ends_the_process_with_a_sentence(heartbeat, capsys):
    beat, head, codes = heartbeat
    head.close()
    with beat:
        beat._thread.join(5)
    assert codes == [1]
    assert "is gone (Connection refused)" in capsys.readouterr().err

"""A Ray of this process: its start on a loaded machine, and the message when its head is gone."""

import socket

import pytest

from forcetune.errors import StoppedError
from forcetune.execution import environment

environment.prepare()  # Ray reads these variables while it is imported

import ray  # noqa: E402

from forcetune.execution import connection  # noqa: E402


@pytest.fixture
def make_starts_fail(monkeypatch):
    """Return a function that lets the first starts of Ray fail and returns the list of all starts."""
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


def test_ray_gets_another_try_on_a_loaded_machine(make_starts_fail):
    calls = make_starts_fail(failures=connection.START_TRIES - 1)
    connection._start_own_ray()
    assert calls == [("local",)] * connection.START_TRIES


def test_a_ray_that_never_starts_ends_with_one_sentence(make_starts_fail):
    make_starts_fail(failures=100)
    with pytest.raises(StoppedError, match="did not start on this machine in 3 tries .The current node timed out"):
        connection._start_own_ray()


class Exited(BaseException):
    pass


@pytest.fixture
def heartbeat(monkeypatch):
    """Yield a heartbeat, the listening socket of its head, and the list of exit codes of the process."""
    exit_codes = []

    def end(code):
        exit_codes.append(code)
        raise Exited

    monkeypatch.setattr(connection, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(connection.os, "_exit", end)
    with socket.create_server(("127.0.0.1", 0)) as head:
        yield connection.RayHeartbeat(f"127.0.0.1:{head.getsockname()[1]}", patience_s=0.2), head, exit_codes


def test_a_head_that_answers_is_left_alone(heartbeat):
    ray_heartbeat, head, exit_codes = heartbeat
    head.settimeout(5)
    with ray_heartbeat:
        for _ in range(3):
            head.accept()[0].close()
    assert exit_codes == []


# The exception in the thread stands for the end of the process.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_head_that_is_gone_ends_the_process_with_a_sentence(heartbeat, capsys):
    ray_heartbeat, head, exit_codes = heartbeat
    head.close()
    with ray_heartbeat:
        ray_heartbeat._thread.join(5)
    assert exit_codes == [1]
    assert "is gone (Connection refused)" in capsys.readouterr().err

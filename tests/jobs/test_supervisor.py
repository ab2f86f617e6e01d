"""The supervisor of a job, which starts a dead driver again."""

import os
import re
import signal

import pytest

from forcetune.errors import InputError
from forcetune.jobs import supervisor

CLIENT_VERSIONS = ",".join(f"{name}={text}" for name, text in supervisor.collect_versions().items())


@pytest.fixture
def fake_drivers(monkeypatch):
    """Yield the list of exit codes of the next drivers, which a test fills, and the list of their commands."""
    exit_codes, commands = [], []

    class Driver:
        def __init__(self, command, env):
            commands.append(command[3:])
            self._code = exit_codes.pop(0)

        def wait(self):
            if self._code == "stopped":
                os.kill(os.getpid(), signal.SIGTERM)
                return 130
            return self._code

        def poll(self):
            return None if self._code == "stopped" else self._code

        def terminate(self):
            commands.append("terminated")

    for name in supervisor.STORE_VARIABLES:
        monkeypatch.setenv(name, "http://somewhere")
    monkeypatch.setenv("FORCETUNE_STATE", "/somewhere")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(supervisor.subprocess, "Popen", Driver)
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.0)
    yield exit_codes, commands
    signal.signal(signal.SIGTERM, before)


def supervise(restarts=3, complete=False, once=()):
    return supervisor.supervise(["search", "s.yaml"], CLIENT_VERSIONS, restarts, lambda: complete, once)


def test_a_dead_driver_is_started_again_until_it_is_done(fake_drivers, capsys):
    exit_codes, commands = fake_drivers
    exit_codes += [-signal.SIGKILL, 1, 0]
    assert supervise() == 0
    assert commands == [["search", "s.yaml"]] * 3
    printed = capsys.readouterr().out
    assert re.search(r"the driver died \(signal SIGKILL\).* in 0 s .*1 of 3", printed)
    assert re.search(r"the driver died \(exit code 1\).* in 0 s .*2 of 3", printed)


def test_a_driver_is_started_again_no_more_often_than_allowed(fake_drivers):
    exit_codes, commands = fake_drivers
    exit_codes += [-signal.SIGKILL] * 3
    assert supervise(restarts=2) == 128 + signal.SIGKILL
    assert len(commands) == 3


@pytest.mark.parametrize("code", [0, 2, 4, 130])
def test_a_driver_whose_exit_code_has_a_meaning_is_not_started_again(fake_drivers, code):
    exit_codes, commands = fake_drivers
    exit_codes.append(code)
    assert supervise() == code
    assert len(commands) == 1


def test_a_later_driver_that_is_refused_is_started_again(fake_drivers):
    """A store was away for longer than the first driver waits, and still is when the second one starts."""
    exit_codes, commands = fake_drivers
    exit_codes += [1, 2, 0]
    assert supervise() == 0
    assert len(commands) == 3
    exit_codes += [1, 2]
    assert supervise(restarts=1) == 1, "the study was not refused"


def test_a_driver_whose_study_is_complete_is_not_started_again(fake_drivers):
    exit_codes, _ = fake_drivers
    exit_codes.append(1)
    assert supervise(complete=True) == 1


def test_the_study_is_archived_by_the_first_driver_alone(fake_drivers):
    exit_codes, commands = fake_drivers
    exit_codes += [-signal.SIGSEGV, 0]
    supervise(once=["--fresh"])
    assert commands == [["search", "s.yaml", "--fresh"], ["search", "s.yaml"]]


def test_sigterm_reaches_the_driver_and_ends_the_job(fake_drivers):
    exit_codes, commands = fake_drivers
    exit_codes.append("stopped")
    assert supervise() == 130
    assert commands == [["search", "s.yaml"], "terminated"]


def test_a_job_that_is_stopped_between_two_drivers_starts_no_other(fake_drivers, monkeypatch):
    exit_codes, commands = fake_drivers
    exit_codes.append(-signal.SIGKILL)
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    assert supervise() == 130
    assert len(commands) == 1


@pytest.mark.parametrize("name", ["forcetune", "ray", "python"])
def test_other_versions_are_refused_by_name(name):
    versions = {**supervisor.collect_versions(), name: "0.9"}
    with pytest.raises(InputError, match=rf"versions: {name} 0\.9 on the client, \S+ on the cluster"):
        supervisor.check_versions(versions)


def test_a_client_without_a_version_is_refused():
    with pytest.raises(InputError, match=r"forcetune None on the client"):
        supervisor.check_versions({})


@pytest.mark.parametrize("name", supervisor.STORE_VARIABLES)
def test_a_job_without_a_store_is_refused(fake_drivers, monkeypatch, name):
    monkeypatch.delenv(name)
    with pytest.raises(InputError, match=f"{name} is set neither where the job was submitted nor on the cluster"):
        supervise()


def test_running_trials_are_kept_where_a_later_job_finds_them(fake_drivers, monkeypatch, tmp_path):
    exit_codes, _ = fake_drivers
    exit_codes.append(0)
    monkeypatch.delenv("FORCETUNE_STATE")
    monkeypatch.setenv("HOME", str(tmp_path))
    supervise()
    assert os.environ["FORCETUNE_STATE"] == str(tmp_path / ".forcetune" / "state")

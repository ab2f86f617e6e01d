"""Nights that real programs schedule: the cron of Debian starts them, and systemd reads their units."""

import grp
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from processes import wait_until
from shared_constants import PRINTING_SCRIPT

from forcetune import timers
from forcetune.errors import InputError
from forcetune.timers.crontab import COMMAND_LIMIT_BYTES
from forcetune.timers.night import NIGHT_VARIABLES, SECRET_VARIABLES

pytestmark = pytest.mark.long

UNKNOWN_STUDY_YAML = "studies: [unknown]\n"
NIGHT_WAIT_S = 120.0  # for the next minute to begin, and for a night
TRICKY_FOLDER_NAME = "it's 100% $HOME"
CRON_TABLES_FOLDER = "/var/spool/cron/crontabs"
# A cron with tables of its own, so that the machine's cron and tables stay as they are. Its folder gets an old date,
# because cron misses a table that is written in the same second in which it reads the folder.
CRON_SCRIPT = f"""
set -e
mount -t tmpfs -o mode=1730,gid=$0 tmpfs {CRON_TABLES_FOLDER}
touch --date=2000-01-01 {CRON_TABLES_FOLDER}
mount -t tmpfs tmpfs /run
exec cron -f
"""


def find_program(name, package):
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/lib/systemd")
    return path or pytest.fail(f"{name} is not here: apt-get install {package}")


@pytest.fixture(autouse=True)
def clear_variables(monkeypatch):
    for name in (*NIGHT_VARIABLES, *SECRET_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def crontab(tmp_path, monkeypatch):
    """Start a cron, and put a `crontab` on PATH that writes its table and not the user's."""
    find_program("cron", "cron")
    command = ["unshare", "--mount", "sh", "-c", CRON_SCRIPT, str(grp.getgrnam("crontab").gr_gid)]
    daemon = subprocess.Popen(command, env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    wrapper = tmp_path / "bin" / "crontab"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\nexec nsenter --mount --target {daemon.pid} {find_program("crontab", "cron")} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    wait_until(lambda: read_process_name(daemon.pid) == "cron", "cron")
    yield
    assert daemon.poll() is None, "cron has ended by itself"
    daemon.terminate()
    daemon.wait()


def read_process_name(process):
    return Path(f"/proc/{process}/comm").read_text().strip()


def read_crontab():
    return subprocess.run(["crontab", "-l"], capture_output=True, check=True).stdout


def choose_next_minute():
    """Return the start of the next minute, after waiting until it leaves enough time to write the crontab."""
    wait_until(lambda: 2 < datetime.now().second < 50, "the middle of a minute")
    return datetime.now().replace(second=0, microsecond=0) + timedelta(minutes=1)


def make_night(folder, at):
    folder.mkdir(exist_ok=True)
    (folder / "nightly.yaml").write_text(UNKNOWN_STUDY_YAML)
    return timers.plan(folder / "nightly.yaml", at, folder)


def write_printing_program(folder):
    """Write a program that prints its folder, its variables and its arguments, and return its path."""
    path = folder / "100% a=$python"
    path.write_text(PRINTING_SCRIPT)
    path.chmod(0o755)
    return str(path)


def read_text(path):
    return path.read_text() if path.exists() else ""


def test_cron_runs_the_nights_at_their_minute(tmp_path, crontab, monkeypatch, study_copy):
    user_crontab = b"# mine\nMAILTO=''\n0 0 1 1 * echo 100\\% '\xff'\n"
    subprocess.run(["crontab", "-"], input=user_crontab, check=True)
    minute = choose_next_minute()
    at = f"{minute:%H:%M}"
    monkeypatch.setenv("RAY_TMPDIR", study_copy.environment["RAY_TMPDIR"])
    study_night = timers.plan(study_copy.folder / "nightly.yaml", at, study_copy.folder)
    assert timers.install(timers.plan(study_night.file, "00:00", study_night.folder)) is None
    assert timers.install(study_night)

    monkeypatch.setattr(sys, "executable", write_printing_program(tmp_path))
    monkeypatch.setenv("FORCETUNE_STORAGE", "postgresql://me@host/db?options=-csearch_path%3Dforcetune&passfile=/p")
    tricky_night = make_night(tmp_path / TRICKY_FOLDER_NAME, at)
    assert timers.install(tricky_night) is None
    assert timers.installed() == [(study_night.file, at), (tricky_night.file, at)]
    assert read_crontab().startswith(user_crontab)

    wait_until(
        lambda: str(tricky_night.file) in read_text(tricky_night.log),
        "the night in a folder of a tricky name",
        NIGHT_WAIT_S,
    )
    assert abs(datetime.fromtimestamp(tricky_night.log.stat().st_mtime) - minute) < timedelta(seconds=30)
    lines = tricky_night.log.read_text().splitlines()
    assert lines[0] == str(tricky_night.folder)
    assert f"FORCETUNE_STORAGE={tricky_night.variables['FORCETUNE_STORAGE']}" in lines
    assert lines[-4:] == ["-m", "forcetune", "nightly", str(tricky_night.file)]
    wait_until(
        lambda: (study_night.folder / "nightly.html").exists(),
        f"the night of a study; {read_text(study_night.log)}",
        NIGHT_WAIT_S,
    )
    assert f"night of {minute:%Y-%m-%d}" in (study_night.folder / "nightly.html").read_text()
    wait_until(lambda: "page: " in read_text(study_night.log), "the last line of the log")

    assert timers.uninstall(study_night.file)
    assert timers.uninstall(tricky_night.file)
    assert read_crontab() == user_crontab


def test_a_refused_line_leaves_the_crontab_unchanged(tmp_path, crontab):
    night = make_night(tmp_path, "02:00")
    assert timers.installed() == []
    timers.install(night)
    before = read_crontab()
    with pytest.raises(InputError, match="the crontab was not changed, .*bad minute"):
        timers.install(timers.Night(night.file, night.folder, "02:99", night.log, {}))
    assert read_crontab() == before


def test_the_length_limit_is_that_of_cron(tmp_path, crontab, monkeypatch):
    command = timers.cron(make_night(tmp_path, "02:00")).split(" ", 5)[5]
    value_bytes = COMMAND_LIMIT_BYTES - len(f"{command}NO_PROXY= ")
    monkeypatch.setenv("NO_PROXY", "x" * value_bytes)
    timers.install(make_night(tmp_path, "02:00"))
    monkeypatch.setenv("NO_PROXY", "x" * (value_bytes + 1))
    monkeypatch.setattr("forcetune.timers.crontab.COMMAND_LIMIT_BYTES", COMMAND_LIMIT_BYTES + 1)
    with pytest.raises(InputError, match="command too long"):
        timers.install(make_night(tmp_path, "02:00"))


@pytest.fixture
def systemd_night(tmp_path, monkeypatch):
    """Make a night whose path, variable and interpreter have special characters of systemd."""
    monkeypatch.setattr(sys, "executable", write_printing_program(tmp_path))
    monkeypatch.setenv("NO_PROXY", "100% of \"it\" and $HOME and 'more'")
    return make_night(tmp_path / '100% "of" it\'s $HOME', "02:05")


def write_units(night, folder):
    """Write the service and the timer of a night, and return their paths."""
    folder.mkdir(exist_ok=True)
    for name, text in timers.systemd(night).items():
        (folder / name).write_text(text)
    return sorted(map(str, folder.glob(f"{night.name}.*")))


def verify_units(paths, instance):
    """Return the complaints of systemd about these units."""
    with tempfile.TemporaryDirectory() as runtime:
        command = [find_program("systemd-analyze", "systemd"), f"--{instance}", "--man=no", "verify", *paths]
        environment = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return process.stderr + (f"exit code {process.returncode}" if process.returncode else "")


@pytest.mark.parametrize("instance", ["system", "user"])
def test_systemd_finds_nothing_wrong_with_the_units(systemd_night, tmp_path, instance):
    paths = write_units(systemd_night, tmp_path / "units")
    assert [Path(path).suffix for path in paths] == [".service", ".timer"]
    assert verify_units(paths, instance) == ""


@pytest.mark.parametrize("key", ["Type", "ExecStart", "OnCalendar", "Persistent"])
def test_systemd_would_find_a_misspelled_key(systemd_night, tmp_path, key):
    paths = write_units(systemd_night, tmp_path / "units")
    for path in paths:
        Path(path).write_text(Path(path).read_text().replace(f"\n{key}=", f"\n{key}x="))
    assert f"{key}x" in verify_units(paths, "system")


def test_systemd_reads_the_planned_night(systemd_night):
    """Let systemd print the units that it would run, which it does for an ordinary user only."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        write_units(systemd_night, Path(folder))
        runtime = Path(folder) / "runtime"
        runtime.mkdir()
        account = pwd.getpwnam("nobody")
        os.chown(runtime, account.pw_uid, account.pw_gid)
        process = subprocess.run(
            [find_program("systemd", "systemd"), "--user", "--test", "--unit=forcetune-nightly.service"],
            env={"XDG_RUNTIME_DIR": str(runtime), "HOME": str(runtime), "SYSTEMD_UNIT_PATH": f"{folder}:"},
            user="nobody",
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    description = re.search(r"Unit forcetune-nightly.service:\n(.*?)\n\t?-> ", process.stdout, re.DOTALL)
    assert description, process.stdout + process.stderr
    lines = {line.strip() for line in description[1].splitlines()}
    assert {
        f"WorkingDirectory: {systemd_night.folder}",
        f"Environment: NO_PROXY={systemd_night.variables['NO_PROXY']}",
        f"StandardOutputFileToAppend: {systemd_night.log}",
        "KillMode: mixed",
    } <= lines
    (command,) = [line for line in lines if line.startswith("Command Line: ")]
    assert split_words(command) == systemd_night.command


def split_words(line):
    """Split a command line that systemd quoted; a shell reads the same quotes."""
    quoted_words = line.removeprefix("Command Line: ")
    process = subprocess.run(["sh", "-c", f"printf '%s\\n' {quoted_words}"], capture_output=True, text=True, check=True)
    return process.stdout.splitlines()

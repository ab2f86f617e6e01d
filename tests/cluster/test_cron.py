"""What is scheduled with the real programs: Debian's cron fires it, and systemd reads its units."""

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
from processes import until

from forcetune import timers
from forcetune.errors import InputError
from forcetune.timers.crontab import COMMAND_LIMIT_BYTES
from forcetune.timers.night import NIGHT_VARIABLES, SECRET_VARIABLES

pytestmark = pytest.mark.long

NIGHTLY = "studies: [unknown]\n"
WAIT = 120.0  # seconds: a minute, and a night
TRICKY = "it's 100% $HOME"
TABLES = "/var/spool/cron/crontabs"
# cron and its tables by themselves, whatever the machine has of both; of an old folder, since cron overlooks what is
# written in the second in which it looked
DAEMON = f"""
set -e
mount -t tmpfs -o mode=1730,gid=$0 tmpfs {TABLES}
touch --date=2000-01-01 {TABLES}
mount -t tmpfs tmpfs /run
exec cron -f
"""
TELLS = """#!/bin/sh
pwd
env
printf '%s\\n' "$@"
"""


def program(name, package):
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/lib/systemd")
    return found or pytest.fail(f"{name} is not here: apt-get install {package}")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in (*NIGHT_VARIABLES, *SECRET_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def crontab(tmp_path, monkeypatch):
    """A running cron, and a `crontab` on PATH whose table is this cron's and not the user's own."""
    program("cron", "cron")
    command = ["unshare", "--mount", "sh", "-c", DAEMON, str(grp.getgrnam("crontab").gr_gid)]
    daemon = subprocess.Popen(command, env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    inside = tmp_path / "bin" / "crontab"
    inside.parent.mkdir()
    inside.write_text(f'#!/bin/sh\nexec nsenter --mount --target {daemon.pid} {program("crontab", "cron")} "$@"\n')
    inside.chmod(0o755)
    monkeypatch.setenv("PATH", f"{inside.parent}:{os.environ['PATH']}")
    until(lambda: name_of(daemon.pid) == "cron", "cron")
    yield
    assert daemon.poll() is None, "cron has ended by itself"
    daemon.terminate()
    daemon.wait()


def name_of(process):
    return Path(f"/proc/{process}/comm").read_text().strip()


def listed():
    return subprocess.run(["crontab", "-l"], capture_output=True, check=True).stdout


def soon():
    """The begin of the next minute, once there is time enough to write the table before it."""
    until(lambda: 2 < datetime.now().second < 50, "the middle of a minute")
    return datetime.now().replace(second=0, microsecond=0) + timedelta(minutes=1)


def planned(folder, at):
    folder.mkdir(exist_ok=True)
    (folder / "nightly.yaml").write_text(NIGHTLY)
    return timers.plan(folder / "nightly.yaml", at, folder)


def stand_in(folder):
    """A program that tells where it runs, with what variables and what arguments."""
    path = folder / "100% a=$python"
    path.write_text(TELLS)
    path.chmod(0o755)
    return str(path)


def read(path):
    return path.read_text() if path.exists() else ""


def test_cron_runs_the_nights_at_their_minute(tmp_path, crontab, monkeypatch, branch):
    theirs = b"# mine\nMAILTO=''\n0 0 1 1 * echo 100\\% '\xff'\n"
    subprocess.run(["crontab", "-"], input=theirs, check=True)
    begin = soon()
    at = f"{begin:%H:%M}"
    monkeypatch.setenv("RAY_TMPDIR", branch.environment["RAY_TMPDIR"])
    real = timers.plan(branch.folder / "nightly.yaml", at, branch.folder)
    assert timers.install(timers.plan(real.file, "00:00", real.folder)) is None
    assert timers.install(real)

    monkeypatch.setattr(sys, "executable", stand_in(tmp_path))
    monkeypatch.setenv("FORCETUNE_STORAGE", "postgresql://me@host/db?options=-csearch_path%3Dforcetune&passfile=/p")
    told = planned(tmp_path / TRICKY, at)
    assert timers.install(told) is None
    assert timers.installed() == [(real.file, at), (told.file, at)]
    assert listed().startswith(theirs)

    until(lambda: str(told.file) in read(told.log), "the night in a folder of a tricky name", WAIT)
    assert abs(datetime.fromtimestamp(told.log.stat().st_mtime) - begin) < timedelta(seconds=30)
    said = told.log.read_text().splitlines()
    assert said[0] == str(told.folder)
    assert f"FORCETUNE_STORAGE={told.variables['FORCETUNE_STORAGE']}" in said
    assert said[-4:] == ["-m", "forcetune", "nightly", str(told.file)]
    until(lambda: (real.folder / "nightly.html").exists(), f"the night of a study; {read(real.log)}", WAIT)
    assert f"night of {begin:%Y-%m-%d}" in (real.folder / "nightly.html").read_text()
    until(lambda: "page: " in read(real.log), "its last word")

    assert timers.uninstall(real.file)
    assert timers.uninstall(told.file)
    assert listed() == theirs


def test_crontab_refuses_and_keeps_what_was_there(tmp_path, crontab):
    night = planned(tmp_path, "02:00")
    assert timers.installed() == []
    timers.install(night)
    before = listed()
    with pytest.raises(InputError, match="the crontab was not changed, .*bad minute"):
        timers.install(timers.Night(night.file, night.folder, "02:99", night.log, {}))
    assert listed() == before


def test_the_longest_line_is_the_longest_that_cron_takes(tmp_path, crontab, monkeypatch):
    bare = timers.cron(planned(tmp_path, "02:00")).split(" ", 5)[5]
    left = COMMAND_LIMIT_BYTES - len(f"{bare}NO_PROXY= ")
    monkeypatch.setenv("NO_PROXY", "x" * left)
    timers.install(planned(tmp_path, "02:00"))
    monkeypatch.setenv("NO_PROXY", "x" * (left + 1))
    monkeypatch.setattr("forcetune.timers.crontab.COMMAND_LIMIT_BYTES", COMMAND_LIMIT_BYTES + 1)
    with pytest.raises(InputError, match="command too long"):
        timers.install(planned(tmp_path, "02:00"))


@pytest.fixture
def units(tmp_path, monkeypatch):
    """A night whose path, variables and interpreter mean something to systemd."""
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path))
    monkeypatch.setenv("NO_PROXY", "100% of \"it\" and $HOME and 'more'")
    return planned(tmp_path / '100% "of" it\'s $HOME', "02:05")


def write(night, folder):
    """The paths of its service and its timer."""
    folder.mkdir(exist_ok=True)
    for name, text in timers.systemd(night).items():
        (folder / name).write_text(text)
    return sorted(map(str, folder.glob(f"{night.name}.*")))


def verify(paths, instance):
    """What systemd has to say against these units."""
    with tempfile.TemporaryDirectory() as runtime:
        command = [program("systemd-analyze", "systemd"), f"--{instance}", "--man=no", "verify", *paths]
        environment = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stderr + (f"exit code {done.returncode}" if done.returncode else "")


@pytest.mark.parametrize("instance", ["system", "user"])
def test_systemd_finds_nothing_wrong_with_the_units(units, tmp_path, instance):
    paths = write(units, tmp_path / "units")
    assert [Path(path).suffix for path in paths] == [".service", ".timer"]
    assert verify(paths, instance) == ""


@pytest.mark.parametrize("key", ["Type", "ExecStart", "OnCalendar", "Persistent"])
def test_systemd_would_find_a_misspelled_key(units, tmp_path, key):
    paths = write(units, tmp_path / "units")
    for path in paths:
        Path(path).write_text(Path(path).read_text().replace(f"\n{key}=", f"\n{key}x="))
    assert f"{key}x" in verify(paths, "system")


def test_systemd_reads_what_was_planned(units):
    """As it says itself where it is only asked what it would run, which it does for an ordinary user alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        write(units, Path(folder))
        runtime = Path(folder) / "runtime"
        runtime.mkdir()
        nobody = pwd.getpwnam("nobody")
        os.chown(runtime, nobody.pw_uid, nobody.pw_gid)
        done = subprocess.run(
            [program("systemd", "systemd"), "--user", "--test", "--unit=forcetune-nightly.service"],
            env={"XDG_RUNTIME_DIR": str(runtime), "HOME": str(runtime), "SYSTEMD_UNIT_PATH": f"{folder}:"},
            user="nobody",
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    read = re.search(r"Unit forcetune-nightly.service:\n(.*?)\n\t?-> ", done.stdout, re.DOTALL)
    assert read, done.stdout + done.stderr
    lines = {line.strip() for line in read[1].splitlines()}
    assert {
        f"WorkingDirectory: {units.folder}",
        f"Environment: NO_PROXY={units.variables['NO_PROXY']}",
        f"StandardOutputFileToAppend: {units.log}",
        "KillMode: mixed",
    } <= lines
    (command,) = [line for line in lines if line.startswith("Command Line: ")]
    assert shell_words(command) == units.command


def shell_words(line):
    """Of systemd's way to quote them, which a shell takes too."""
    words = line.removeprefix("Command Line: ")
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {words}"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()

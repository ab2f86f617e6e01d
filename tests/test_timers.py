"""What is scheduled, and what a shell and Kubernetes make of it; tests/cluster has a real cron and systemd."""

import os
import re
import stat
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import kubernetes_validate
import pytest
import yaml

from forcetune import timers
from forcetune.errors import InputError
from forcetune.timers.crontab import COMMAND_LIMIT_BYTES, LINE_MARK
from forcetune.timers.night import NIGHT_VARIABLES, SECRET_VARIABLES

TRICKY = [
    "plain",
    "with a space",
    "100% of it",
    'it\'s "quoted"',
    "$HOME `id` $(id)",
    "a;b&c|d #e >> f",
    "żółć {x}",
    "~",
]
TELLS = """#!/bin/sh
pwd
env
printf '%s\\n' "$@"
"""
# as much of it as is used here; what it kept is in the file that its name plus .table says
CRONTAB = """#!/bin/sh
case "$1" in
-l) cat "$0.table" 2>/dev/null || { echo "no crontab for somebody" >&2; exit 1; } ;;
-) cat >"$0.new"; if [ -e "$0.refuses" ]; then echo '"-":1: bad minute' >&2; exit 1; fi; mv "$0.new" "$0.table" ;;
esac
"""


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in (*NIGHT_VARIABLES, *SECRET_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=TRICKY)
def folder(tmp_path, request):
    """One whose name means something to somebody."""
    made = tmp_path / request.param
    made.mkdir()
    return made


@pytest.fixture
def tells(tmp_path, monkeypatch):
    """In the place of Python a program that tells where it runs, with what variables and what arguments."""
    program = executable(tmp_path / "it's 100% a=$python", TELLS)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.fixture
def crontab(tmp_path, monkeypatch):
    """The table of a `crontab` that is found before any other."""
    program = executable(tmp_path / "bin" / "crontab", CRONTAB)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program.with_suffix(".table")


def executable(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def planned(folder, name="nightly.yaml", at="02:00"):
    (folder / name).write_text("studies: [digits]\n")
    return timers.plan(folder / name, at, folder)


def commanded(line):
    """The command of a crontab's line, as cron hands it to the shell."""
    *time, command = line.split(" ", 5)
    assert len(time) == 5
    assert not re.search(r"(?<!\\)%", command), "cron would end the command here"
    return command.replace(r"\%", "%")


def as_cron_does(line):
    environment = {"HOME": "/", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    return subprocess.run(
        ["/bin/sh", "-c", commanded(line)], env=environment, cwd="/", capture_output=True, check=False
    )


def test_the_line_of_the_crontab_runs_what_was_planned(folder, tells, monkeypatch):
    monkeypatch.setenv("FORCETUNE_STATE", f"{folder}/state")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000/?a=1&b=%20'\"$HOME")
    night = planned(folder, "a night's.yaml")
    done = as_cron_does(timers.cron(night))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    said = night.log.read_text().splitlines()
    assert said[0] == str(folder)
    assert f"FORCETUNE_STATE={folder}/state" in said
    assert "MLFLOW_TRACKING_URI=http://mlflow:5000/?a=1&b=%20'\"$HOME" in said
    assert said[-4:] == ["-m", "forcetune", "nightly", str(night.file)]


def test_what_a_night_prints_is_appended_and_its_exit_code_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(executable(tmp_path / "python", "#!/bin/sh\necho no >&2\nexit 3\n")))
    night = planned(tmp_path)
    assert [as_cron_does(timers.cron(night)).returncode for _ in range(2)] == [3, 3]
    assert night.log.read_text() == "no\nno\n"


def test_a_line_reads_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    monkeypatch.setenv("RAY_ADDRESS", "http://ray:8265")
    line = timers.cron(planned(tmp_path, at="02:05"))
    assert line == (
        f"5 2 * * * cd {tmp_path} && RAY_ADDRESS=http://ray:8265 /venv/bin/python -m forcetune nightly "
        f"{tmp_path}/nightly.yaml >> {tmp_path}/nightly.log 2>&1 # by forcetune schedule"
    )


def test_a_line_that_cron_would_not_take_is_refused(tmp_path, monkeypatch):
    for name in ("NO_PROXY", "PYTHONPATH"):
        monkeypatch.setenv(name, "/" + "x" * (COMMAND_LIMIT_BYTES // 2))
    with pytest.raises(InputError, match=r"bytes, and cron allows 998: .*PYTHONPATH, NO_PROXY"):
        timers.cron(planned(tmp_path))


def test_relative_paths_are_taken_from_where_it_was_planned(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "nightly.yaml").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FORCETUNE_STORAGE", "sqlite:///optuna.db")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "token")
    monkeypatch.setenv("PYTHONPATH", "src:../lib")
    night = timers.plan("../nightly.yaml", "23:59", "../there")
    assert (night.file, night.folder) == (tmp_path / "nightly.yaml", tmp_path / "there")
    assert night.log == tmp_path / "there" / "nightly.log"
    assert night.variables == {
        "FORCETUNE_STORAGE": f"sqlite:///{tmp_path}/here/optuna.db",
        "RAY_AUTH_TOKEN_PATH": f"{tmp_path}/here/token",
        "PYTHONPATH": f"{tmp_path}/here/src:{tmp_path}/lib",
    }
    assert timers.plan("../nightly.yaml", "23:59", log="a.log").log == tmp_path / "here" / "a.log"


def test_two_nights_of_a_folder_have_a_log_each(tmp_path):
    assert {planned(tmp_path, name).log.name for name in ("nightly.yaml", "b.yaml")} == {"nightly.log", "b.log"}


def test_links_stay(tmp_path):
    (tmp_path / "release").mkdir()
    (tmp_path / "current").symlink_to("release")
    assert planned(tmp_path / "current").file == tmp_path / "current" / "nightly.yaml"


@pytest.mark.parametrize("at", ["24:00", "2:00", "02:60", "02.00", "02:00\n", "", "٠٢:٠٠"])
def test_what_is_no_time_is_refused(tmp_path, at):
    with pytest.raises(InputError, match=r"--at '.*': allowed: a time of the day from 00:00 to 23:59"):
        planned(tmp_path, at=at)


@pytest.mark.parametrize("name", ["two\nlines", "a\\b", "end ", "bell\a", "\udc80"])
def test_a_name_that_could_be_misread_is_refused(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    with pytest.raises(InputError, match=r"the path '.*' cannot be scheduled.*allowed: text without line breaks"):
        planned(folder, "nightly.yaml") if name != "end " else planned(tmp_path, "nightly.yaml ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.yaml", "02:00"), r"/no.yaml: there is no such file"),
        (("nightly.yaml", "02:00", "nowhere"), r"/nowhere: there is no such folder"),
        (("nightly.yaml", "02:00", None, "nowhere/log"), r"/nowhere: there is no such folder"),
        (("nightly.yaml", "02:00", None, "."), r"--log /.*: is a folder"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nightly.yaml").touch()
    with pytest.raises(InputError, match=message):
        timers.plan(*arguments)


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("FORCETUNE_STORAGE", "postgresql://me:hunter2@host/db", "passfile=FILE"),
        ("FORCETUNE_STORAGE", "postgresql://me@host/db?password=hunter2", "passfile=FILE"),
        ("MLFLOW_TRACKING_URI", "https://me:hunter2@host", "~/.mlflow/credentials"),
        ("https_proxy", "http://me:hunter2@proxy", "in a file"),
        ("RAY_AUTH_TOKEN", "hunter2", "RAY_AUTH_TOKEN_PATH"),
        ("MLFLOW_TRACKING_PASSWORD", "hunter2", "~/.mlflow/credentials"),
        ("PGPASSWORD", "hunter2", "~/.pgpass"),
    ],
)
def test_a_secret_is_refused_and_not_shown(tmp_path, monkeypatch, name, value, instead):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{name} .*{re.escape(instead)}") as refused:
        planned(tmp_path)
    assert "hunter2" not in str(refused.value)


def test_an_interpreter_that_could_be_misread_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/venv\n/bin/python")
    with pytest.raises(InputError, match="the path of Python"):
        timers.cron(planned(tmp_path))


THEIRS = b"# mine\r\nMAILTO=me@x\n\n0 2 * * * nightly 100\\% \xff\x0c \n# 0 2 * * * nightly x # by forcetune schedule\n"


def test_a_night_is_installed_and_replaced_and_taken_out(folder, crontab):
    crontab.write_bytes(THEIRS)
    early, other, late = planned(folder), planned(folder, "other.yaml", "04:00"), planned(folder, at="13:30")
    assert timers.install(early) is None
    assert timers.install(other) is None
    assert timers.install(late) == timers.cron(early)
    expected = f"{timers.cron(late)}\n{timers.cron(other)}\n".encode()
    assert crontab.read_bytes() == THEIRS + expected
    assert timers.installed() == [(late.file, "13:30"), (other.file, "04:00")]
    assert timers.uninstall(late.file)
    assert not timers.uninstall(late.file)
    assert timers.uninstall(other.file)
    assert crontab.read_bytes() == THEIRS


def test_lines_that_stand_there_twice_become_one(tmp_path, crontab):
    line = timers.cron(planned(tmp_path))
    crontab.write_text(f"{line}\n# between\n{line}\n")
    assert timers.install(planned(tmp_path, at="03:00")) == line
    assert crontab.read_text() == f"{timers.cron(planned(tmp_path, at='03:00'))}\n# between\n"


def test_what_somebody_edited_is_still_found(tmp_path, crontab):
    line = timers.cron(planned(tmp_path))
    workdays = line.replace("0 2 * * *", "0\t2 * * 1-5").replace("cd ", "renice 19 $$; cd ")
    broken = f"0 2 * * * echo 'nightly{LINE_MARK}"
    crontab.write_text(f"{workdays}\n{broken}\n1 2 * * * forcetune nightly{LINE_MARK}\n")
    assert timers.installed() == [(tmp_path / "nightly.yaml", "0 2 * * 1-5")]
    assert timers.install(planned(tmp_path)) == workdays


def test_the_first_night_of_a_user_without_a_table(tmp_path, crontab):
    assert timers.installed() == []
    assert timers.install(planned(tmp_path)) is None
    assert crontab.read_text() == f"{timers.cron(planned(tmp_path))}\n"
    assert timers.uninstall(tmp_path / "nightly.yaml")
    assert crontab.read_text() == ""
    assert timers.installed() == []


def test_nothing_is_lost_where_the_table_is_refused(tmp_path, crontab):
    crontab.write_bytes(THEIRS)
    crontab.with_suffix(".refuses").touch()
    with pytest.raises(InputError, match=r'the crontab was not changed, .*: "-":1: bad minute'):
        timers.install(planned(tmp_path))
    assert crontab.read_bytes() == THEIRS


def test_a_table_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path, crontab):
    denied = "#!/bin/sh\nif [ $1 = - ]; then touch $0.written; fi\necho 'you are not allowed to use this' >&2; exit 1\n"
    executable(crontab.with_suffix(""), denied)
    with pytest.raises(InputError, match="the crontab cannot be read: you are not allowed to use this"):
        timers.install(planned(tmp_path))
    assert not crontab.with_suffix(".written").exists()


@pytest.mark.parametrize("ask", [lambda night: timers.install(night), lambda night: timers.uninstall(night.file)])
def test_a_machine_without_crontab_is_told_of_another_way(tmp_path, monkeypatch, ask):
    night = planned(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match="`crontab` cannot be started .*install cron, or use `forcetune schedule systemd`"
    ):
        ask(night)


def test_the_units_of_systemd(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", 'http://mlflow:5000/%20"$HOME')
    folder = tmp_path / '100% "it"'
    folder.mkdir()
    units = timers.systemd(planned(folder, at="02:05"))
    assert [*units] == ["forcetune-nightly.service", "forcetune-nightly.timer"]
    service, timer = ([line for line in text.splitlines() if line[:1] not in "#"] for text in units.values())
    assert service == [
        "[Unit]",
        f'Description=forcetune nightly {tmp_path}/100%% "it"/nightly.yaml',
        "[Service]",
        "Type=oneshot",
        f'WorkingDirectory={tmp_path}/100%% "it"',
        r'Environment="MLFLOW_TRACKING_URI=http://mlflow:5000/%%20\"$HOME"',
        rf'ExecStart=:"/venv/bin/python" "-m" "forcetune" "nightly" "{tmp_path}/100%% \"it\"/nightly.yaml"',
        f'StandardOutput=append:{tmp_path}/100%% "it"/nightly.log',
        "KillMode=mixed",
    ]
    assert [line for line in timer if not line.startswith("Description")] == [
        *("[Unit]", "[Timer]", "OnCalendar=*-*-* 02:05:00", "Persistent=true", "[Install]", "WantedBy=timers.target")
    ]


def test_systemd_starts_no_program_with_quotes_in_its_path(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/it's/bin/python")
    with pytest.raises(InputError, match="systemd cannot start /it's/bin/python"):
        timers.systemd(planned(tmp_path))


NAMES = ["nightly", "digits", "Digits", "a b", "a-b", "夜", "x" * 34, "x" * 35, "-", "y" * 200]


def test_files_of_other_names_have_units_of_other_names(tmp_path):
    names = [planned(tmp_path, f"{name}.yaml").name for name in NAMES]
    assert names[:2] == ["forcetune-nightly", "forcetune-nightly-digits"]
    assert len({*names}) == len(NAMES)
    for name in names:
        assert re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
        assert len(name) <= 52


def documents(night, image="registry.example.org/forcetune:0.1.0"):
    return list(yaml.safe_load_all(timers.kubernetes(night, image)))


def test_the_cronjob_is_valid(folder):
    config, job = documents(planned(folder, "Team 1.yaml", at="02:05"))
    for document in (config, job):
        kubernetes_validate.validate(document, "1.37", strict=True)
    assert config["metadata"] == job["metadata"]
    assert (job["spec"]["schedule"], job["spec"]["concurrencyPolicy"]) == ("5 2 * * *", "Forbid")


def pod(job):
    return job["spec"]["jobTemplate"]["spec"]["template"]


def test_a_refusal_an_alarm_and_a_night_that_still_runs_are_not_tried_again(tmp_path):
    _, job = documents(planned(tmp_path))
    spec = job["spec"]["jobTemplate"]["spec"]
    (rule,) = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert rule["onExitCodes"] == {"containerName": "nightly", "operator": "In", "values": [2, 3, 4]}
    assert pod(job)["spec"]["restartPolicy"] == "Never"


def test_the_pod_is_a_client_as_cluster_kuberay_has_one(tmp_path):
    _, job = documents(planned(tmp_path))
    text = (Path(__file__).parents[1] / "cluster" / "kuberay" / "rayjob.yaml").read_text()
    client = yaml.safe_load(text)["spec"]["submitterPodTemplate"]
    (ours,), (theirs,) = (each["spec"]["containers"] for each in (pod(job), client))
    assert pod(job)["metadata"] == client["metadata"]
    for name in ("restartPolicy", "automountServiceAccountToken", "securityContext"):
        assert pod(job)["spec"][name] == client["spec"][name]
    assert ours["securityContext"] == theirs["securityContext"]
    assert ours["image"] == theirs["image"]
    assert {*map(str, client["spec"]["volumes"])} <= {*map(str, pod(job)["spec"]["volumes"])}
    assert {*map(str, theirs["volumeMounts"])} <= {*map(str, ours["volumeMounts"])}
    assert {volume["name"] for volume in pod(job)["spec"]["volumes"]} == {each["name"] for each in ours["volumeMounts"]}


def test_the_file_has_its_own_name_in_the_pod(folder):
    night = planned(folder, "Team $(RAY_ADDRESS) 1.yaml")
    _, job = documents(night)
    (container,) = pod(job)["spec"]["containers"]
    (volume,) = [volume for volume in pod(job)["spec"]["volumes"] if volume["name"] == "file"]
    assert volume["configMap"]["items"] == [{"key": "nightly.yaml", "path": night.file.name}]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    path = f"{mounts['file']}/{night.file.name}"
    assert [word.replace("$$", "$") for word in container["command"]] == ["forcetune", "nightly", path]
    assert not re.search(r"(?<!\$)\$\(", container["command"][-1])
    assert mounts["lock"] == f"{container['workingDir']}/.forcetune"


def variables(job):
    return {each["name"]: each["value"] for each in pod(job)["spec"]["containers"][0]["env"]}


def test_a_pod_is_given_addresses_that_it_can_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org/a#b: c")
    found = variables(documents(planned(tmp_path))[1])
    assert found["RAY_ADDRESS"] == "http://forcetune-head-svc:8265"
    assert found["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org/a#b: c"
    assert found["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray/auth_token"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert variables(documents(planned(tmp_path))[1])["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


@pytest.mark.parametrize(
    "text",
    [
        "studies: [digits]\n",
        "studies: [digits]",
        "  studies:\n    - digits\n\n\n",
        "\n---\n# a: comment\nstudies: ['$name', \"ż\\n\"]\n\n  \n\t\n...\n",
        "studies: |\n  two\n\n  lines",
        "",
    ],
)
def test_the_file_reaches_the_cluster_as_it_is(tmp_path, text):
    night = planned(tmp_path)
    night.file.write_text(text)
    config, _ = documents(night)
    assert config["data"] == {"nightly.yaml": text if text.endswith("\n") or not text else f"{text}\n"}


def test_what_cannot_be_an_image_or_a_file_is_refused(tmp_path):
    night = planned(tmp_path)
    with pytest.raises(InputError, match="--image 'a b': allowed: the name of an image"):
        timers.kubernetes(night, "a b")
    night.file.write_bytes(b"\xff")
    with pytest.raises(InputError, match="nightly.yaml: is not text in UTF-8"):
        timers.kubernetes(night, "image")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-01-31 01:59:59", "2026-01-31 02:00"),
        ("2026-01-31 02:00", "2026-02-01 02:00"),
        ("2026-12-31 23:00", "2027-01-01 02:00"),
    ],
)
def test_the_next_night(now, expected):
    assert timers.next_night("02:00", datetime.fromisoformat(now)) == datetime.fromisoformat(expected)


def test_the_next_night_is_by_the_clock_also_where_it_is_changed():
    berlin = ZoneInfo("Europe/Berlin")
    after = timers.next_night("02:00", datetime(2026, 10, 24, 12, tzinfo=berlin))
    assert after == datetime(2026, 10, 25, 2, tzinfo=berlin)

"""Timers for nights, as a shell and Kubernetes read them; tests/cluster runs a real cron and systemd."""

import os
import re
import stat
import subprocess
import sys
import tomllib
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo

import kubernetes_validate
import pytest
import yaml
from shared_constants import PRINTING_SCRIPT, REPOSITORY

from forcetune import timers
from forcetune.errors import InputError
from forcetune.timers.crontab import COMMAND_LIMIT_BYTES, LINE_MARK
from forcetune.timers.night import NIGHT_VARIABLES, SECRET_VARIABLES

TRICKY_FOLDER_NAMES = [
    "plain",
    "with a space",
    "100% of it",
    'it\'s "quoted"',
    "$HOME `id` $(id)",
    "a;b&c|d #e >> f",
    "żółć {x}",
    "~",
]
# The program has the options of `crontab` that forcetune uses. It keeps the table in a file with the ending .table.
CRONTAB_PROGRAM = """#!/bin/sh
case "$1" in
-l) cat "$0.table" 2>/dev/null || { echo "no crontab for somebody" >&2; exit 1; } ;;
-) cat >"$0.new"; if [ -e "$0.refuses" ]; then echo '"-":1: bad minute' >&2; exit 1; fi; mv "$0.new" "$0.table" ;;
esac
"""


@pytest.fixture(autouse=True)
def unset_variables(monkeypatch):
    for name in (*NIGHT_VARIABLES, *SECRET_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=TRICKY_FOLDER_NAMES)
def folder(tmp_path, request):
    """Return a folder whose name has characters that cron, the shell or Kubernetes interprets."""
    path = tmp_path / request.param
    path.mkdir()
    return path


@pytest.fixture
def reporting_python(tmp_path, monkeypatch):
    """Replace Python by a program that prints its folder, its variables and its arguments."""
    program = write_program(tmp_path / "it's 100% a=$python", PRINTING_SCRIPT)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.fixture
def crontab(tmp_path, monkeypatch):
    """Return the table of a `crontab` that stands first on PATH."""
    program = write_program(tmp_path / "bin" / "crontab", CRONTAB_PROGRAM)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program.with_suffix(".table")


def write_program(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def plan_night(folder, name="nightly.yaml", at="02:00"):
    (folder / name).write_text("studies: [digits]\n")
    return timers.plan(folder / name, at, folder)


def extract_command(line):
    """Return the command of a crontab line as cron passes it to the shell."""
    *time, command = line.split(" ", 5)
    assert len(time) == 5
    assert not re.search(r"(?<!\\)%", command), "cron would end the command here"
    return command.replace(r"\%", "%")


def run_as_cron(line):
    environment = {"HOME": "/", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    return subprocess.run(
        ["/bin/sh", "-c", extract_command(line)], env=environment, cwd="/", capture_output=True, check=False
    )


def test_the_line_of_the_crontab_runs_what_was_planned(folder, reporting_python, monkeypatch):
    monkeypatch.setenv("FORCETUNE_STATE", f"{folder}/state")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000/?a=1&b=%20'\"$HOME")
    night = plan_night(folder, "a night's.yaml")
    result = run_as_cron(timers.cron(night))
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    lines = night.log.read_text().splitlines()
    assert lines[0] == str(folder)
    assert f"FORCETUNE_STATE={folder}/state" in lines
    assert "MLFLOW_TRACKING_URI=http://mlflow:5000/?a=1&b=%20'\"$HOME" in lines
    assert lines[-4:] == ["-m", "forcetune", "nightly", str(night.file)]


def test_output_of_a_night_is_appended_and_its_exit_code_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(write_program(tmp_path / "python", "#!/bin/sh\necho no >&2\nexit 3\n")))
    night = plan_night(tmp_path)
    assert [run_as_cron(timers.cron(night)).returncode for _ in range(2)] == [3, 3]
    assert night.log.read_text() == "no\nno\n"


def test_a_crontab_line_has_this_form(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    monkeypatch.setenv("RAY_ADDRESS", "http://ray:8265")
    line = timers.cron(plan_night(tmp_path, at="02:05"))
    assert line == (
        f"5 2 * * * cd {tmp_path} && RAY_ADDRESS=http://ray:8265 /venv/bin/python -m forcetune nightly "
        f"{tmp_path}/nightly.yaml >> {tmp_path}/nightly.log 2>&1 # by forcetune schedule"
    )


def test_a_line_that_cron_would_not_take_is_refused(tmp_path, monkeypatch):
    for name in ("NO_PROXY", "PYTHONPATH"):
        monkeypatch.setenv(name, "/" + "x" * (COMMAND_LIMIT_BYTES // 2))
    with pytest.raises(InputError, match=r"bytes, and cron allows 998: .*PYTHONPATH, NO_PROXY"):
        timers.cron(plan_night(tmp_path))


def test_relative_paths_are_taken_from_where_it_was_planned(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "nightly.yaml").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FORCETUNE_STORAGE", "sqlite:///optuna.db")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "token")
    monkeypatch.setenv("PYTHONPATH", "src:../lib")
    monkeypatch.setenv("FORCETUNE_STATE", "s3://bucket/state")
    night = timers.plan("../nightly.yaml", "23:59", "../there")
    assert (night.file, night.folder) == (tmp_path / "nightly.yaml", tmp_path / "there")
    assert night.log == tmp_path / "there" / "nightly.log"
    assert night.variables == {
        "FORCETUNE_STORAGE": f"sqlite:///{tmp_path}/here/optuna.db",
        "RAY_AUTH_TOKEN_PATH": f"{tmp_path}/here/token",
        "PYTHONPATH": f"{tmp_path}/here/src:{tmp_path}/lib",
        "FORCETUNE_STATE": "s3://bucket/state",
    }
    assert timers.plan("../nightly.yaml", "23:59", log="a.log").log == tmp_path / "here" / "a.log"


def test_two_nights_of_a_folder_have_a_log_each(tmp_path):
    assert {plan_night(tmp_path, name).log.name for name in ("nightly.yaml", "b.yaml")} == {"nightly.log", "b.log"}


def test_symbolic_links_are_kept(tmp_path):
    (tmp_path / "release").mkdir()
    (tmp_path / "current").symlink_to("release")
    assert plan_night(tmp_path / "current").file == tmp_path / "current" / "nightly.yaml"


@pytest.mark.parametrize("at", ["24:00", "2:00", "02:60", "02.00", "02:00\n", "", "٠٢:٠٠"])
def test_what_is_no_time_is_refused(tmp_path, at):
    with pytest.raises(InputError, match=r"--at '.*': allowed: a time of the day from 00:00 to 23:59"):
        plan_night(tmp_path, at=at)


@pytest.mark.parametrize("name", ["two\nlines", "a\\b", "end ", "bell\a", "\udc80"])
def test_a_path_that_a_timer_would_misread_is_refused(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    with pytest.raises(InputError, match=r"the path '.*' cannot be scheduled.*allowed: text without line breaks"):
        plan_night(folder, "nightly.yaml") if name != "end " else plan_night(tmp_path, "nightly.yaml ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.yaml", "02:00"), r"/no.yaml: there is no such file"),
        (("nightly.yaml", "02:00", "nowhere"), r"/nowhere: there is no such folder"),
        (("nightly.yaml", "02:00", None, "nowhere/log"), r"/nowhere: there is no such folder"),
        (("nightly.yaml", "02:00", None, "."), r"--log /.*: is a folder"),
    ],
)
def test_missing_files_and_folders_are_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nightly.yaml").touch()
    with pytest.raises(InputError, match=message):
        timers.plan(*arguments)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
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
def test_a_secret_is_refused_and_not_shown(tmp_path, monkeypatch, name, value, remedy):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{name} .*{re.escape(remedy)}") as error:
        plan_night(tmp_path)
    assert "hunter2" not in str(error.value)


def test_a_path_of_python_that_a_timer_would_misread_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/venv\n/bin/python")
    with pytest.raises(InputError, match="the path of Python"):
        timers.cron(plan_night(tmp_path))


FOREIGN_TABLE = (
    b"# mine\r\nMAILTO=me@x\n\n0 2 * * * nightly 100\\% \xff\x0c \n# 0 2 * * * nightly x # by forcetune schedule\n"
)


def test_a_night_is_installed_replaced_and_removed(folder, crontab):
    crontab.write_bytes(FOREIGN_TABLE)
    early, other, late = plan_night(folder), plan_night(folder, "other.yaml", "04:00"), plan_night(folder, at="13:30")
    assert timers.install(early) is None
    assert timers.install(other) is None
    assert timers.install(late) == timers.cron(early)
    expected = f"{timers.cron(late)}\n{timers.cron(other)}\n".encode()
    assert crontab.read_bytes() == FOREIGN_TABLE + expected
    assert timers.installed() == [(late.file, "13:30"), (other.file, "04:00")]
    assert timers.uninstall(late.file)
    assert not timers.uninstall(late.file)
    assert timers.uninstall(other.file)
    assert crontab.read_bytes() == FOREIGN_TABLE


def test_equal_lines_become_one(tmp_path, crontab):
    line = timers.cron(plan_night(tmp_path))
    crontab.write_text(f"{line}\n# between\n{line}\n")
    assert timers.install(plan_night(tmp_path, at="03:00")) == line
    assert crontab.read_text() == f"{timers.cron(plan_night(tmp_path, at='03:00'))}\n# between\n"


def test_lines_that_a_user_edited_are_found(tmp_path, crontab):
    line = timers.cron(plan_night(tmp_path))
    workdays = line.replace("0 2 * * *", "0\t2 * * 1-5").replace("cd ", "renice 19 $$; cd ")
    broken = f"0 2 * * * echo 'nightly{LINE_MARK}"
    crontab.write_text(f"{workdays}\n{broken}\n1 2 * * * forcetune nightly{LINE_MARK}\n")
    assert timers.installed() == [(tmp_path / "nightly.yaml", "0 2 * * 1-5")]
    assert timers.install(plan_night(tmp_path)) == workdays


def test_a_night_is_installed_for_a_user_without_a_table(tmp_path, crontab):
    assert timers.installed() == []
    assert timers.install(plan_night(tmp_path)) is None
    assert crontab.read_text() == f"{timers.cron(plan_night(tmp_path))}\n"
    assert timers.uninstall(tmp_path / "nightly.yaml")
    assert crontab.read_text() == ""
    assert timers.installed() == []


def test_a_refused_table_changes_nothing(tmp_path, crontab):
    crontab.write_bytes(FOREIGN_TABLE)
    crontab.with_suffix(".refuses").touch()
    with pytest.raises(InputError, match=r'the crontab was not changed, .*: "-":1: bad minute'):
        timers.install(plan_night(tmp_path))
    assert crontab.read_bytes() == FOREIGN_TABLE


def test_a_table_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path, crontab):
    refusing_program = (
        "#!/bin/sh\nif [ $1 = - ]; then touch $0.written; fi\necho 'you are not allowed to use this' >&2; exit 1\n"
    )
    write_program(crontab.with_suffix(""), refusing_program)
    with pytest.raises(InputError, match="the crontab cannot be read: you are not allowed to use this"):
        timers.install(plan_night(tmp_path))
    assert not crontab.with_suffix(".written").exists()


@pytest.mark.parametrize(
    "change_table", [lambda night: timers.install(night), lambda night: timers.uninstall(night.file)]
)
def test_a_machine_without_crontab_is_pointed_to_systemd(tmp_path, monkeypatch, change_table):
    night = plan_night(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match="`crontab` cannot be started .*install cron, or use `forcetune schedule systemd`"
    ):
        change_table(night)


def test_the_units_of_systemd_have_this_form(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", 'http://mlflow:5000/%20"$HOME')
    folder = tmp_path / '100% "it"'
    folder.mkdir()
    units = timers.systemd(plan_night(folder, at="02:05"))
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


def test_an_installed_package_has_the_templates():
    package_data = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert package_data["forcetune.timers"] == ["templates/*"]
    packaged = {file.name: file.read_bytes() for file in files("forcetune.timers").joinpath("templates").iterdir()}
    assert packaged == {path.name: path.read_bytes() for path in (REPOSITORY / "cluster" / "timers").iterdir()}


def test_systemd_starts_no_program_with_quotes_in_its_path(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/it's/bin/python")
    with pytest.raises(InputError, match="systemd cannot start /it's/bin/python"):
        timers.systemd(plan_night(tmp_path))


NIGHTLY_FILE_NAMES = ["nightly", "digits", "Digits", "a b", "a-b", "夜", "x" * 34, "x" * 35, "-", "y" * 200]


def test_files_of_other_names_have_units_of_other_names(tmp_path):
    names = [plan_night(tmp_path, f"{name}.yaml").name for name in NIGHTLY_FILE_NAMES]
    assert names[:2] == ["forcetune-nightly", "forcetune-nightly-digits"]
    assert len({*names}) == len(NIGHTLY_FILE_NAMES)
    for name in names:
        assert re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
        assert len(name) <= 52


def load_documents(night, image="registry.example.org/forcetune:0.1.0"):
    return list(yaml.safe_load_all(timers.kubernetes(night, image)))


def test_the_cronjob_is_valid(folder):
    config, job = load_documents(plan_night(folder, "Team 1.yaml", at="02:05"))
    for document in (config, job):
        kubernetes_validate.validate(document, "1.37", strict=True)
    assert config["metadata"] == job["metadata"]
    assert (job["spec"]["schedule"], job["spec"]["concurrencyPolicy"]) == ("5 2 * * *", "Forbid")


def find_pod(job):
    return job["spec"]["jobTemplate"]["spec"]["template"]


def test_a_refusal_an_alarm_and_a_night_that_still_runs_are_not_tried_again(tmp_path):
    _, job = load_documents(plan_night(tmp_path))
    spec = job["spec"]["jobTemplate"]["spec"]
    (rule,) = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert rule["onExitCodes"] == {"containerName": "nightly", "operator": "In", "values": [2, 3, 4]}
    assert find_pod(job)["spec"]["restartPolicy"] == "Never"


def test_the_pod_is_a_client_like_that_of_cluster_kuberay(tmp_path):
    _, job = load_documents(plan_night(tmp_path))
    text = (Path(__file__).parents[1] / "cluster" / "kuberay" / "rayjob.yaml").read_text()
    client = yaml.safe_load(text)["spec"]["submitterPodTemplate"]
    (container,), (client_container,) = (template["spec"]["containers"] for template in (find_pod(job), client))
    assert find_pod(job)["metadata"] == client["metadata"]
    for name in ("restartPolicy", "automountServiceAccountToken", "securityContext"):
        assert find_pod(job)["spec"][name] == client["spec"][name]
    assert container["securityContext"] == client_container["securityContext"]
    assert container["image"] == client_container["image"]
    assert {*map(str, client["spec"]["volumes"])} <= {*map(str, find_pod(job)["spec"]["volumes"])}
    assert {*map(str, client_container["volumeMounts"])} <= {*map(str, container["volumeMounts"])}
    assert {volume["name"] for volume in find_pod(job)["spec"]["volumes"]} == {
        mount["name"] for mount in container["volumeMounts"]
    }


def test_the_file_has_its_own_name_in_the_pod(folder):
    night = plan_night(folder, "Team $(RAY_ADDRESS) 1.yaml")
    _, job = load_documents(night)
    (container,) = find_pod(job)["spec"]["containers"]
    (volume,) = [volume for volume in find_pod(job)["spec"]["volumes"] if volume["name"] == "file"]
    assert volume["configMap"]["items"] == [{"key": "nightly.yaml", "path": night.file.name}]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    path = f"{mounts['file']}/{night.file.name}"
    assert [word.replace("$$", "$") for word in container["command"]] == ["forcetune", "nightly", path]
    assert not re.search(r"(?<!\$)\$\(", container["command"][-1])
    assert mounts["lock"] == f"{container['workingDir']}/.forcetune"


def read_variables(job):
    return {variable["name"]: variable["value"] for variable in find_pod(job)["spec"]["containers"][0]["env"]}


def test_a_pod_is_given_addresses_that_it_can_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org/a#b: c")
    variables = read_variables(load_documents(plan_night(tmp_path))[1])
    assert variables["RAY_ADDRESS"] == "http://forcetune-head-svc:8265"
    assert variables["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org/a#b: c"
    assert variables["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray/auth_token"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert read_variables(load_documents(plan_night(tmp_path))[1])["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


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
    night = plan_night(tmp_path)
    night.file.write_text(text)
    config, _ = load_documents(night)
    assert config["data"] == {"nightly.yaml": text if text.endswith("\n") or not text else f"{text}\n"}


def test_what_cannot_be_an_image_or_a_file_is_refused(tmp_path):
    night = plan_night(tmp_path)
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
def test_the_next_night_is_the_next_time_of_the_clock(now, expected):
    assert timers.next_night("02:00", datetime.fromisoformat(now)) == datetime.fromisoformat(expected)


def test_the_next_night_keeps_its_time_when_the_clock_changes():
    berlin = ZoneInfo("Europe/Berlin")
    next_night = timers.next_night("02:00", datetime(2026, 10, 24, 12, tzinfo=berlin))
    assert next_night == datetime(2026, 10, 25, 2, tzinfo=berlin)

"""The user and the commit of a study, in the tags that MLflow itself uses."""

import json
import os
import socket
import subprocess

import pytest

from forcetune import tracking
from forcetune.jobs import submission
from forcetune.study import Study
from forcetune.tracking import RUN_CONTEXT_VARIABLE, collect_origin_tags


@pytest.fixture(autouse=True)
def isolated_folder(tmp_path, monkeypatch):
    """Work in a folder outside any repository, without a variable that names the origin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_CONTEXT_VARIABLE, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def test_the_user_and_the_commit_are_tags(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    tags = collect_origin_tags()
    assert tags == {"mlflow.user": "ada", "mlflow.source.name": "forcetune", "mlflow.source.type": "LOCAL"}
    identity_options = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], [*identity_options, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *command], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert collect_origin_tags("JOB") == {**tags, "mlflow.source.type": "JOB", "mlflow.source.git.commit": commit}


def test_a_container_without_users_and_git_has_the_other_tags(monkeypatch):
    def raise_no_user():
        raise OSError("no user")

    monkeypatch.setattr("getpass.getuser", raise_no_user)
    monkeypatch.setenv("PATH", "")
    assert collect_origin_tags() == {"mlflow.source.name": "forcetune", "mlflow.source.type": "LOCAL"}


def test_a_job_has_its_owners_tags(monkeypatch):
    monkeypatch.setenv(RUN_CONTEXT_VARIABLE, json.dumps({"mlflow.user": "ada", "mlflow.source.type": "JOB"}))
    assert collect_origin_tags()["mlflow.user"] == "ada"
    assert collect_origin_tags()["mlflow.source.type"] == "JOB"


def test_a_job_of_an_account_without_a_name_belongs_to_its_number(monkeypatch):
    def raise_no_user():
        raise OSError("no user")

    monkeypatch.setattr("getpass.getuser", raise_no_user)
    trial = {"dataset": "synthetic", "model": "mlp", "method": "random", "density": 0.5}
    metadata = submission._metadata(Study.from_dict({"study": "s", "trial": trial}), "normal")
    assert metadata["forcetune.owner"] == f"{os.getuid()}@{socket.gethostname()}"


@pytest.mark.parametrize("broken", ["{", "[1]", ""])
def test_a_broken_variable_is_ignored(monkeypatch, broken):
    monkeypatch.setenv(RUN_CONTEXT_VARIABLE, broken)
    assert collect_origin_tags()["mlflow.source.name"] == "forcetune"


def test_runs_have_the_origin_tags(folder, search_study, monkeypatch):
    monkeypatch.setenv(RUN_CONTEXT_VARIABLE, json.dumps({"mlflow.user": "ada"}))
    search_study()
    for run in tracking.load_runs("s", f"sqlite:///{folder}/mlflow.db"):
        assert run["tags"]["mlflow.user"] == "ada"

"""Who ran a study and from which commit, as MLflow's own tags."""

import json
import subprocess

import pytest

from forcetune import tracking
from forcetune.tracking import RUN_CONTEXT_VARIABLE, collect_origin_tags


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """A folder that is in no repository, and nothing said by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_CONTEXT_VARIABLE, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def test_the_user_and_the_commit(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    before = collect_origin_tags()
    assert before == {"mlflow.user": "ada", "mlflow.source.name": "forcetune", "mlflow.source.type": "LOCAL"}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *command], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert collect_origin_tags("JOB") == {**before, "mlflow.source.type": "JOB", "mlflow.source.git.commit": commit}


def test_a_container_without_users_and_git(monkeypatch):
    def nobody():
        raise OSError("no user")

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.setenv("PATH", "")
    assert collect_origin_tags() == {"mlflow.source.name": "forcetune", "mlflow.source.type": "LOCAL"}


def test_a_job_has_its_owners_tags(monkeypatch):
    monkeypatch.setenv(RUN_CONTEXT_VARIABLE, json.dumps({"mlflow.user": "ada", "mlflow.source.type": "JOB"}))
    assert collect_origin_tags()["mlflow.user"] == "ada"
    assert collect_origin_tags()["mlflow.source.type"] == "JOB"


@pytest.mark.parametrize("broken", ["{", "[1]", ""])
def test_a_broken_variable_is_no_obstacle(monkeypatch, broken):
    monkeypatch.setenv(RUN_CONTEXT_VARIABLE, broken)
    assert collect_origin_tags()["mlflow.source.name"] == "forcetune"


def test_runs_have_them(folder, searched, monkeypatch):
    monkeypatch.setenv(RUN_CONTEXT_VARIABLE, json.dumps({"mlflow.user": "ada"}))
    searched()
    for run in tracking.load_runs("s", f"sqlite:///{folder}/mlflow.db"):
        assert run["tags"]["mlflow.user"] == "ada"

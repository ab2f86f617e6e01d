"""`on_end`: a program that reads why a study has ended, once over restarts."""

import json
import socket

import pytest
from commands import read_states, run_command, write_study
from rich.console import Console

from forcetune import run
from forcetune.study import Study

TRIAL = {
    "dataset": "synthetic",
    "model": "mlp",
    "width": 12,
    "epochs": 1,
    "method": "random",
    "density": {"low": 0.1, "high": 0.9},
}
RECORDING_PROGRAM = ["sh", "-c", "cat >> ends"]


@pytest.fixture
def search(folder):
    """Return a function that runs a search, whose program of `on_end` keeps what it reads, and returns the result."""

    def search(trial=None, **top):
        study = {"study": "s", "on_end": RECORDING_PROGRAM, **top, "trial": {**TRIAL, **(trial or {})}}
        return run_command(folder, "search", write_study(folder, study))

    return search


def read_ends(folder):
    path = folder / "ends"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_complete_study_is_announced_once_until_it_has_more_trials(search, folder):
    assert search(search={"trials": 1}, on_end=[]).exit_code == 0
    for trials, count in ((1, 1), (1, 1), (2, 2)):
        assert search(search={"trials": trials}).exit_code == 0
        assert len(read_ends(folder)) == count
    end = read_ends(folder)[-1]
    assert (end["study"], end["state"], end["reason"], end["trials"]) == ("s", "completed", None, 2)
    assert (end["outcomes"], end["reruns"], end["host"]) == ({"trained": 2}, 0, socket.gethostname())
    assert end["device_hours"] > 0


def test_a_budget_that_is_used_up_is_announced_with_its_reason(search, folder):
    for _ in range(2):
        assert search(search={"trials": 4, "budget": {"device_hours": 1e-9}}).exit_code == 0
    (end,) = read_ends(folder)
    assert (end["state"], end["outcomes"]) == ("ended early", {"trained": 1})
    assert end["reason"] == "the search ended early: the budget of 1e-09 device hours is used up"


def test_a_study_that_is_given_up_is_announced_each_time(search, folder):
    (folder / "my_broken.py").write_text("def score(network):\n    raise RuntimeError('mine')\n")
    for count in (1, 2):
        assert search({"method": "my_broken:score"}, search={"trials": 9, "max_failures": 0}).exit_code == 1
        assert len(read_ends(folder)) == count
    end = read_ends(folder)[0]
    assert (end["state"], end["outcomes"]) == ("failed", {"failed": 1})
    assert "the last failure: RuntimeError: mine" in end["reason"]


def test_a_job_that_is_given_up_is_announced_once_and_so_is_its_end_later(search, folder):
    assert search(search={"trials": 1}).exit_code == 0
    study = Study.from_dict(
        {"study": "s", "on_end": RECORDING_PROGRAM, "trial": TRIAL, "search": {"trials": 2, "sampler": "random"}}
    )
    for _ in range(2):
        run.announce_failure(study, "the driver of its job died 4 times", Console(quiet=True))
    assert [end["state"] for end in read_ends(folder)] == ["completed", "failed"]
    assert read_ends(folder)[1]["reason"] == "the driver of its job died 4 times"
    assert search(search={"trials": 2}).exit_code == 0
    run.announce_failure(study, "the driver of its job died 4 times", Console(quiet=True))
    assert [end["state"] for end in read_ends(folder)] == ["completed", "failed", "completed"]


@pytest.mark.parametrize(("program", "message"), [(["false"], "non-zero exit status 1"), (["sh", "\0"], "null byte")])
def test_a_program_that_fails_is_reported_once_and_fails_no_search(search, program, message):
    first, second = (search(search={"trials": 1}, on_end=program) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0)
    (line,) = [line for line in first.output.splitlines() if line.startswith("on_end: ")]
    assert message in line
    assert "on_end: " not in second.output


def test_a_program_that_does_not_exist_is_refused_before_anything_runs(search, folder):
    refused = search(on_end=["./notify-me"])
    assert refused.exit_code == 2
    assert "on_end: there is no program './notify-me'" in refused.stderr
    assert not (folder / "optuna.db").exists()


def test_the_program_may_change_once_the_study_has_trials(search, folder):
    assert search(search={"trials": 1}).exit_code == 0
    assert search(search={"trials": 2}, on_end=["tee", "last"]).exit_code == 0
    assert json.loads((folder / "last").read_text())["outcomes"] == {"trained": 2}
    assert len(read_ends(folder)) == 1
    assert read_states(folder, "s")[0] == ["COMPLETE", "COMPLETE"]

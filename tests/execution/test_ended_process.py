"""User functions that end the process: the failure names the function."""

import os
import subprocess
import sys
import time

import pytest
from commands import run_command, write_study

from forcetune.containment import ProcessEndError, contained
from forcetune.errors import InputError
from forcetune.execution.worker import execute
from forcetune.ledger.messages import Assignment
from forcetune.run import check_study, predict_cost
from forcetune.study import Study, Trial

CHECK_COMMAND = [sys.executable, "-m", "forcetune", "check"]
RANDOM_TRIAL_FIELDS = {"dataset": "synthetic", "model": "mlp", "method": "random", "density": 0.3, "epochs": 1}

ENDING_MODULE_CODE = """
import ctypes, os, sys, time
import torch
from torch import nn
from torch.nn import functional
from forcetune.data import load as load_data


def end():
    {ending}


def build(shape, classes):
    end()


class Forward(nn.Sequential):
    def __init__(self, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

    def forward(self, x):
        end()


def load(root):
    end()


def metric(logits, targets):
    end()


def loss(logits, targets):
    end()


def score(net):
    end()


def latency(model, example):
    end()


def train(model, masks, training, validation, trial):
    yield end()
"""
STUDY_KEYS_BY_FUNCTION = {
    "build": {"trial": {"model": "my_end:build"}},
    "Forward.forward": {"trial": {"model": "my_end:Forward"}},
    "load": {"trial": {"dataset": "my_end:load"}},
    "score": {"trial": {"method": "my_end:score"}},
    "metric": {"metrics": "my_end:metric"},
    "loss": {"loss": "my_end:loss"},
    "latency": {"measure": "my_end:latency"},
    "train": {"train": "my_end:train"},
}


def describe_study(function):
    return {
        "study": "s",
        **STUDY_KEYS_BY_FUNCTION[function],
        "trial": {**RANDOM_TRIAL_FIELDS, **STUDY_KEYS_BY_FUNCTION[function].get("trial", {})},
    }


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Yield a function that writes the user's module; Python forgets the module afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(ending):
        (tmp_path / "my_end.py").write_text(ENDING_MODULE_CODE.replace("{ending}", ending))
        sys.modules.pop("my_end", None)
        return tmp_path

    yield write
    sys.modules.pop("my_end", None)


@pytest.mark.parametrize("ending", ["raise SystemExit(0)", "os._exit(0)", "sys.exit(3)"])
@pytest.mark.parametrize("function", STUDY_KEYS_BY_FUNCTION)
def test_the_check_before_a_search_names_the_function(write_module, function, ending):
    write_module(ending)
    name = "my_end:end (my_end.py, line 10)"
    study = Study.from_dict(describe_study(function))
    with pytest.raises(InputError, match="which ends the process") as refused:
        _ = check_study(study), predict_cost(study)
    assert name in str(refused.value)


@pytest.mark.parametrize("ending", ["raise SystemExit(0)", "os._exit(0)"])
def test_a_module_that_ends_the_process_while_it_loads(write_module, ending):
    folder = write_module("pass")
    (folder / "my_end.py").write_text(f"import os\n{ending}\n")
    with pytest.raises(InputError, match=r"trial.model: .*the module my_end \(my_end.py, line 2\)"):
        Study.from_dict(describe_study("build"))


@pytest.mark.parametrize("ending", ["raise SystemExit(0)", "os._exit(0)", "sys.exit(3)"])
def test_in_a_worker_the_trial_fails_with_the_name_of_the_function(write_module, ending):
    folder = write_module(ending)
    for number, function in enumerate(("score", "train", "Forward.forward")):
        study = Study.from_dict(describe_study(function))
        checkpoints = str(folder / f"{number:04d}")
        assignment = Assignment(
            number, Trial(**study.trial), study.task, 1, "sqlite:///none.db", str(folder), checkpoints, 1
        )
        last = list(execute(assignment))[-1]
        assert last.outcome == "failed"
        assert last.reason.startswith("my_end:end (my_end.py, line 10) ")
        assert any("my_end.py" in line for line in last.trace)


def test_processes_that_are_forked_meanwhile_end_as_they_want():
    with contained():
        child = os.fork()
        if not child:
            os._exit(7)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def test_interrupts_and_errors_are_left_alone():
    for error in (KeyboardInterrupt, ValueError, GeneratorExit):
        with pytest.raises(error), contained():
            raise error
    with (
        pytest.raises(ProcessEndError, match=r"test_ended_process:test_interrupts\S* .*raised SystemExit\(5\)"),
        contained(),
    ):
        raise SystemExit(5)


@pytest.mark.parametrize(
    ("function", "ending", "end"),
    [
        ("metric", "raise SystemExit(0)", "raised SystemExit(0)"),
        ("build", "os._exit(0)", "called os._exit(0)"),
        ("train", "sys.exit(3)", "raised SystemExit(3)"),
    ],
)
def test_check_names_a_function_that_python_can_contain(write_module, function, ending, end):
    folder = write_module(ending)
    refused = run_command(folder, "check", write_study(folder, describe_study(function)))
    assert refused.exit_code == 2
    assert refused.stderr.startswith("forcetune: study.yaml: ")
    assert f"my_end:end (my_end.py, line 10) {end}" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("function", "ending", "message"),
    [
        ("build", "os._exit(0)", "my_end:end (my_end.py, line 10) called os._exit(0)"),
        ("loss", "ctypes.CDLL(None)._exit(0)", "ended the process with exit code 0"),
        ("score", "ctypes.string_at(0)", "my_end:end (my_end.py, line 10) ended the process with signal 11 (SIGSEGV)"),
        ("load", "time.sleep(600)", "my_end:end (my_end.py, line 10) has not ended within 12 s"),
    ],
)
def test_check_names_the_function_and_exits_as_for_refused_input(write_module, function, ending, message):
    folder = write_module(ending)
    write_study(folder, describe_study(function))
    started = time.monotonic()
    completed = subprocess.run(
        [*CHECK_COMMAND, "study.yaml", "--timeout", "12" if "sleep" in ending else "200"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert completed.returncode == 2, completed.stderr
    assert completed.stderr.startswith("forcetune: study.yaml: ")
    assert message in completed.stderr
    assert len(completed.stderr.strip().splitlines()) == 1
    assert time.monotonic() - started < 100


def test_check_of_a_network_names_the_function(write_module):
    refused = run_command(write_module("os._exit(0)"), "check", "my_end:build")
    assert refused.exit_code == 2
    assert "my_end:end (my_end.py, line 10) called os._exit(0)" in refused.stderr


def test_nothing_of_a_check_that_is_killed_goes_on(write_module):
    folder = write_module("open('pid', 'w').write(str(os.getpid())); time.sleep(600)")
    (folder / "study.yaml").write_text(repr(describe_study("build")).replace("'", '"'))
    command = subprocess.Popen([*CHECK_COMMAND, "study.yaml"], stderr=subprocess.DEVNULL)
    try:
        _wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
    finally:
        command.kill()
        command.wait()
    pid = int((folder / "pid").read_text())
    assert pid != command.pid, "user code runs in a process of its own"
    _wait_until(lambda: not _is_running(pid))


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_study_that_names_functions_of_forcetune_too(write_module):
    """Functions of forcetune are not taken for user functions; the error names the one that ended the process."""
    from forcetune.names import resolve

    write_module("os._exit(0)")
    with contained("forcetune.pruning"):
        pass
    with pytest.raises(InputError, match=r"my_end:end .my_end.py, line 10. called os._exit.0."), contained("my_end"):
        resolve("my_end:end", {}, "metrics")()

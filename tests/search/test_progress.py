"""What a search shows while it runs."""

import io

import pytest
from rich.console import Console

from forcetune.ledger.messages import TrialOutcome
from forcetune.pruning import METHODS
from forcetune.search import progress as module
from forcetune.search.progress import Progress, describe
from forcetune.study import Trial


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, height=40)


def trials(study, *densities):
    return [study.make_trial({"method": "snip", "density": density}) for density in densities]


def test_a_line_for_each_trial_where_there_is_no_terminal(make_study, clock):
    study = make_study(search={"trials": 4})
    plain = console(terminal=False)
    with Progress(study, plain) as shown:
        first, second, third = trials(study, 0.2, 0.1, 0.05)
        shown.start_trial(0, first)
        shown.start_trial(1, second)
        shown.record_epoch(0, 1)
        clock[0] += 30
        shown.end_trial(0, first, TrialOutcome("trained", None, [0.9, 0.2]))
        shown.end_trial(1, second, TrialOutcome("trained", None, [0.9, 0.1]))  # dominates the first
        shown.start_trial(2, third)
        shown.end_trial(2, third, TrialOutcome("collapsed", "no path", [0.25, 0.05]))
    lines = plain.file.getvalue().splitlines()
    assert lines[0].startswith("1 of 4 done, 1 running, front 1, about 1 min 30 s left | snip at 80.00% sparsity")
    assert "2 of 4 done, 0 running, front 1" in lines[1]
    assert lines[2].startswith("3 of 4 done (1 collapsed), 0 running, front 1, about 10 s left")
    assert lines[2].endswith("collapsed, no path")


def test_the_time_left_counts_epochs_of_running_trials(make_study, clock):
    study = make_study({"epochs": 10}, search={"trials": 2})
    with Progress(study, console(terminal=False)) as shown:
        (trial,) = trials(study, 0.1)
        shown.start_trial(0, trial)
        shown.record_epoch(0, 1)
        clock[0] += 50
        shown.end_trial(0, trial, TrialOutcome("trained", None, [0.9, 0.1]))
        shown.start_trial(1, trial)
        shown.record_epoch(1, 5)
        # 1.5 trials in 50 s, half a trial to go
        assert shown._time_left() == "about 17 s left"


def test_a_live_block_on_a_terminal(make_study):
    study = make_study(search={"trials": 4})
    live = console(terminal=True)
    with Progress(study, live) as shown:
        first, second = trials(study, 0.2, 0.1)
        shown.start_trial(0, first)
        shown.start_trial(1, second)
        shown.record_epoch(1, 1)
        shown.end_trial(0, first, TrialOutcome("trained", None, [0.9, 0.2]))
    text = live.file.getvalue()
    assert "1 of 4 done, 1 running, front 1" in text
    assert "snip at 90.00% sparsity: epoch 1/2" in text
    assert "front so far" in text


def test_a_taken_up_study_shows_what_it_has(make_study):
    study = make_study(search={"trials": 4})
    shown = Progress(study, console(terminal=False))
    shown.restore(trials(study, 0.2)[0], TrialOutcome("trained", None, [0.9, 0.2]))
    assert shown.done == 1
    assert shown._time_left() == "time left not yet known", "an earlier driver's time is not ours"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_described(method):
    assert describe(Trial(dataset="digits", model="mlp", method=method, density=0.05)).startswith(method)


def test_describe(make_study):
    study = make_study()
    assert (
        describe(study.make_trial({"method": "force", "density": 0.05})) == "force T=20 exponential at 95.00% sparsity"
    )

"""The progress that a search shows while it runs."""

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from forcetune.ledger.messages import TrialOutcome
from forcetune.pruning import METHODS
from forcetune.search import progress as progress_module
from forcetune.search.progress import Progress, describe
from forcetune.study import Trial


@pytest.fixture
def clock(monkeypatch):
    """Return a list with the time in seconds, which a test sets."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def make_console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, height=40)


def make_trials(study, *densities):
    return [study.make_trial({"method": "snip", "density": density}) for density in densities]


def test_a_line_for_each_trial_where_there_is_no_terminal(make_study, clock):
    study = make_study(search={"trials": 4})
    plain = make_console(terminal=False)
    with Progress(study, plain) as progress:
        first, second, third = make_trials(study, 0.2, 0.1, 0.05)
        progress.start_trial(0, first)
        progress.start_trial(1, second)
        progress.record_epoch(0, 1)
        clock[0] += 30
        progress.end_trial(0, first, TrialOutcome("trained", None, [0.9, 0.2]))
        progress.end_trial(1, second, TrialOutcome("trained", None, [0.9, 0.1]))  # it dominates the first trial
        progress.start_trial(2, third)
        progress.end_trial(2, third, TrialOutcome("collapsed", "no path", [0.25, 0.05]))
    lines = plain.file.getvalue().splitlines()
    assert lines[0].startswith("1 of 4 done, 1 running, front 1, about 1 min 30 s left | snip at 80.00% sparsity")
    assert "2 of 4 done, 0 running, front 1" in lines[1]
    assert lines[2].startswith("3 of 4 done (1 collapsed), 0 running, front 1, about 10 s left")
    assert lines[2].endswith("collapsed, no path")


def test_brackets_in_a_reason_are_no_markup(make_study):
    study = make_study(search={"trials": 4})
    plain = make_console(terminal=False)
    with Progress(study, plain) as progress:
        (trial,) = make_trials(study, 0.2)
        progress.end_trial(0, trial, TrialOutcome("failed", "KeyError: no [seed] of [/data/images] :warning:"))
        progress.warn("measure: [latency]")
    failed, warning = plain.file.getvalue().splitlines()
    assert failed.endswith("failed, KeyError: no [seed] of [/data/images] :warning:")
    assert warning == "measure: [latency]"


def test_the_time_left_counts_epochs_of_running_trials(make_study, clock):
    study = make_study({"epochs": 10}, search={"trials": 2})
    with Progress(study, make_console(terminal=False)) as progress:
        (trial,) = make_trials(study, 0.1)
        progress.start_trial(0, trial)
        progress.record_epoch(0, 1)
        clock[0] += 50
        progress.end_trial(0, trial, TrialOutcome("trained", None, [0.9, 0.1]))
        progress.start_trial(1, trial)
        progress.record_epoch(1, 5)
        # 1.5 trials took 50 s, and half a trial is left.
        assert progress._time_left() == "about 17 s left"


def test_a_live_block_on_a_terminal(make_study):
    study = make_study(search={"trials": 4})
    live = make_console(terminal=True)
    with Progress(study, live) as progress:
        first, second = make_trials(study, 0.2, 0.1)
        progress.start_trial(0, first)
        progress.start_trial(1, second)
        progress.record_epoch(1, 1)
        progress.end_trial(0, first, TrialOutcome("trained", None, [0.9, 0.2]))
    text = live.file.getvalue()
    assert "1 of 4 done, 1 running, front 1" in text
    assert "snip at 90.00% sparsity: epoch 1/2" in text
    assert "front so far" in text


@pytest.fixture
def notebook_outputs(monkeypatch):
    """Replace IPython's display, and return a list of the outputs that a notebook shows, one after the other."""
    outputs = []

    def show(shown):
        outputs.append(shown._repr_mimebundle_((), ()))

    def display(shown, display_id=None):
        show(shown)
        return SimpleNamespace(update=show)

    module = ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return outputs


def test_a_live_table_in_a_notebook(make_study, clock, notebook_outputs):
    study = make_study(search={"trials": 4})
    console = Console(file=io.StringIO(), force_jupyter=True)
    with Progress(study, console) as progress:
        first, second = make_trials(study, 0.2, 0.1)
        progress.start_trial(0, first)
        progress.start_trial(1, second)
        assert len(notebook_outputs) == 1, "shown half a second ago at the earliest"
        clock[0] += progress_module.REFRESH_INTERVAL_S
        progress.record_epoch(1, 1)
        assert len(notebook_outputs) == 2
        progress.end_trial(0, first, TrialOutcome("trained", None, [0.9, 0.2]))
    assert len(notebook_outputs) == 3, "the last state is always shown"
    text, html = notebook_outputs[-1]["text/plain"], notebook_outputs[-1]["text/html"]
    assert "1 of 4 done, 1 running, front 1" in text
    assert "snip at 90.00% sparsity: epoch 1/2" in text
    assert "front so far" in html
    assert console.file.getvalue() == "", "no line for each trial"


def test_a_study_that_is_taken_up_again_shows_its_trials(make_study):
    study = make_study(search={"trials": 4})
    progress = Progress(study, make_console(terminal=False))
    progress.count(make_trials(study, 0.2)[0], TrialOutcome("trained", None, [0.9, 0.2]))
    assert progress.done == 1
    assert progress._time_left() == "time left not yet known", "the time of an earlier driver does not count"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_described(method):
    assert describe(Trial(dataset="digits", model="mlp", method=method, density=0.05)).startswith(method)


def test_the_density_of_whole_channels_is_a_bound():
    fields = {"dataset": "digits", "model": "mlp", "density": 0.05}
    assert describe(Trial(method="snap", **fields)) == "snap at 95.00% sparsity or more"
    by_channel = Trial(method="snip", granularity="channel", **fields)
    assert describe(by_channel) == "snip by channel at 95.00% sparsity or more"


def test_a_description_has_the_schedule_of_an_iterative_method(make_study):
    study = make_study()
    assert (
        describe(study.make_trial({"method": "force", "density": 0.05})) == "force T=20 exponential at 95.00% sparsity"
    )

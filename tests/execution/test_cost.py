"""The predicted cost of a search."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from forcetune import trial
from forcetune.execution import cost
from forcetune.study import Study


@pytest.fixture
def timed(monkeypatch):
    """Make trials of 64 training images take the time that their fields imply: 2 s a pruning step, 3 s an epoch."""
    clock = [0.0]

    def prepare(requested, task, fetch_masks):
        clock[0] += 2.0 * requested.iterations
        return SimpleNamespace(training=range(64))

    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(trial, "prepare", prepare)
    monkeypatch.setattr(trial, "measure_epoch_seconds", lambda prepared, steps, processes: 3.0 / processes)
    monkeypatch.setattr(cost, "_count_concurrent_trials", lambda study: 2)


def parse_study(search=None, resources=None, **fields):
    fixed = {"dataset": "synthetic", "model": "mlp", "width": 12, "method": "force", "density": 0.1}
    return Study.from_dict(
        {"study": "s", "trial": {**fixed, **fields}, "search": search or {}, "resources": resources or {}}
    )


def test_the_slowest_and_the_fastest_trial(folder, timed):
    prediction = cost.predict(parse_study({"sampler": "grid"}, iterations=[2, 10], epochs=[1, 5]))
    assert prediction.fastest == pytest.approx(2 * 2 + 1 * 3)
    assert prediction.slowest == pytest.approx(2 * 10 + 5 * 3)
    assert prediction.trials == 4
    assert prediction.fastest < prediction.mean < prediction.slowest


def test_hours_of_all_trials(folder, timed):
    prediction = cost.predict(parse_study({"trials": 10}, iterations=5, epochs=2))
    assert prediction.mean == prediction.fastest == prediction.slowest == pytest.approx(16)
    seconds = 10 * (16 + cost.TRIAL_OVERHEAD_S)
    assert prediction.device_hours * 3600 == pytest.approx(seconds)
    assert prediction.hours * 3600 == pytest.approx(cost.RAY_START_S + seconds / 2)


def test_several_processes_share_the_training_and_not_the_pruning(folder, timed):
    prediction = cost.predict(parse_study({"trials": 10}, {"cpus": 2, "processes": 2}, iterations=5, epochs=2))
    assert prediction.mean == pytest.approx(2 * 5 + 2 * 3 / 2)


def test_later_levels_are_counted_from_the_step_at_which_they_begin(folder, timed):
    lottery = {"method": "lottery", "iterations": 2, "epochs": 5, "batch_size": 32}
    whole, rewound = (cost.predict(parse_study({"trials": 10}, **lottery, rewind_step=step)).mean for step in (0, 4))
    assert whole - rewound == pytest.approx(2 * 2 * 3), "four steps are two of the five epochs of both later levels"


def test_early_stopping_lowers_the_prediction(folder, timed):
    stopped, unstopped = (
        cost.predict(parse_study({"trials": 200, "stopping": rule}, iterations=5, epochs=16))
        for rule in ("pareto", "none")
    )
    assert 0.3 < stopped.device_hours / unstopped.device_hours < 0.6


def test_the_search_prints_its_time_beside_the_prediction(folder, timed):
    study = parse_study({"trials": 10}, iterations=5, epochs=2)
    out = io.StringIO()
    cost.report(study, 1.0, Console(file=out))
    assert out.getvalue() == "", "no cost was predicted before"
    prediction = cost.predict(study)
    cost.report(study, 2 * prediction.hours, Console(file=out, width=200))
    assert out.getvalue() == "the search took 3 min 11 s; `forcetune check` predicted 1 min 36 s (-50%)\n"
    out.truncate(0)
    cost.report(parse_study({"trials": 11}, iterations=5, epochs=2), 1.0, Console(file=out))
    assert "predicted" not in out.getvalue(), "the prediction is for another number of trials"


def test_a_prediction_that_cannot_be_saved_is_still_returned(folder, timed, caplog):
    (folder / ".forcetune").touch()  # a file where a folder would be made
    assert cost.predict(parse_study({"trials": 10}, iterations=5, epochs=2)).mean == pytest.approx(16)
    assert "s.cost.json cannot be written" in caplog.text


def test_real_trials_are_measured(folder):
    prediction = cost.predict(parse_study({"trials": 4}, epochs=2, iterations=2, method=["random", "force"]))
    shortest, longest = sorted([prediction.fastest, prediction.slowest])  # noise can swap them
    assert 0 < shortest <= prediction.mean <= longest

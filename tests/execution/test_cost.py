"""What a search is predicted to cost."""

import io

import pytest
from rich.console import Console

from forcetune import trial
from forcetune.execution import cost
from forcetune.study import Study


@pytest.fixture
def timed(monkeypatch):
    """Trials that take what their fields say: 2 s a pruning step, 3 s an epoch."""
    clock = [0.0]

    def prepare(wanted, task):
        clock[0] += 2.0 * wanted.iterations
        return wanted

    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(trial, "prepare", prepare)
    monkeypatch.setattr(trial, "measure_epoch_seconds", lambda prepared, steps: 3.0)
    monkeypatch.setattr(cost, "_count_concurrent_trials", lambda study: 2)


def study(search=None, **fields):
    fixed = {"dataset": "synthetic", "model": "mlp", "width": 12, "method": "force", "density": 0.1}
    return Study.from_dict({"study": "s", "trial": {**fixed, **fields}, "search": search or {}})


def test_the_slowest_and_the_fastest_trial(folder, timed):
    found = cost.predict(study({"sampler": "grid"}, iterations=[2, 10], epochs=[1, 5]))
    assert found.fastest == pytest.approx(2 * 2 + 1 * 3)
    assert found.slowest == pytest.approx(2 * 10 + 5 * 3)
    assert found.trials == 4
    assert found.fastest < found.mean < found.slowest


def test_hours_of_all_trials(folder, timed):
    found = cost.predict(study({"trials": 10}, iterations=5, epochs=2))
    assert found.mean == found.fastest == found.slowest == pytest.approx(16)
    seconds = 10 * (16 + cost.TRIAL_OVERHEAD_S)
    assert found.device_hours * 3600 == pytest.approx(seconds)
    assert found.hours * 3600 == pytest.approx(cost.RAY_START_S + seconds / 2)


def test_early_stopping_is_counted_on(folder, timed):
    long, whole = (
        cost.predict(study({"trials": 200, "stopping": rule}, iterations=5, epochs=16)) for rule in ("pareto", "none")
    )
    assert 0.3 < long.device_hours / whole.device_hours < 0.6


def test_the_search_says_what_it_took_beside_it(folder, timed):
    asked = study({"trials": 10}, iterations=5, epochs=2)
    out = io.StringIO()
    cost.report(asked, 1.0, Console(file=out))
    assert out.getvalue() == "", "nobody asked"
    predicted = cost.predict(asked)
    cost.report(asked, 2 * predicted.hours, Console(file=out, width=200))
    assert out.getvalue() == "the search took 3 min 11 s; `forcetune check` predicted 1 min 36 s (-50%)\n"
    out.truncate(0)
    cost.report(study({"trials": 11}, iterations=5, epochs=2), 1.0, Console(file=out))
    assert "predicted" not in out.getvalue(), "of another number of trials"


def test_a_cost_that_cannot_be_kept_is_still_told(folder, timed, caplog):
    (folder / ".forcetune").touch()  # where a folder would be made
    assert cost.predict(study({"trials": 10}, iterations=5, epochs=2)).mean == pytest.approx(16)
    assert "s.cost.json cannot be written" in caplog.text


def test_real_trials_are_measured(folder):
    found = cost.predict(study({"trials": 4}, epochs=2, iterations=2, method=["random", "force"]))
    shortest, longest = sorted([found.fastest, found.slowest])  # either way round, where they differ by noise alone
    assert 0 < shortest <= found.mean <= longest

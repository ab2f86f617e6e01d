"""When a search ends before it has all its trials."""

import pytest

from forcetune.ledger.messages import TrialOutcome
from forcetune.search.ending import FailureLimit, StoppingCriterion, compute_budget_left, find_spent
from forcetune.study import Budget


def trained(accuracy, density):
    return TrialOutcome("trained", values=[accuracy, density])


@pytest.fixture
def ending(make_study):
    def make(**search):
        study = make_study(search=search)
        return StoppingCriterion(study, study.references(0.25))

    return make


def test_patience_ends_a_search_whose_front_does_not_move(ending):
    found = ending(patience={"trials": 3, "gain": 0.01})
    found.add(trained(0.5, 0.1))
    for _ in range(2):
        found.add(trained(0.4, 0.2))
    assert found.reason is None, "three trials before it there was nothing"
    found.add(TrialOutcome("stopped", "at rung", values=[0.99, 0.05]))
    assert found.reason.startswith("over 3 trials the hypervolume grew by 0.00%, less than")


def test_patience_counts_by_share_and_on_log_density(ending):
    # From (0.25, 0.5): 0.5 accuracy at 0.05 covers 0.25 * 1; at 0.005 it would cover 0.25 * 2
    for density, reason in [(0.049, True), (0.04, False)]:
        found = ending(patience={"trials": 1, "gain": 0.05})
        found.add(trained(0.5, 0.05))
        found.add(trained(0.5, density))
        assert bool(found.reason) is reason


def test_a_budget_ends_it_whichever_comes_first(ending):
    found = ending(budget={"hours": 2.0, "device_hours": 3.0})
    found.set_spent(1.9, 2.9)
    assert found.reason is None
    found.set_spent(1.9, 3.0)
    assert found.reason == "the budget of 3 device hours is used up"


def test_without_either_it_goes_on(ending):
    found = ending()
    for _ in range(50):
        found.add(trained(0.5, 0.1))
    found.set_spent(1e6, 1e6)
    assert found.reason is None


def test_what_is_left_of_a_budget():
    told = [TrialOutcome("trained", record={"spent": {"hours": h, "device_hours": 2 * h}}) for h in (0.5, 1.5, 1.0)]
    spent = find_spent([*told, TrialOutcome("failed")])
    assert spent == {"hours": 1.5, "device_hours": 3.0}
    assert compute_budget_left(Budget(hours=2.0), spent) == Budget(hours=0.5)
    assert compute_budget_left(Budget(device_hours=2.0), spent).device_hours == pytest.approx(0, abs=1e-6)
    assert compute_budget_left(None, spent) is None
    assert find_spent([]) == {"hours": 0, "device_hours": 0}


def failed(reason="RuntimeError: mine"):
    return TrialOutcome("failed", reason)


def judge(limit, trials):
    """What a limit says after each trial."""
    found = FailureLimit(limit)
    return [found.add(ended) for ended in trials]


def test_five_failures_in_a_row_with_the_same_reason_end_a_search():
    assert judge(None, [failed()] * 4) == [None] * 4
    last = judge(None, [failed()] * 5)[-1]
    assert last == "the last 5 trials failed for the same reason: RuntimeError: mine"
    shapes = [failed(f"RuntimeError: shapes {n}x{2 * n} and {n + 1.5}") for n in range(1, 6)]
    assert judge(None, shapes)[-1], "numbers may differ"
    others = [failed(), failed(), failed("ValueError: other"), failed(), failed()]
    assert not any(judge(None, others))
    assert not any(judge(None, [*[failed()] * 4, trained(0.5, 0.1)] * 3)), "not in a row"


def test_a_number_of_failures_is_borne():
    told = judge(2, [failed("a"), trained(0.5, 0.1), failed("b"), failed("c")])
    assert told == [None] * 3 + ["3 of 4 trials failed, more than `search.max_failures: 2` allows; the last failure: c"]
    assert judge(0, [failed("a")])[0]
    assert not any(judge(100, [failed()] * 50)), "in place of the five in a row"


def test_a_share_of_failures_is_borne_once_ten_trials_have_ended():
    assert judge(0.2, [failed()] * 10)[8:] == [
        None,
        "10 of 10 trials failed, more than `search.max_failures: 0.2` allows; the last failure: RuntimeError: mine",
    ]
    trials = [*[trained(0.5, 0.1)] * 8, failed(), failed()]
    assert not any(judge(0.2, trials)), "a fifth is not more than a fifth"
    assert judge(0.2, [*trials, failed()])[-1]


def test_the_count_begins_anew_once_it_has_ended_a_search():
    told = judge(None, [failed()] * 14)
    assert [number for number, reason in enumerate(told, 1) if reason] == [5, 10]


def test_failures_of_earlier_drivers_count_but_end_no_later_search(ending):
    for before, more in [(3, 2), (5, 5), (7, 3)]:
        found = ending()
        found.restore([failed()] * before)
        assert found.failure_reason is None
        for _ in range(more):
            assert found.failure_reason is None
            found.add(failed())
        assert found.failure_reason

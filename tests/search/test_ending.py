"""The criteria that end a search before it has all its trials."""

from dataclasses import asdict

import pytest
from optuna.trial import TrialState, create_trial

from forcetune.ledger.messages import TrialOutcome
from forcetune.search.ending import FailureLimit, StoppingCriterion, compute_budget_left, find_spent, find_uncharged
from forcetune.study import Budget


def trained(accuracy, density):
    return TrialOutcome("trained", values=[accuracy, density])


@pytest.fixture
def make_criterion(make_study):
    def make(**search):
        study = make_study(search=search)
        return StoppingCriterion(study, study.references(0.25))

    return make


def test_patience_ends_a_search_whose_front_does_not_move(make_criterion):
    criterion = make_criterion(patience={"trials": 3, "gain": 0.01})
    criterion.add(trained(0.5, 0.1))
    for _ in range(2):
        criterion.add(trained(0.4, 0.2))
    assert criterion.reason is None, "three trials earlier the front was empty"
    criterion.add(TrialOutcome("stopped", "at rung", values=[0.99, 0.05]))
    assert criterion.reason.startswith("over 3 trials the hypervolume grew by 0.00%, less than")


def test_patience_counts_by_share_and_on_log_density(make_criterion):
    # From the reference point (0.25, 0.5), accuracy 0.5 covers 0.25 * 1 at density 0.05 and 0.25 * 2 at 0.005.
    for density, reason in [(0.049, True), (0.04, False)]:
        criterion = make_criterion(patience={"trials": 1, "gain": 0.05})
        criterion.add(trained(0.5, 0.05))
        criterion.add(trained(0.5, density))
        assert bool(criterion.reason) is reason


def test_the_first_limit_of_a_budget_to_be_reached_ends_a_search(make_criterion):
    criterion = make_criterion(budget={"hours": 2.0, "device_hours": 3.0})
    criterion.set_spent(1.9, 2.9)
    assert criterion.reason is None
    criterion.set_spent(1.9, 3.0)
    assert criterion.reason == "the budget of 3 device hours is used up"


def test_a_search_without_patience_and_budget_goes_on(make_criterion):
    criterion = make_criterion()
    for _ in range(50):
        criterion.add(trained(0.5, 0.1))
    criterion.set_spent(1e6, 1e6)
    assert criterion.reason is None


def test_spent_hours_are_subtracted_from_a_budget():
    outcomes = [TrialOutcome("trained", record={"spent": {"hours": h, "device_hours": 2 * h}}) for h in (0.5, 1.5, 1.0)]
    spent = find_spent([*outcomes, TrialOutcome("failed")])
    assert spent == {"hours": 1.5, "device_hours": 3.0}
    assert compute_budget_left(Budget(hours=2.0), spent) == Budget(hours=0.5)
    assert compute_budget_left(Budget(device_hours=2.0), spent).device_hours == pytest.approx(0, abs=1e-6)
    assert compute_budget_left(None, spent) is None
    assert find_spent([]) == {"hours": 0, "device_hours": 0}


def failed(reason="RuntimeError: mine"):
    return TrialOutcome("failed", reason)


def judge(limit, outcomes):
    """Return what a failure limit returns after each trial: None, or the reason to end the search."""
    failure_limit = FailureLimit(limit)
    return [failure_limit.add(outcome) for outcome in outcomes]


def test_five_failures_in_a_row_with_the_same_reason_end_a_search():
    assert judge(None, [failed()] * 4) == [None] * 4
    reason = judge(None, [failed()] * 5)[-1]
    assert reason == "the last 5 trials failed for the same reason: RuntimeError: mine"
    shapes = [failed(f"RuntimeError: shapes {n}x{2 * n} and {n + 1.5}") for n in range(1, 6)]
    assert judge(None, shapes)[-1], "numbers may differ"
    different = [failed(), failed(), failed("ValueError: other"), failed(), failed()]
    assert not any(judge(None, different))
    assert not any(judge(None, [*[failed()] * 4, trained(0.5, 0.1)] * 3)), "not in a row"


def test_a_number_of_failures_is_allowed():
    reasons = judge(2, [failed("a"), trained(0.5, 0.1), failed("b"), failed("c")])
    assert reasons == [None] * 3 + [
        "3 of 4 trials failed, more than `search.max_failures: 2` allows; the last failure: c"
    ]
    assert judge(0, [failed("a")])[0]
    assert not any(judge(100, [failed()] * 50)), "it replaces the limit of five in a row"


def test_a_share_of_failures_is_allowed_and_counts_after_ten_trials():
    assert judge(0.2, [failed()] * 10)[8:] == [
        None,
        "10 of 10 trials failed, more than `search.max_failures: 0.2` allows; the last failure: RuntimeError: mine",
    ]
    outcomes = [*[trained(0.5, 0.1)] * 8, failed(), failed()]
    assert not any(judge(0.2, outcomes)), "a fifth is not more than a fifth"
    assert judge(0.2, [*outcomes, failed()])[-1]


def test_the_count_starts_again_after_it_has_ended_a_search():
    reasons = judge(None, [failed()] * 14)
    assert [number for number, reason in enumerate(reasons, 1) if reason] == [5, 10]


def test_failures_of_earlier_drivers_count_but_end_no_later_search(make_criterion):
    for before, more in [(3, 2), (5, 5), (7, 3)]:
        criterion = make_criterion()
        criterion.restore([failed()] * before)
        assert criterion.failure_reason is None
        for _ in range(more):
            assert criterion.failure_reason is None
            criterion.add(failed())
        assert criterion.failure_reason


def test_what_other_trials_cost_is_not_charged():
    """The trials end in the order of what the study had cost, not in that of their numbers."""

    def make_trial(hours, night=None, recorded=True):
        record = {"spent": {"hours": hours, "device_hours": 2 * hours}} if recorded else {}
        attrs = {
            "ended": asdict(TrialOutcome("trained", record=record)),
            **({"marks": {"night": night}} if night else {}),
        }
        return create_trial(state=TrialState.FAIL, user_attrs=attrs)

    running = create_trial(state=TrialState.RUNNING)
    trials = [
        make_trial(1.0),
        make_trial(4.5),
        make_trial(4.0, "1"),
        running,
        make_trial(2.0, "1"),
        make_trial(9.0, "2"),
    ]
    trials.append(make_trial(0.0, "1", recorded=False))
    assert find_uncharged(trials, lambda tags: not tags) == {"hours": 7.5, "device_hours": 15.0}
    assert find_uncharged(trials, lambda tags: True) == {"hours": 0.0, "device_hours": 0.0}
    assert find_uncharged([], lambda tags: False) == {"hours": 0.0, "device_hours": 0.0}

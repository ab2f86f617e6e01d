"""Early stopping on small curves for which the right decision is clear."""

import numpy as np
import pytest

from forcetune.search.stopping import (
    GRACE_TRIALS,
    MIN_DOMINATING_TRIALS,
    RULES,
    EarlyStopping,
    estimate_trained_share,
    pareto,
    safe,
)
from forcetune.study import Trial

DIRECTIONS = {"val_accuracy": "max", "density": "min"}
EPOCHS = 16  # rungs after 2, 4 and 8


def make_trial(density=0.1, **fields):
    return Trial(
        **{"dataset": "synthetic", "model": "mlp", "method": "random", "epochs": EPOCHS, **fields}, density=density
    )


def make_stopping(rule="pareto"):
    return EarlyStopping(RULES.get(rule), DIRECTIONS)


def judge(early_stopping, number, curve, density=0.1, **more_metrics):
    """Return the epoch after which a trial with this curve of accuracies is stopped, and the reason; else None."""
    for epoch, accuracy in enumerate(curve, 1):
        reason = early_stopping.judge(
            number, make_trial(density), epoch, {"density": density, "val_accuracy": accuracy, **more_metrics}
        )
        if reason:
            return epoch, reason
    return None


def add_crowd(early_stopping, count=GRACE_TRIALS, accuracy=0.9, density=0.05):
    """Let trials pass the first rung, each a little better than the one before."""
    for number in range(count):
        judge(early_stopping, number, [0.1, accuracy + number / 1000], density)


def test_the_better_half_goes_on():
    losses = np.array([[float(i), 0.0] for i in range(GRACE_TRIALS)])  # each has a rank of its own
    behind = GRACE_TRIALS / 2
    assert pareto(np.vstack([losses, [behind - 0.5, 0]])) is None, "10 of 21 are ahead"
    assert pareto(np.vstack([losses, [behind + 0.5, 0]])) == "rank 12, behind 11 and level with 0 of 21 trials"


def test_half_of_the_trials_on_a_level_count_as_ahead():
    front = [[0.0, 0.0]] * 5
    level = [[1.0, 1.0]] * 15
    assert pareto(np.array([*front, *level, [1.0, 1.0]])) == "rank 2, behind 5 and level with 15 of 21 trials"
    assert pareto(np.array([*front, *level[:10], *[[2.0, 2.0]] * 5, [1.0, 1.0]])) is None


def test_a_trial_that_nothing_dominates_goes_on():
    level = np.array([[float(i), float(-i)] for i in range(40)])  # they are one front
    assert all(pareto(np.vstack([np.delete(level, i, 0), level[i]])) is None for i in range(40))


@pytest.mark.parametrize("rule", [pareto, safe])
def test_nothing_is_stopped_before_the_grace_trials_have_passed(rule):
    losses = [[0.0, 0.0]] * GRACE_TRIALS
    assert rule(np.array([*losses[:-1], [1.0, 1.0]])) is None
    assert rule(np.array([*losses, [1.0, 1.0]]))


def test_safe_needs_several_trials_that_are_better_in_all_objectives():
    crowd = [[5.0, 5.0]] * GRACE_TRIALS
    last = [1.0, 1.0]
    better = [[0.5, 1.0]] * (MIN_DOMINATING_TRIALS - 1)
    assert safe(np.array([*crowd, *better, [0.5, 2.0], last])) is None, "the last one is denser"
    assert safe(np.array([*crowd, *better, [1.0, 0.5], last])) == f"dominated by {MIN_DOMINATING_TRIALS} of 24 trials"


@pytest.mark.parametrize("rule", ["pareto", "safe", "none"])
def test_a_trial_that_is_worse_in_all_objectives_is_stopped(rule):
    early_stopping = make_stopping(rule)
    add_crowd(early_stopping)
    decision = judge(early_stopping, 99, [0.1, 0.2, 0.3, 0.9])
    if rule == "none":
        assert decision is None
    else:
        assert decision[0] == 2, "at the first rung"
        assert decision[1].startswith("at rung 1/8, after epoch 2: ")


def test_a_slow_starter_that_nothing_dominates_survives():
    early_stopping = make_stopping()
    add_crowd(early_stopping)
    slow = [0.1] * (EPOCHS - 1) + [0.95]
    assert judge(early_stopping, 98, slow, density=0.04) is None, "the sparsest, though it has learned nothing yet"
    assert judge(early_stopping, 99, slow, density=0.06) is not None, "the same curve, denser than all"


def test_objectives_known_before_training_count_from_the_start():
    directions = {**DIRECTIONS, "latency_ms": "min"}
    early_stopping = EarlyStopping(pareto, directions)
    for number in range(GRACE_TRIALS):
        early_stopping.judge(number, make_trial(), 2, {"density": 0.1, "val_accuracy": 0.9, "latency_ms": 5.0})
    poor = {"density": 0.1, "val_accuracy": 0.1}
    assert early_stopping.judge(98, make_trial(), 2, {**poor, "latency_ms": 4.0}) is None, "the quickest of all"
    assert early_stopping.judge(99, make_trial(), 2, {**poor, "latency_ms": 6.0})


def test_averaged_weights_are_judged_where_they_are_measured():
    early_stopping = make_stopping()
    add_crowd(early_stopping)
    metrics = {"density": 0.1, "val_accuracy": 0.2}
    assert early_stopping.judge(98, make_trial(), 2, {**metrics, "ema_val_accuracy": 0.95}) is None
    assert early_stopping.judge(99, make_trial(), 2, {**metrics, "val_accuracy": 0.99, "ema_val_accuracy": 0.2})


def test_a_density_that_has_not_settled_is_not_judged_and_judges_no_trial():
    early_stopping = make_stopping()
    for number in range(GRACE_TRIALS):
        judge(early_stopping, number, [0.1, 0.9 + number / 1000], 0.05, settled=0.0)
    assert judge(early_stopping, 50, [0.1, 0.2]) is None, "trials whose density has not settled do not count"
    add_crowd(early_stopping)
    assert judge(early_stopping, 51, [0.1, 0.2], settled=0.0) is None
    assert judge(early_stopping, 52, [0.1, 0.2], settled=1.0) is not None


def test_a_rung_after_the_drop_of_a_stepped_rate():
    early_stopping = make_stopping()
    for number in range(GRACE_TRIALS + 1):
        early_stopping.record(number, make_trial(lr_schedule="step"), 9, {"density": 0.05, "val_accuracy": 0.9})
    late = {"density": 0.1, "val_accuracy": 0.1}
    assert early_stopping.judge(98, make_trial(lr_schedule="step"), 8, late) is None, "the rate drops after epoch 8"
    assert early_stopping.judge(99, make_trial(lr_schedule="step"), 9, late).startswith("at rung 1/2, after epoch 9")


def test_trials_of_other_lengths_meet_at_the_same_rung():
    early_stopping = make_stopping()
    add_crowd(early_stopping)
    assert early_stopping.judge(99, make_trial(epochs=40), 2, {"density": 0.1, "val_accuracy": 0.1}) is None, (
        "epoch 2 is no rung of 40 epochs"
    )
    assert early_stopping.judge(99, make_trial(epochs=40), 5, {"density": 0.1, "val_accuracy": 0.1})


def test_a_loss_that_is_no_number_is_worse_than_any():
    early_stopping = make_stopping()
    add_crowd(early_stopping)
    assert judge(early_stopping, 99, [0.1, float("nan")]) is not None


def test_a_trial_without_its_objectives_is_left_alone():
    assert make_stopping().judge(0, make_trial(), 2, {"density": 0.1}) is None


@pytest.mark.parametrize("rule", ["pareto", "safe"])
def test_all_trials_that_passed_a_rung_count_in_any_order(rule):
    passed = np.random.default_rng(0).random((40, 2))

    def judge_in_order(order):
        early_stopping = make_stopping(rule)
        for i in np.random.default_rng(order).permutation(40):
            accuracy, density = map(float, passed[i])
            early_stopping.record(int(i), make_trial(density), 2, {"val_accuracy": accuracy, "density": density})
        late = [(0.4, 0.6), (0.7, 0.3), (0.1, 0.9), (0.9, 0.1)]
        return [judge(early_stopping, 100 + k, [0.1, accuracy], density) for k, (accuracy, density) in enumerate(late)]

    assert {reason is None for reason in judge_in_order(0)} == {True, False}
    assert all(judge_in_order(order) == judge_in_order(0) for order in range(1, 5))


def test_a_trial_that_comes_again_is_not_compared_with_itself():
    early_stopping = make_stopping()
    add_crowd(early_stopping, GRACE_TRIALS - 1)
    metrics = {"density": 0.1, "val_accuracy": 0.1}
    for _ in range(3):  # it is handed back and taken up again, and GRACE_TRIALS is not exceeded
        assert early_stopping.judge(99, make_trial(), 2, metrics) is None


def test_the_share_of_epochs_that_is_trained_is_estimated():
    assert estimate_trained_share("none", 500) == 1
    assert estimate_trained_share("pareto", 10) == 1
    assert 0.3 < estimate_trained_share("pareto", 1000) < estimate_trained_share("pareto", 100) < 1

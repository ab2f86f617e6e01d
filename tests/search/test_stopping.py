"""Which trials are stopped early, on small curves whose answer is known."""

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


def trial(density=0.1, **fields):
    return Trial(
        **{"dataset": "synthetic", "model": "mlp", "method": "random", "epochs": EPOCHS, **fields}, density=density
    )


def stopping(rule="pareto"):
    return EarlyStopping(RULES.get(rule), DIRECTIONS)


def judge(judged, number, curve, density=0.1, **known):
    """The epoch after which a trial with this curve of accuracies is stopped, and why; None where it is not."""
    for epoch, accuracy in enumerate(curve, 1):
        reason = judged.judge(number, trial(density), epoch, {"density": density, "val_accuracy": accuracy, **known})
        if reason:
            return epoch, reason
    return None


def field(judged, count=GRACE_TRIALS, accuracy=0.9, density=0.05):
    """Trials at the first rung, each a little better than the one before."""
    for number in range(count):
        judge(judged, number, [0.1, accuracy + number / 1000], density)


def test_the_better_half_goes_on():
    losses = np.array([[float(i), 0.0] for i in range(GRACE_TRIALS)])  # each its own rank
    behind = GRACE_TRIALS / 2
    assert pareto(np.vstack([losses, [behind - 0.5, 0]])) is None, "10 of 21 are ahead"
    assert pareto(np.vstack([losses, [behind + 0.5, 0]])) == "rank 12, behind 11 and level with 0 of 21 trials"


def test_of_those_on_a_level_half_count_as_ahead():
    front = [[0.0, 0.0]] * 5
    level = [[1.0, 1.0]] * 15
    assert pareto(np.array([*front, *level, [1.0, 1.0]])) == "rank 2, behind 5 and level with 15 of 21 trials"
    assert pareto(np.array([*front, *level[:10], *[[2.0, 2.0]] * 5, [1.0, 1.0]])) is None


def test_what_nothing_dominates_goes_on():
    level = np.array([[float(i), float(-i)] for i in range(40)])  # a whole front
    assert all(pareto(np.vstack([np.delete(level, i, 0), level[i]])) is None for i in range(40))


@pytest.mark.parametrize("rule", [pareto, safe])
def test_nothing_is_stopped_before_so_many_have_passed(rule):
    losses = [[0.0, 0.0]] * GRACE_TRIALS
    assert rule(np.array([*losses[:-1], [1.0, 1.0]])) is None
    assert rule(np.array([*losses, [1.0, 1.0]]))


def test_safe_asks_for_several_that_are_better_in_all():
    crowd = [[5.0, 5.0]] * GRACE_TRIALS
    last = [1.0, 1.0]
    better = [[0.5, 1.0]] * (MIN_DOMINATING_TRIALS - 1)
    assert safe(np.array([*crowd, *better, [0.5, 2.0], last])) is None, "the last one is denser"
    assert safe(np.array([*crowd, *better, [1.0, 0.5], last])) == f"dominated by {MIN_DOMINATING_TRIALS} of 24 trials"


@pytest.mark.parametrize("rule", ["pareto", "safe", "none"])
def test_a_trial_that_is_worse_in_all(rule):
    judged = stopping(rule)
    field(judged)
    found = judge(judged, 99, [0.1, 0.2, 0.3, 0.9])
    if rule == "none":
        assert found is None
    else:
        assert found[0] == 2, "at the first rung"
        assert found[1].startswith("at rung 1/8, after epoch 2: ")


def test_a_slow_starter_that_nothing_dominates_survives():
    judged = stopping()
    field(judged)
    slow = [0.1] * (EPOCHS - 1) + [0.95]
    assert judge(judged, 98, slow, density=0.04) is None, "the sparsest, though it has learned nothing yet"
    assert judge(judged, 99, slow, density=0.06) is not None, "the same curve, denser than all"


def test_objectives_known_before_training_count_from_the_start():
    directions = {**DIRECTIONS, "latency_ms": "min"}
    judged = EarlyStopping(pareto, directions)
    for number in range(GRACE_TRIALS):
        judged.judge(number, trial(), 2, {"density": 0.1, "val_accuracy": 0.9, "latency_ms": 5.0})
    poor = {"density": 0.1, "val_accuracy": 0.1}
    assert judged.judge(98, trial(), 2, {**poor, "latency_ms": 4.0}) is None, "the quickest of all"
    assert judged.judge(99, trial(), 2, {**poor, "latency_ms": 6.0})


def test_averaged_weights_are_judged_where_they_are_known():
    judged = stopping()
    field(judged)
    known = {"density": 0.1, "val_accuracy": 0.2}
    assert judged.judge(98, trial(), 2, {**known, "ema_val_accuracy": 0.95}) is None
    assert judged.judge(99, trial(), 2, {**known, "val_accuracy": 0.99, "ema_val_accuracy": 0.2})


def test_a_density_that_has_not_settled_is_not_judged_and_judges_nobody():
    judged = stopping()
    for number in range(GRACE_TRIALS):
        judge(judged, number, [0.1, 0.9 + number / 1000], 0.05, settled=0.0)
    assert judge(judged, 50, [0.1, 0.2]) is None, "those before it do not count"
    field(judged)
    assert judge(judged, 51, [0.1, 0.2], settled=0.0) is None
    assert judge(judged, 52, [0.1, 0.2], settled=1.0) is not None


def test_a_rung_after_the_drop_of_a_stepped_rate():
    judged = stopping()
    for number in range(GRACE_TRIALS + 1):
        judged.record(number, trial(lr_schedule="step"), 9, {"density": 0.05, "val_accuracy": 0.9})
    late = {"density": 0.1, "val_accuracy": 0.1}
    assert judged.judge(98, trial(lr_schedule="step"), 8, late) is None, "the rate drops after epoch 8"
    assert judged.judge(99, trial(lr_schedule="step"), 9, late).startswith("at rung 1/2, after epoch 9")


def test_trials_of_other_lengths_meet_at_the_same_rung():
    judged = stopping()
    field(judged)
    assert judged.judge(99, trial(epochs=40), 2, {"density": 0.1, "val_accuracy": 0.1}) is None, "no rung of 40"
    assert judged.judge(99, trial(epochs=40), 5, {"density": 0.1, "val_accuracy": 0.1})


def test_a_loss_that_is_no_number_is_worse_than_any():
    judged = stopping()
    field(judged)
    assert judge(judged, 99, [0.1, float("nan")]) is not None


def test_a_trial_without_its_objectives_is_left_alone():
    assert stopping().judge(0, trial(), 2, {"density": 0.1}) is None


@pytest.mark.parametrize("rule", ["pareto", "safe"])
def test_whoever_passed_a_rung_counts_whatever_the_order(rule):
    passed = np.random.default_rng(0).random((40, 2))

    def told(order):
        judged = stopping(rule)
        for i in np.random.default_rng(order).permutation(40):
            accuracy, density = map(float, passed[i])
            judged.record(int(i), trial(density), 2, {"val_accuracy": accuracy, "density": density})
        late = [(0.4, 0.6), (0.7, 0.3), (0.1, 0.9), (0.9, 0.1)]
        return [judge(judged, 100 + k, [0.1, accuracy], density) for k, (accuracy, density) in enumerate(late)]

    assert {reason is None for reason in told(0)} == {True, False}
    assert all(told(order) == told(0) for order in range(1, 5))


def test_a_trial_that_comes_again_is_compared_with_itself_no_more():
    judged = stopping()
    field(judged, GRACE_TRIALS - 1)
    metrics = {"density": 0.1, "val_accuracy": 0.1}
    for _ in range(3):  # handed back and taken up again: there are still no more than GRACE_TRIALS
        assert judged.judge(99, trial(), 2, metrics) is None


def test_the_share_that_is_trained():
    assert estimate_trained_share("none", 500) == 1
    assert estimate_trained_share("pareto", 10) == 1
    assert 0.3 < estimate_trained_share("pareto", 1000) < estimate_trained_share("pareto", 100) < 1

"""Trials whose method changes the masks while they train: static metrics, constraints, refusals, equal compute."""

import pytest
from small_trials import make_trial

from forcetune import trial
from forcetune.errors import InputError
from forcetune.study import Task

RULE_FIELDS = {"method": "gradual_magnitude", "iterations": 4, "epochs": 4, "density": 0.1}


def test_the_static_metrics_of_a_rule_are_those_of_its_last_masks():
    trial_run = trial.TrialRun(trial.prepare(make_trial(**RULE_FIELDS)))
    assert trial_run.prepared.metrics["density"] == int(832 * 0.1) / 832, "known before the training"
    epochs = list(trial_run)
    assert [metrics["settled"] for metrics in epochs] == [0, 0, 1, 1]
    assert [metrics["mask_density"] for metrics in epochs] == sorted(
        (metrics["mask_density"] for metrics in epochs), reverse=True
    )
    assert {"macs", "effective_density", "collapsed"} <= {*epochs[-1]}
    assert not {"macs", "effective_density", "collapsed"} & {*epochs[-2]}
    kept = sum(int(mask.sum()) for mask in trial_run.prepared.masks.values())
    assert (kept, epochs[-1]["density"]) == (83, 83 / 832)
    assert trial_run.prepared.outcome == ("trained", None)


def test_a_constraint_that_only_the_last_masks_can_break_is_judged_after_training():
    task = Task(constraints={"macs": (None, 10), "density": (None, 0.5)})
    trial_run = trial.TrialRun(trial.prepare(make_trial(**RULE_FIELDS), task))
    assert len(list(trial_run)) == 4
    outcome, reason = trial_run.prepared.outcome
    assert outcome == "infeasible"
    assert reason.startswith("macs ")
    known_before = trial.prepare(make_trial(**RULE_FIELDS), Task(constraints={"density": (0.2, None)}))
    assert known_before.untrained_outcome[0] == "infeasible"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "rigl", "epochs": 1}, ["update_interval 100", "at most 2"]),
        ({"method": "gradual_magnitude", "epochs": 1}, ["iterations 20", "at most 2"]),
        ({"method": "lottery", "iterations": 400}, ["iterations 400", "832"]),
        ({"method": "lottery", "rewind_step": 60}, ["rewind_step 60", "less than 60"]),
        ({"method": "dpf", "small_dense": "macs"}, ["small_dense", "dpf"]),
        ({"method": "dpf", "shuffle": True}, ["shuffle", "dpf"]),
        ({"method": "set", "small_dense": "macs"}, ["small_dense", "set"]),
    ],
)
def test_what_a_rule_cannot_be_followed_with_is_refused(fields, words):
    with pytest.raises(InputError) as refusal:
        trial.check_rule(make_trial(**fields), Task())
    assert all(word in str(refusal.value) for word in [*words, "allowed: "])


def test_a_training_loop_of_the_users_own_follows_no_rule():
    with pytest.raises(InputError, match=r"rigl.*my:train.*allowed: "):
        trial.check_rule(make_trial(method="rigl"), Task(train="my:train"))


def test_a_method_sets_the_defaults_of_its_fields():
    assert make_trial(method="snip_it_training").iterations == 7
    assert make_trial(method="snip_it_training", iterations=20).iterations == 20
    assert make_trial(method="gradual_magnitude").schedule == "cubic"
    assert make_trial(method="force").schedule == "exponential"


def test_an_infeasible_trial_with_a_rule_has_all_static_metrics():
    task = Task(constraints={"density": (None, 0.1)})
    trial_run = trial.TrialRun(trial.prepare(make_trial(method="rigl", update_interval=1), task))
    (metrics,) = trial_run
    assert trial_run.prepared.outcome[0] == "infeasible"
    assert {"macs", "effective_density"} <= trial_run.prepared.metrics.keys()
    assert metrics["val_accuracy"] == 0.25


@pytest.mark.parametrize("method", ["rigl", "dpf", "lottery", "gradual_magnitude"])
def test_the_time_of_an_epoch_is_measured_without_the_rule(method):
    prepared = trial.prepare(make_trial(method=method, epochs=60))
    assert trial.measure_epoch_seconds(prepared, 2) > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "gradual_magnitude", "density": 0.95, "epochs": 10},
        {"method": "snip_it_training", "density": 0.7, "epochs": 10},
    ],
)
def test_a_change_may_prune_nothing(fields):
    trial.check_rule(make_trial(**fields), Task())


def test_the_levels_of_a_lottery_ticket_share_the_operations():
    fields = {"method": "lottery", "iterations": 2, "density": 0.25, "epochs": 7}
    equal, single = (
        trial.TrialRun(trial.prepare(make_trial(**fields, equal_compute=equal))) for equal in (True, False)
    )
    assert (equal.total_epochs, single.total_epochs) == (6, 21)
    assert len(list(equal)) == 6


def test_a_small_dense_network_trains_longer_at_equal_compute():
    fields = {"method": "random", "density": 0.2, "small_dense": "macs", "epochs": 2}
    trial_run = trial.TrialRun(trial.prepare(make_trial(**fields, equal_compute=True)))
    assert trial_run.total_epochs == min(int(2 / trial_run.prepared.metrics["macs_fraction"]), 8) > 2

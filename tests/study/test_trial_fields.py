"""The fields of a trial: the key that they give it, the fields that apply, and the label of its method."""

import inspect

import pytest
from small_trials import make_trial

from forcetune.pruning import METHODS
from forcetune.study import Effect, Trial, method_label, select_fields
from forcetune.study.trial import METHOD_OPTIONS
from forcetune.training import Training

# Stores identify trials by these keys, so a key may never change: a new field has a default that changes nothing and
# is left out of the hash. If this test fails, mend the change that broke it, never the test.
PINNED_KEYS = {
    "c60580ab4da3a12e": {"dataset": "digits", "model": "convnet", "method": "force", "density": 0.01},
    "d0efb38174302810": {
        "dataset": "digits",
        "model": "convnet",
        "method": "force",
        "density": 0.01,
        "iterations": 50,
        "schedule": "linear",
        "seed": 3,
    },
    "89bd036d239022a4": {
        "dataset": "fashion_mnist",
        "model": "resnet14",
        "width": 8,
        "method": "snip",
        "density": 0.05,
        "batches_per_step": 2,
        "saliency_loss": "nll_logits",
        "lr": 0.2,
        "clip_norm": 1.0,
    },
    "e6308f2f1a54ef3c": {
        "dataset": "synthetic",
        "train_samples": 100,
        "model": "mlp",
        "method": "random",
        "density": 0.5,
        "screen": False,
        "epochs": 2,
        "lr_schedule": "step",
    },
}


@pytest.mark.parametrize(("key", "fields"), PINNED_KEYS.items(), ids=PINNED_KEYS)
def test_keys_hold_for_ever(key, fields):
    assert Trial(**fields).key == key


def test_the_key_ignores_what_does_not_apply():
    plain = make_trial(method="snip")
    assert make_trial(method="snip", iterations=5, schedule="linear").key == plain.key
    assert make_trial(method="random", batches_per_step=4, saliency_batch_size=9).key == make_trial(method="random").key
    assert make_trial(method="force", iterations=5).key != make_trial(method="force").key
    assert make_trial(method="snip", batches_per_step=4).key != plain.key


def test_the_key_is_the_same_for_a_default_that_is_written_out():
    assert make_trial(method="force", iterations=20, lr=0.1, clip_norm=None).key == make_trial(method="force").key
    assert make_trial(density=1).key == make_trial(density=1.0).key
    assert make_trial(method="force", sync_batch_norm=True).key == make_trial(method="force").key


@pytest.mark.parametrize(
    ("field", "value"), [("seed", 1), ("width", 13), ("lr", 0.2), ("screen", False), ("sync_batch_norm", False)]
)
def test_the_key_tells_trials_apart(field, value):
    assert make_trial(**{field: value}).key != make_trial().key


def test_fields_that_apply_are_listed():
    fields = make_trial(method="synflow").fields()
    assert {"iterations", "schedule"} <= {*fields}
    assert not {"batches_per_step", "saliency_batch_size", "saliency_loss", "clip_norm", "data_root"} & {*fields}


def test_every_option_of_a_method_is_a_field():
    options = {name for row in METHODS.values() for name in (*row.options, *row.rule_options)}
    assert options == {*METHOD_OPTIONS}
    assert {*METHOD_OPTIONS} <= {*Trial.model_fields}


@pytest.mark.parametrize(
    ("fields", "absent"),
    [
        ({"method": "random_erk"}, ["iterations", "schedule", "batches_per_step", "saliency_batch_size"]),
        ({"method": "snip_mb"}, ["schedule", "temperature"]),
        ({"method": "grasp"}, ["iterations", "saliency_batch_size", "inner_steps"]),
        ({"method": "snip", "samples_per_class": 4}, ["saliency_batch_size"]),
        ({"method": "synflow", "samples_per_class": 4}, ["saliency_batch_size", "samples_per_class"]),
        ({"method": "px", "saliency_loss": "nll_logits"}, ["saliency_loss", "temperature"]),
    ],
)
def test_fields_that_do_not_apply_are_absent(fields, absent):
    all_options = {"temperature": 3.0, "inner_steps": 2, "saliency_batch_size": 64, "iterations": 9}
    assert not {*absent} & {*make_trial(**all_options, **fields).fields()}
    assert make_trial(**all_options, **fields).key == make_trial(**{**all_options, **fields, "inner_lr": 0.3}).key


def test_fields_that_apply_have_their_values():
    assert make_trial(method="snip_mb", iterations=9).fields()["iterations"] == 9
    assert make_trial(method="grasp", samples_per_class=0).fields()["saliency_batch_size"] == 128
    assert make_trial(method="prospr", inner_steps=2).fields()["inner_steps"] == 2


def test_a_label_names_the_controls_that_are_on():
    assert method_label(make_trial().fields()) == "snip"
    assert method_label(make_trial(shuffle=True, reinit=True).fields()) == "snip+shuffle+reinit"
    assert method_label(make_trial(small_dense="macs").fields()) == "snip+small_dense:macs"
    assert method_label(make_trial(layers_from="a.npz", invert=True).fields()) == "snip+layers_from+invert"


def test_each_field_of_a_trial_is_marked_with_what_it_affects():
    by_stage = [{*select_fields(effect)} for effect in (Effect.SCORES, Effect.MASK, Effect.TRAINING)]
    assert sum(map(len, by_stage)) == len(set.union(*by_stage)) == len(Trial.model_fields)
    assert {*select_fields(Effect.LOOP)} <= {*inspect.signature(Training).parameters}


def test_the_label_says_that_channels_are_pruned():
    assert method_label(make_trial(method="snip", granularity="channel").fields()) == "snip by channel"
    assert method_label(make_trial(method="snip").fields()) == "snip"

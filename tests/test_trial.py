"""A trial from its fields to its metrics, and the key that names it."""

import inspect
import itertools
import math

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from forcetune import trial
from forcetune.data import Dataset
from forcetune.errors import InputError
from forcetune.pruning import METHODS, NetworkChannels, layer_table, prunable, save_masks
from forcetune.study import METRICS, Effect, Task, Trial, method_label, select_fields
from forcetune.study.trial import METHOD_OPTIONS
from forcetune.training import Training
from forcetune.trial import reuse

# These metrics depend on the speed of the machine and on the trials that ran before.
RUN_DEPENDENT_METRICS = {"prune_seconds", "train_seconds", "steps_reused"}
RULE_METRICS = {"mask_density", "settled"}  # where a rule changes the masks


@pytest.fixture(autouse=True)
def _clear_pruning_caches():
    trial.clear_pruning_caches()


def make_trial(**fields):
    return Trial(**{"dataset": "synthetic", "model": "mlp", "width": 12, "method": "snip", "density": 0.2, **fields})


def run_trial(**fields):
    return list(trial.run(make_trial(epochs=2, **fields)))


def drop_run_dependent(epochs):
    return [{name: value for name, value in metrics.items() if name not in RUN_DEPENDENT_METRICS} for metrics in epochs]


def flatten_weights(model):
    return torch.cat([weight.detach().flatten() for weight in prunable(model).values()])


def test_each_epoch_has_all_metrics():
    epochs = run_trial()
    assert [metrics["epoch"] for metrics in epochs] == [1, 2]
    averaged = {"ema_val_loss", "ema_val_accuracy"}
    assert {*epochs[0]} == {*METRICS, "epoch", *averaged} - RULE_METRICS, "two epochs have one rung"
    assert {*epochs[1]} == {*METRICS, "epoch"} - RULE_METRICS
    assert all(math.isfinite(value) for metrics in epochs for value in metrics.values())
    assert 0 < epochs[0]["train_seconds"] < epochs[1]["train_seconds"], "seconds count from the start"
    static_metrics = {
        name: epochs[0][name] for name in ("density", "sparsity", "macs", "collapsed", "saliency_samples")
    }
    # The network has 832 weights: 64 x 12, 12 x 4 and 4 x 4.
    assert static_metrics["density"] == int(832 * 0.2) / 832
    assert static_metrics.items() <= epochs[1].items()


@pytest.mark.parametrize("density", [0.2, 0.002])
def test_static_metrics_stay_apart_from_those_of_an_epoch(density):
    trial_run = trial.TrialRun(trial.prepare(make_trial(density=density, epochs=2)))
    epochs = list(trial_run)
    assert not {name for metrics in epochs for name in metrics} & trial_run.prepared.metrics.keys()
    for metrics, epoch in zip(trial.run(make_trial(density=density, epochs=2)), epochs, strict=True):
        assert metrics.keys() == {*trial_run.prepared.metrics, *epoch}, "a call of `run` has both"


@pytest.mark.parametrize("method", ["random", "force", "synflow"])
def test_equal_trials_have_equal_metrics(method):
    first, same, other = (drop_run_dependent(run_trial(method=method, seed=seed)) for seed in (1, 1, 2))
    trial.clear_pruning_caches()
    repeated = drop_run_dependent(run_trial(method=method, seed=1))
    assert first == same == repeated
    assert first != other


USER_MODEL_CODE = """
from torch import nn

def with_dropout(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, classes))
"""


@pytest.mark.parametrize("method", ["magnitude", "snip"])
def test_equal_trials_have_equal_metrics_with_dropout(method, tmp_path, monkeypatch):
    (tmp_path / "own_dropout.py").write_text(USER_MODEL_CODE)
    monkeypatch.syspath_prepend(tmp_path)

    def run_after(state):
        torch.manual_seed(state)  # any code before in this process has moved torch's random state
        prepared = trial.prepare(make_trial(model="own_dropout:with_dropout", width=None, method=method, epochs=2))
        torch.manual_seed(state)
        return drop_run_dependent(trial.TrialRun(prepared))

    assert run_after(1) == run_after(2)


TIED_MODEL_CODE = """
from torch import nn

class Tied(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embedding, self.body = nn.Embedding(classes, 16), nn.Linear(64, 16)
        self.head = nn.Linear(16, classes)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        nearest = self.head(self.body(x.flatten(1)).relu()).argmax(1)
        return self.head((self.body(x.flatten(1)) + self.embedding(nearest)).relu())

def tied(input_shape, classes):
    return Tied(classes)
"""


@pytest.mark.parametrize("method", ["snip", "synflow", "gradual_magnitude", "rigl"])
def test_a_network_with_a_tied_embedding_is_trained(method, tmp_path, monkeypatch):
    (tmp_path / "own_tied.py").write_text(TIED_MODEL_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    prepared = trial.prepare(
        make_trial(
            model="own_tied:tied",
            width=None,
            method=method,
            density=0.5,
            epochs=2,
            **({"iterations": 2} if method in ("synflow", "gradual_magnitude") else {}),
            **({"update_interval": 2} if method == "rigl" else {}),
        )
    )
    assert len(list(trial.TrialRun(prepared))) == 2
    assert [*prepared.masks] == ["body.weight", "embedding.weight"]
    parameters = dict(prepared.model.named_parameters())
    assert all((parameters[name][~mask] == 0).all() for name, mask in prepared.masks.items())


def test_each_purpose_has_a_random_stream_of_its_own():
    purposes = ["split", "weights", "saliency", "mask", "order"]
    streams = [trial.derive_seed(make_trial(seed=seed), purpose) for seed in range(5) for purpose in purposes]
    assert len(set(streams)) == 25
    assert trial.derive_seed(make_trial(seed=3, density=0.1), "split") == trial.derive_seed(
        make_trial(seed=3, lr=0.5), "split"
    )


def test_other_fields_move_neither_the_split_nor_the_weights():
    first = trial.prepare(make_trial())
    other = trial.prepare(make_trial(method="force", density=0.1, batch_size=16, saliency_batch_size=7, epochs=9))
    assert torch.equal(first.training.inputs, other.training.inputs)
    assert torch.equal(first.validation.inputs, other.validation.inputs)
    assert torch.equal(flatten_weights(first.model), flatten_weights(other.model))


def test_the_seed_draws_the_split_and_the_weights():
    first, other = trial.prepare(make_trial(seed=0)), trial.prepare(make_trial(seed=1))
    assert not torch.equal(first.validation.inputs, other.validation.inputs)
    assert not torch.equal(flatten_weights(first.model), flatten_weights(other.model))


def test_validation_images_are_in_no_batch_of_training_or_saliency(monkeypatch):
    # The tests of data check that the split is disjoint. This test checks the use of each set.
    used, seeds = [], []

    def spy(dataset, samples, size, seed=None, per_class=0):
        used.append((len(samples), size, per_class))
        seeds.append(seed)
        return batches(dataset, samples, size, seed, per_class)

    batches = Dataset.batches
    monkeypatch.setattr(Dataset, "batches", spy)
    run_trial(saliency_batch_size=50, batch_size=40)
    assert used == [(288, 50, 0), (32, trial.EVALUATION_BATCH_SIZE, 0), (288, 40, 0)]
    assert seeds[1] is None, "validation keeps the order"
    assert len({*seeds}) == 3


@pytest.mark.parametrize(
    ("fields", "samples"),
    [
        # A tenth of the 320 images is for validation. The other 288 come in batches of 128, 128 and 32.
        ({"method": "snip"}, 128),
        ({"method": "snip", "batches_per_step": 3}, 128 + 128 + 32),
        ({"method": "force", "iterations": 4}, 128 + 128 + 32 + 128),
        ({"method": "force", "iterations": 3, "batches_per_step": 2}, 2 * (128 + 128 + 32)),
        ({"method": "snip_mb", "iterations": 2, "batches_per_step": 2}, 128 + 128 + 32 + 128),
        # GraSP takes ten samples of each of the four classes, unless samples_per_class changes that.
        ({"method": "grasp"}, 40),
        ({"method": "grasp", "samples_per_class": 2, "batches_per_step": 3}, 24),
        ({"method": "grasp", "samples_per_class": 0}, 128),
        ({"method": "snip", "samples_per_class": 5}, 20),
        ({"method": "grasp_mb", "iterations": 3}, 128 + 128 + 32),
        ({"method": "prospr"}, 128 + 128 + 32 + 128),
        ({"method": "prospr", "inner_steps": 0}, 128),
        ({"method": "snip", "saliency_batch_size": 1000}, 288),
        ({"method": "random"}, 0),
        ({"method": "synflow"}, 0),
    ],
)
def test_saliency_samples_are_counted(fields, samples):
    assert trial.prepare(make_trial(**fields)).metrics["saliency_samples"] == samples


ONE_WEIGHT_FIELDS = {"density": 1 / 832}


def test_a_collapsed_network_is_not_trained():
    (metrics,) = run_trial(**ONE_WEIGHT_FIELDS)
    assert {*metrics} == {*METRICS, "epoch"} - RULE_METRICS
    chance = {"epoch": 0, "val_accuracy": 1 / 4, "train_loss": math.log(4), "val_loss": math.log(4), "train_seconds": 0}
    assert chance.items() <= metrics.items()
    assert (metrics["collapsed"], metrics["density"], metrics["layers_emptied"]) == (1, 1 / 832, 2)


def test_test_images_are_measured_at_the_end_where_requested():
    first, last = trial.run(make_trial(epochs=2), Task(tested=True))
    assert "test_accuracy" not in first
    assert last["test_accuracy"] > 0.3, "better than chance, which is a quarter"
    assert last["test_accuracy"] != last["val_accuracy"], "test images are not validation images"
    (collapsed,) = trial.run(make_trial(method="random", density=0.002), Task(tested=True))
    assert collapsed["test_accuracy"] == collapsed["val_accuracy"] == 0.25
    assert "test_accuracy" not in list(trial.run(make_trial(epochs=1)))[-1]


def test_a_collapsed_network_is_trained_without_screening():
    epochs = run_trial(screen=False, **ONE_WEIGHT_FIELDS)
    assert [metrics["epoch"] for metrics in epochs] == [1, 2]
    assert epochs[-1]["collapsed"] == 1
    assert epochs[-1]["train_seconds"] > 0


def test_screening_does_not_affect_a_network_that_is_connected():
    assert drop_run_dependent(run_trial(screen=True)) == drop_run_dependent(run_trial(screen=False))


def prepare_masks(**fields):
    return torch.cat([mask.flatten() for mask in trial.prepare(make_trial(**fields)).masks.values()])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", 3),
        ("schedule", "linear"),
        ("batches_per_step", 2),
        ("saliency_batch_size", 64),
        ("saliency_loss", "nll_logits"),
    ],
)
def test_every_field_of_the_saliency_is_used(field, value):
    assert not torch.equal(prepare_masks(method="force", **{field: value}), prepare_masks(method="force"))


def test_a_random_mask_is_drawn_by_the_seed():
    assert not torch.equal(prepare_masks(method="random", seed=0), prepare_masks(method="random", seed=1))


@pytest.mark.parametrize("field", ["lr", "momentum", "weight_decay", "clip_norm", "batch_size", "lr_schedule"])
def test_every_field_of_training_is_used(field):
    value = {"lr_schedule": "constant", "clip_norm": 0.1, "batch_size": 32}.get(field, 0.01)
    assert drop_run_dependent(run_trial(**{field: value})) != drop_run_dependent(run_trial())


def test_pruned_weights_are_zero_after_training():
    prepared = trial.prepare(make_trial(epochs=1))
    list(trial.TrialRun(prepared))
    weights = prunable(prepared.model)
    assert all((weights[name][~mask] == 0).all() for name, mask in prepared.masks.items())


def test_a_pruned_network_learns():
    assert list(trial.run(make_trial(method="force", width=60, epochs=15)))[-1]["val_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"density": 0.001}, "density 0.001 keeps none of the 832 prunable weights"),
        ({"train_samples": 1000}, "train_samples 1000: allowed: 2 to 320"),
        ({"model": "mpl"}, "unknown model 'mpl'"),
        ({"dataset": "fashion_mnist", "data_root": "/nowhere"}, "no train-images-idx3-ubyte"),
    ],
)
def test_bad_fields_are_refused_by_check_and_by_run(fields, message):
    for start in (trial.check, lambda trial_fields: next(trial.run(trial_fields))):
        with pytest.raises(InputError, match=message):
            start(make_trial(**fields))


def test_check_describes_the_trial():
    assert trial.check(make_trial(train_samples=100)) == {
        "dataset": "synthetic",
        "model": "mlp of width 12",
        "training": 90,
        "validation": 10,
        "input_shape": (1, 8, 8),
        "classes": 4,
        "prunable": 832,
        "macs": 832,
    }


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


def prepare_trial(**fields):
    return trial.prepare(make_trial(**fields))


def count_kept(prepared):
    return [row["kept"] for row in layer_table(prepared.masks)]


def flatten_masks(prepared):
    return torch.cat([mask.flatten() for mask in prepared.masks.values()])


def test_the_shuffle_moves_the_bits_inside_each_layer():
    plain, mixed = prepare_trial(), prepare_trial(shuffle=True)
    assert count_kept(mixed) == count_kept(plain)
    assert not torch.equal(flatten_masks(mixed), flatten_masks(plain))
    assert torch.equal(flatten_masks(mixed), flatten_masks(prepare_trial(shuffle=True)))
    assert torch.equal(flatten_weights(mixed.model), flatten_weights(plain.model))


def test_reinit_draws_the_weights_anew_after_pruning():
    plain, anew = prepare_trial(), prepare_trial(reinit=True)
    assert torch.equal(flatten_masks(anew), flatten_masks(plain))
    assert not torch.equal(flatten_weights(anew.model), flatten_weights(plain.model))
    assert float(flatten_weights(anew.model).std()) == pytest.approx(float(flatten_weights(plain.model).std()), rel=0.1)


def test_invert_keeps_the_lowest_scores():
    prepared = prepare_trial(method="magnitude", invert=True)
    weights, keep = flatten_weights(prepared.model).abs(), flatten_masks(prepared)
    assert weights[keep].max() < weights[~keep].min()


def test_layers_from_copies_the_layer_densities_of_another_trial(tmp_path):
    other = prepare_trial(method="snip", density=0.1)
    save_masks(tmp_path / "masks.npz", other.masks)
    copied = prepare_trial(method="random", density=0.1, layers_from=str(tmp_path / "masks.npz"))
    assert count_kept(copied) == count_kept(other)
    assert not torch.equal(flatten_masks(copied), flatten_masks(other))


def test_layers_from_is_fetched(tmp_path):
    save_masks(tmp_path / "of-a-run.npz", prepare_trial(method="snip", density=0.1).masks)
    sources = []

    def fetch(source):
        sources.append(source)
        return tmp_path / "of-a-run.npz"

    trial.prepare(make_trial(method="random", layers_from="a" * 32), fetch_masks=fetch)
    assert sources == ["a" * 32]


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_layers_from_a_mask_of_another_network_is_refused_before_anything_runs(tmp_path, suffix):
    save_masks(tmp_path / f"masks.{suffix}", prepare_trial(width=24).masks)
    with pytest.raises(InputError, match="another network"):
        trial.check(make_trial(layers_from=str(tmp_path / f"masks.{suffix}")))
    with pytest.raises(InputError, match=f"gone.{suffix} is not a readable mask file"):
        trial.check(make_trial(layers_from=str(tmp_path / f"gone.{suffix}")))


def test_small_dense_has_about_equal_parameters():
    # A network of width w has 64 w + w * max(1, w / 3) + 4 * max(1, w / 3) weights. The trial keeps 166 of 832; width 2
    # has 134 weights and width 3 has 199.
    dense = prepare_trial(density=0.2, small_dense="parameters")
    assert dense.metrics["dense_width"] == 2
    assert [tuple(mask.shape) for mask in dense.masks.values()] == [(2, 64), (1, 2), (4, 1)]
    assert flatten_masks(dense).all()
    assert dense.metrics["density"] == pytest.approx(134 / 832)
    assert dense.metrics["sparsity"] == pytest.approx(1 - 134 / 832)
    assert dense.metrics["macs"] == 134
    assert dense.metrics["macs_fraction"] == pytest.approx(134 / 832)
    assert dense.metrics["saliency_samples"] == 128


@pytest.mark.parametrize("density", [0.005, 0.05, 0.9])
def test_small_dense_has_about_equal_multiply_adds(density):
    macs = prepare_trial(density=density).metrics["macs"]
    sizes = {width: 64 * width + (width + 4) * max(1, width // 3) for width in range(1, 13)}
    nearest = min(sizes, key=lambda width: abs(sizes[width] - macs))
    metrics = prepare_trial(density=density, small_dense="macs").metrics
    assert (metrics["dense_width"], metrics["macs"]) == (nearest, sizes[nearest])
    assert metrics["density"] == sizes[nearest] / 832


def test_small_dense_is_trained():
    epochs = run_trial(density=0.01, small_dense="parameters")
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert epochs[-1]["collapsed"] == 0


def test_small_dense_needs_a_width(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(USER_MODEL_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="width of model 'own_net:with_dropout' cannot be changed"):
        trial.check(make_trial(model="own_net:with_dropout", width=None, small_dense="macs"))


def test_too_few_samples_of_a_class_are_refused_before_anything_runs():
    with pytest.raises(InputError, match="100 samples of every class need 100"):
        trial.check_saliency(make_trial(method="grasp", samples_per_class=100))
    trial.check_saliency(make_trial(method="grasp"))


def test_options_reach_the_method():
    default, same, other = (
        prepare_trial(method="grasp", density=0.3, **options)
        for options in ({}, {"temperature": 200.0}, {"temperature": 0.1})
    )
    assert torch.equal(flatten_masks(default), flatten_masks(same))
    assert not torch.equal(flatten_masks(default), flatten_masks(other))


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


STREAMED_DATA_CODE = """
import torch
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from forcetune.data import Streamed

def streamed(data_root):
    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
    return Streamed(
        train=FakeData(80, (1, 8, 8), num_classes=4), test=FakeData(20, (1, 8, 8), num_classes=4),
        train_transform=v2.Compose([v2.RandomCrop(8, padding=2), *last]), eval_transform=v2.Compose(last),
        classes=4, input_shape=(1, 8, 8), workers=0,
    )
"""
RESUMED_TRIALS = {
    "plain": {},
    "dropout, and a bound on the gradient": {"model": "my_net:with_dropout", "width": None, "clip_norm": 1.0},
    "batch norm": {"dataset": "digits", "model": "convnet", "train_samples": 200},
    "small dense": {"model": "mlp", "width": 24, "small_dense": "parameters"},
    "weights drawn anew": {"reinit": True},
    "streamed and augmented": {"dataset": "my_data:streamed"},
}


@pytest.mark.parametrize("fields", RESUMED_TRIALS.values(), ids=RESUMED_TRIALS.keys())
@pytest.mark.parametrize("epochs_before_stop", [1, 3])
def test_a_resumed_trial_goes_on_bit_for_bit(fields, epochs_before_stop, tmp_path, monkeypatch):
    (tmp_path / "my_net.py").write_text(USER_MODEL_CODE)
    (tmp_path / "my_data.py").write_text(STREAMED_DATA_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    resumed_trial = make_trial(epochs=4, batch_size=32, **fields)
    uninterrupted = trial.TrialRun(trial.prepare(resumed_trial))
    curve = drop_run_dependent(uninterrupted)

    interrupted = trial.TrialRun(trial.prepare(resumed_trial))
    first_epochs = [next(iter(interrupted)) for _ in range(epochs_before_stop)]
    torch.save(interrupted.state_dict(), tmp_path / "checkpoint.pt")
    torch.manual_seed(99)  # another process has another random state
    resumed = trial.resume(resumed_trial, torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert drop_run_dependent([*first_epochs, *resumed]) == curve
    for name, tensor in uninterrupted.prepared.model.state_dict().items():
        assert torch.equal(tensor, resumed.prepared.model.state_dict()[name]), name


USER_TASK_CODE = """
import time
import torch
from torch.nn import functional
from forcetune.training import evaluate, hold

def latency(model, example):
    with torch.no_grad():
        model(example)
        started = time.perf_counter()
        for _ in range(5):
            model(example)
    weights = sum(p.numel() for p in model.parameters())
    return {"latency_ms": (time.perf_counter() - started) / 5 * 1000, "weights": weights, "samples": len(example)}

def taken(model, example):
    return {"macs": 1}

def broken(model, example):
    raise RuntimeError("no device")

def f1(logits, targets):
    return float((logits.argmax(1) == targets).float().mean())

def train(model, masks, training, validation, fields):
    optimizer = torch.optim.SGD(model.parameters(), fields["lr"])
    hold(optimizer, model, masks)
    for epoch in range(fields["epochs"]):
        for inputs, targets in training:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        yield {**evaluate(model, validation), "epochs_so_far": epoch + 1}
"""


@pytest.fixture
def user_task(tmp_path, monkeypatch):
    (tmp_path / "my_wanted.py").write_text(USER_TASK_CODE)
    monkeypatch.syspath_prepend(tmp_path)


def test_the_compacted_network_is_measured_before_training(user_task):
    task = Task(measure="my_wanted:latency")
    sparse, dense = (trial.prepare(make_trial(method="synflow", density=d), task).metrics for d in (0.1, 1.0))
    assert sparse["latency_ms"] > 0
    assert sparse["samples"] == 1
    assert sparse["weights"] < dense["weights"], "compaction removes channels that have no effect"
    assert {"latency_ms", "density"} <= next(trial.run(make_trial(epochs=1), task)).keys()


def test_a_measured_constraint_keeps_a_network_from_training(user_task):
    task = Task(measure="my_wanted:latency", constraints={"weights": (None, 10.0)})
    (metrics,) = trial.run(make_trial(epochs=3), task)
    assert metrics["epoch"] == 0
    assert metrics["val_accuracy"] == 0.25, "chance for four classes"
    prepared = trial.prepare(make_trial(), task)
    outcome, reason = prepared.untrained_outcome
    assert outcome == "infeasible"
    assert "is above the constraint's max 10" in reason


def test_a_collapsed_network_is_collapsed_first():
    prepared = trial.prepare(make_trial(density=0.002), Task(constraints={"density": (0.5, None)}))
    assert prepared.untrained_outcome[0] == "collapsed"


def test_a_measurement_with_a_name_of_forcetunes_own_is_refused(user_task):
    with pytest.raises(InputError, match="measure: my_wanted:taken returns macs, which forcetune measures itself"):
        trial.prepare(make_trial(), Task(measure="my_wanted:taken"))


def test_metrics_of_the_user_are_measured(user_task):
    epochs = list(trial.run(make_trial(epochs=2), Task(metrics=("my_wanted:f1",))))
    assert [metrics["val_f1"] for metrics in epochs] == [pytest.approx(epoch["val_accuracy"]) for epoch in epochs]
    (untrained,) = trial.run(make_trial(), Task(metrics=("my_wanted:f1",), constraints={"macs": (None, 1.0)}))
    assert 0 <= untrained["val_f1"] <= 1, "the untrained network is measured"


def test_a_training_loop_of_the_user_runs(user_task):
    epochs = list(trial.run(make_trial(epochs=3), Task(train="my_wanted:train")))
    assert [epoch["epochs_so_far"] for epoch in epochs] == [1, 2, 3]
    assert all({"val_accuracy", "train_seconds", "density"} <= epoch.keys() for epoch in epochs)
    assert not trial.TrialRun(trial.prepare(make_trial(), Task(train="my_wanted:train"))).is_resumable


def test_the_metrics_that_a_trial_would_report_are_listed(user_task):
    static_metrics, all_metrics = trial.find_reported_metrics(
        make_trial(), Task(measure="my_wanted:latency", metrics=("my_wanted:f1",))
    )
    assert {"density", "macs", "latency_ms"} <= {*static_metrics}
    assert {*static_metrics, "val_accuracy", "val_f1"} <= {*all_metrics}
    assert "val_f1" not in static_metrics
    with pytest.raises(InputError, match="measure: my_wanted:broken raised RuntimeError: no device"):
        trial.find_reported_metrics(make_trial(), Task(measure="my_wanted:broken"))


def test_seconds_of_an_epoch_are_estimated_from_a_few_steps(monkeypatch):
    prepared = trial.prepare(make_trial(train_samples=320, batch_size=4))
    clock, steps = [0.0], []

    def count_step(*arguments):
        steps.append(arguments)
        clock[0] += 3.0

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    hook = register_optimizer_step_post_hook(count_step)
    try:
        assert trial.measure_epoch_seconds(prepared, 2) == 72 * 3.0, "288 images in batches of 4 at 3 s a step"
    finally:
        hook.remove()
    assert len(steps) == 2 * 2, "two epochs of two steps; the first epoch warms up"


def test_trials_of_a_grid_share_pruning_steps(monkeypatch):
    clock = itertools.count(0, 1000)
    monkeypatch.setattr("forcetune.pruning.cache.perf_counter", lambda: next(clock))  # each step takes 1000 s
    fields = {"method": "force", "iterations": 2}
    unshared = drop_run_dependent(run_trial(**fields, density=0.04))
    trial.clear_pruning_caches()
    first = run_trial(**fields, density=0.2)
    second = run_trial(**fields, density=0.04)
    assert drop_run_dependent(second) == unshared
    assert (first[-1]["steps_reused"], second[-1]["steps_reused"]) == (0, 1)
    assert first[-1]["prune_seconds"] < 1000 <= second[-1]["prune_seconds"], (
        "reused steps count in the cost of the mask"
    )


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"saliency_batch_size": 64}, {"invert": True}, {"batches_per_step": 2}]
)
def test_trials_that_score_otherwise_share_nothing(changes):
    run_trial()
    assert run_trial(**changes)[-1]["steps_reused"] == 0
    assert run_trial(lr=0.01, density=0.1)[-1]["steps_reused"] == 1


def test_each_field_of_a_trial_is_marked_with_what_it_affects():
    by_stage = [{*select_fields(effect)} for effect in (Effect.SCORES, Effect.MASK, Effect.TRAINING)]
    assert sum(map(len, by_stage)) == len(set.union(*by_stage)) == len(Trial.model_fields)
    assert {*select_fields(Effect.LOOP)} <= {*inspect.signature(Training).parameters}


def test_the_pruning_cache_is_bounded(monkeypatch):
    # This is room for the scores of two networks without their state.
    monkeypatch.setattr(reuse, "PRUNING_CACHE_BYTES", 2 * 832 * 4)
    for seed in range(4):
        run_trial(seed=seed)
    assert len(reuse._pruning_caches) < 4
    assert run_trial(seed=0)[-1]["steps_reused"] == 0


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_trial_prunes_whole_channels(shuffle):
    prepared = prepare_trial(method="snip", granularity="channel", shuffle=shuffle, density=0.2)
    weights = {name: weight.detach() for name, weight in prunable(prepared.model).items()}
    channels = NetworkChannels(prepared.model, weights, prepared.dataset.input_shape)
    remade = channels.make_masks(channels.find_kept(prepared.masks))
    assert all(torch.equal(remade[name], mask) for name, mask in prepared.masks.items())
    assert 0.6 * 0.2 < prepared.metrics["density"] <= 0.2


def test_the_label_says_that_channels_are_pruned():
    assert method_label(make_trial(method="snip", granularity="channel").fields()) == "snip by channel"
    assert method_label(make_trial(method="snip").fields()) == "snip"

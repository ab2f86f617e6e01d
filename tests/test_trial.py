"""A trial from its fields to its metrics, and the key that names it."""

import math

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from forcetune import trial
from forcetune.data import Dataset
from forcetune.errors import InputError
from forcetune.pruning import METHODS, layer_table, prunable, save_masks
from forcetune.study import METRICS, Task, Trial, method_label
from forcetune.study.trial import METHOD_OPTIONS
from forcetune.trial import reuse
from forcetune.trial.reuse import SCORE_NEUTRAL_FIELDS

HISTORY = {"prune_seconds", "train_seconds", "steps_reused"}  # hang on what else ran, and how fast


@pytest.fixture(autouse=True)
def _anew():
    trial.clear_pruning_caches()


def make(**fields):
    return Trial(**{"dataset": "synthetic", "model": "mlp", "width": 12, "method": "snip", "density": 0.2, **fields})


def run(**fields):
    return list(trial.run(make(epochs=2, **fields)))


def timeless(dicts):
    return [{name: value for name, value in found.items() if name not in HISTORY} for found in dicts]


def initial(model):
    return torch.cat([weight.detach().flatten() for weight in prunable(model).values()])


def test_one_dict_an_epoch_with_all_metrics():
    found = run()
    assert [metrics["epoch"] for metrics in found] == [1, 2]
    averaged = {"ema_val_loss", "ema_val_accuracy"}
    assert {*found[0]} == {*METRICS, "epoch", *averaged}, "the one rung of two epochs"
    assert {*found[1]} == {*METRICS, "epoch"}
    assert all(math.isfinite(value) for metrics in found for value in metrics.values())
    assert 0 < found[0]["train_seconds"] < found[1]["train_seconds"], "time since the start"
    before = {name: found[0][name] for name in ("density", "sparsity", "macs", "collapsed", "saliency_samples")}
    # 832 weights: 64 x 12, 12 x 4 and 4 x 4
    assert before["density"] == int(832 * 0.2) / 832
    assert before.items() <= found[1].items()


@pytest.mark.parametrize("method", ["random", "force", "synflow"])
def test_equal_trials_have_equal_metrics(method):
    one, same, other = (timeless(run(method=method, seed=seed)) for seed in (1, 1, 2))
    trial.clear_pruning_caches()
    again = timeless(run(method=method, seed=1))
    assert one == same == again
    assert one != other


OWN_MODEL = """
from torch import nn

def with_dropout(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, classes))
"""


@pytest.mark.parametrize("method", ["magnitude", "snip"])
def test_equal_trials_have_equal_metrics_with_dropout(method, tmp_path, monkeypatch):
    (tmp_path / "own_dropout.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(tmp_path)

    def after(state):
        torch.manual_seed(state)  # whatever ran before in this process has moved torch's random state
        prepared = trial.prepare(make(model="own_dropout:with_dropout", width=None, method=method, epochs=2))
        torch.manual_seed(state)
        return timeless(trial.TrialRun(prepared))

    assert after(1) == after(2)


def test_each_thing_that_is_drawn_has_a_stream_of_its_own():
    purposes = ["split", "weights", "saliency", "mask", "order"]
    streams = [trial.derive_seed(make(seed=seed), purpose) for seed in range(5) for purpose in purposes]
    assert len(set(streams)) == 25
    assert trial.derive_seed(make(seed=3, density=0.1), "split") == trial.derive_seed(make(seed=3, lr=0.5), "split")


def test_other_fields_move_neither_the_split_nor_the_weights():
    one = trial.prepare(make())
    other = trial.prepare(make(method="force", density=0.1, batch_size=16, saliency_batch_size=7, epochs=9))
    assert torch.equal(one.training.inputs, other.training.inputs)
    assert torch.equal(one.validation.inputs, other.validation.inputs)
    assert torch.equal(initial(one.model), initial(other.model))


def test_the_seed_draws_the_split_and_the_weights():
    one, other = trial.prepare(make(seed=0)), trial.prepare(make(seed=1))
    assert not torch.equal(one.validation.inputs, other.validation.inputs)
    assert not torch.equal(initial(one.model), initial(other.model))


def test_validation_images_are_in_no_batch_of_training_or_saliency(monkeypatch):
    # The tests of data hold that the split is disjoint; here, that each part is used for what it is
    used, seeds = [], []

    def spy(made, part, size, seed=None, per_class=0):
        used.append((len(part), size, per_class))
        seeds.append(seed)
        return batches(made, part, size, seed, per_class)

    batches = Dataset.batches
    monkeypatch.setattr(Dataset, "batches", spy)
    run(saliency_batch_size=50, batch_size=40)
    assert used == [(288, 50, 0), (32, trial.EVALUATION_BATCH_SIZE, 0), (288, 40, 0)]
    assert seeds[1] is None, "in order"
    assert len({*seeds}) == 3


@pytest.mark.parametrize(
    ("fields", "samples"),
    [
        # 320 images less a tenth to validate on: 288, in batches of 128, 128 and 32
        ({"method": "snip"}, 128),
        ({"method": "snip", "batches_per_step": 3}, 128 + 128 + 32),
        ({"method": "force", "iterations": 4}, 128 + 128 + 32 + 128),
        ({"method": "force", "iterations": 3, "batches_per_step": 2}, 2 * (128 + 128 + 32)),
        ({"method": "snip_mb", "iterations": 2, "batches_per_step": 2}, 128 + 128 + 32 + 128),
        # ten of each of the four classes; or none, two, or batches of any classes
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
def test_saliency_samples(fields, samples):
    assert trial.prepare(make(**fields)).metrics["saliency_samples"] == samples


ONE_WEIGHT = {"density": 1 / 832}


def test_a_collapsed_network_is_not_trained():
    (found,) = run(**ONE_WEIGHT)
    assert {*found} == {*METRICS, "epoch"}
    chance = {"epoch": 0, "val_accuracy": 1 / 4, "train_loss": math.log(4), "val_loss": math.log(4), "train_seconds": 0}
    assert chance.items() <= found.items()
    assert (found["collapsed"], found["density"], found["layers_emptied"]) == (1, 1 / 832, 2)


def test_test_images_are_measured_at_the_end_and_where_asked():
    first, last = trial.run(make(epochs=2), Task(tested=True))
    assert "test_accuracy" not in first
    assert last["test_accuracy"] > 0.3, "chance is a quarter"
    assert last["test_accuracy"] != last["val_accuracy"], "other images"
    (collapsed,) = trial.run(make(method="random", density=0.002), Task(tested=True))
    assert collapsed["test_accuracy"] == collapsed["val_accuracy"] == 0.25
    assert "test_accuracy" not in list(trial.run(make(epochs=1)))[-1]


def test_a_collapsed_network_is_trained_where_asked():
    found = run(screen=False, **ONE_WEIGHT)
    assert [metrics["epoch"] for metrics in found] == [1, 2]
    assert found[-1]["collapsed"] == 1
    assert found[-1]["train_seconds"] > 0


def test_a_network_that_is_whole_is_trained_whatever_screen_says():
    assert timeless(run(screen=True)) == timeless(run(screen=False))


def masks(**fields):
    return torch.cat([mask.flatten() for mask in trial.prepare(make(**fields)).masks.values()])


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
    assert not torch.equal(masks(method="force", **{field: value}), masks(method="force"))


def test_a_random_mask_is_drawn_by_the_seed():
    assert not torch.equal(masks(method="random", seed=0), masks(method="random", seed=1))


@pytest.mark.parametrize("field", ["lr", "momentum", "weight_decay", "clip_norm", "batch_size", "lr_schedule"])
def test_every_field_of_training_is_used(field):
    value = {"lr_schedule": "constant", "clip_norm": 0.1, "batch_size": 32}.get(field, 0.01)
    assert timeless(run(**{field: value})) != timeless(run())


def test_pruned_weights_are_zero_after_training():
    prepared = trial.prepare(make(epochs=1))
    list(trial.TrialRun(prepared))
    weights = prunable(prepared.model)
    assert all((weights[name][~mask] == 0).all() for name, mask in prepared.masks.items())


def test_learns():
    assert list(trial.run(make(method="force", width=60, epochs=15)))[-1]["val_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"density": 0.001}, "density 0.001 keeps none of the 832 prunable weights"),
        ({"train_samples": 1000}, "train_samples 1000: allowed: 2 to 320"),
        ({"model": "mpl"}, "unknown model 'mpl'"),
        ({"dataset": "fashion_mnist", "data_root": "/nowhere"}, "no train-images-idx3-ubyte"),
    ],
)
def test_refused_before_and_when_run(fields, said):
    for start in (trial.check, lambda made: next(trial.run(made))):
        with pytest.raises(InputError, match=said):
            start(make(**fields))


def test_check():
    assert trial.check(make(train_samples=100)) == {
        "dataset": "synthetic",
        "model": "mlp of width 12",
        "training": 90,
        "validation": 10,
        "input_shape": (1, 8, 8),
        "classes": 4,
        "prunable": 832,
        "macs": 832,
    }


# Trials in stores are found again by these keys. They hold for ever: a new field has a default that changes
# nothing and is left out of the hash. Never mend this test; mend what broke it.
PINNED = {
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


@pytest.mark.parametrize(("key", "fields"), PINNED.items(), ids=PINNED)
def test_keys_hold_for_ever(key, fields):
    assert Trial(**fields).key == key


def test_the_key_ignores_what_does_not_apply():
    plain = make(method="snip")
    assert make(method="snip", iterations=5, schedule="linear").key == plain.key
    assert make(method="random", batches_per_step=4, saliency_batch_size=9).key == make(method="random").key
    assert make(method="force", iterations=5).key != make(method="force").key
    assert make(method="snip", batches_per_step=4).key != plain.key


def test_the_key_is_the_same_for_a_default_that_is_written_out():
    assert make(method="force", iterations=20, lr=0.1, clip_norm=None).key == make(method="force").key
    assert make(density=1).key == make(density=1.0).key


@pytest.mark.parametrize(("field", "value"), [("seed", 1), ("width", 13), ("lr", 0.2), ("screen", False)])
def test_the_key_tells_trials_apart(field, value):
    assert make(**{field: value}).key != make().key


def test_fields_that_apply():
    fields = make(method="synflow").fields()
    assert {"iterations", "schedule"} <= {*fields}
    assert not {"batches_per_step", "saliency_batch_size", "saliency_loss", "clip_norm", "data_root"} & {*fields}


def prepared(**fields):
    return trial.prepare(make(**fields))


def counts(found):
    return [row["kept"] for row in layer_table(found.masks)]


def bits(found):
    return torch.cat([mask.flatten() for mask in found.masks.values()])


def test_the_shuffle_moves_the_bits_inside_each_layer():
    plain, mixed = prepared(), prepared(shuffle=True)
    assert counts(mixed) == counts(plain)
    assert not torch.equal(bits(mixed), bits(plain))
    assert torch.equal(bits(mixed), bits(prepared(shuffle=True)))
    assert torch.equal(initial(mixed.model), initial(plain.model))


def test_reinit_draws_the_weights_anew_after_pruning():
    plain, anew = prepared(), prepared(reinit=True)
    assert torch.equal(bits(anew), bits(plain))
    assert not torch.equal(initial(anew.model), initial(plain.model))
    assert float(initial(anew.model).std()) == pytest.approx(float(initial(plain.model).std()), rel=0.1)


def test_invert_keeps_the_lowest_scores():
    found = prepared(method="magnitude", invert=True)
    weights, keep = initial(found.model).abs(), bits(found)
    assert weights[keep].max() < weights[~keep].min()


def test_layer_densities_of_another_trial(tmp_path):
    other = prepared(method="snip", density=0.1)
    save_masks(tmp_path / "masks.npz", other.masks)
    found = prepared(method="random", density=0.1, layers_from=str(tmp_path / "masks.npz"))
    assert counts(found) == counts(other)
    assert not torch.equal(bits(found), bits(other))


def test_layers_from_is_fetched(tmp_path):
    save_masks(tmp_path / "of-a-run.npz", prepared(method="snip", density=0.1).masks)
    asked = []

    def fetch(source):
        asked.append(source)
        return tmp_path / "of-a-run.npz"

    trial.prepare(make(method="random", layers_from="a" * 32), fetch_masks=fetch)
    assert asked == ["a" * 32]


def test_layers_from_a_mask_of_another_network_is_refused_before_anything_runs(tmp_path):
    save_masks(tmp_path / "masks.npz", prepared(width=24).masks)
    with pytest.raises(InputError, match="another network"):
        trial.check(make(layers_from=str(tmp_path / "masks.npz")))
    with pytest.raises(InputError, match="gone.npz is not a readable mask file"):
        trial.check(make(layers_from=str(tmp_path / "gone.npz")))


def test_small_dense_of_equal_parameters():
    # Width w: 64 w + w * max(1, w / 3) + 4 * max(1, w / 3) weights; 166 of 832 are kept: 2 has 134, 3 has 199
    found = prepared(density=0.2, small_dense="parameters")
    assert found.metrics["dense_width"] == 2
    assert [tuple(mask.shape) for mask in found.masks.values()] == [(2, 64), (1, 2), (4, 1)]
    assert bits(found).all()
    assert found.metrics["density"] == pytest.approx(134 / 832)
    assert found.metrics["sparsity"] == pytest.approx(1 - 134 / 832)
    assert found.metrics["macs"] == 134
    assert found.metrics["macs_fraction"] == pytest.approx(134 / 832)
    assert found.metrics["saliency_samples"] == 128


@pytest.mark.parametrize("density", [0.005, 0.05, 0.9])
def test_small_dense_of_equal_multiply_adds(density):
    macs = prepared(density=density).metrics["macs"]
    sizes = {width: 64 * width + (width + 4) * max(1, width // 3) for width in range(1, 13)}
    nearest = min(sizes, key=lambda width: abs(sizes[width] - macs))
    found = prepared(density=density, small_dense="macs").metrics
    assert (found["dense_width"], found["macs"]) == (nearest, sizes[nearest])
    assert found["density"] == sizes[nearest] / 832


def test_small_dense_is_trained():
    found = run(density=0.01, small_dense="parameters")
    assert [metrics["epoch"] for metrics in found] == [1, 2]
    assert found[-1]["collapsed"] == 0


def test_small_dense_needs_a_width(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="width of model 'own_net:with_dropout' cannot be changed"):
        trial.check(make(model="own_net:with_dropout", width=None, small_dense="macs"))


def test_too_few_samples_of_a_class_are_refused_before_anything_runs():
    with pytest.raises(InputError, match="100 samples of every class need 100"):
        trial.check_saliency(make(method="grasp", samples_per_class=100))
    trial.check_saliency(make(method="grasp"))


def test_options_reach_the_method():
    default, same, other = (
        prepared(method="grasp", density=0.3, **given) for given in ({}, {"temperature": 200.0}, {"temperature": 0.1})
    )
    assert torch.equal(bits(default), bits(same))
    assert not torch.equal(bits(default), bits(other))


def test_every_option_of_a_method_is_a_field():
    assert {name for row in METHODS.values() for name in row.options} == {*METHOD_OPTIONS}
    assert {*METHOD_OPTIONS} <= {*Trial.model_fields}


@pytest.mark.parametrize(
    ("fields", "absent"),
    [
        ({"method": "random_erk"}, ["iterations", "schedule", "batches_per_step", "saliency_batch_size"]),
        ({"method": "snip_mb"}, ["schedule", "temperature"]),
        ({"method": "grasp"}, ["iterations", "saliency_batch_size", "inner_steps"]),
        ({"method": "snip", "samples_per_class": 4}, ["saliency_batch_size"]),
        ({"method": "synflow", "samples_per_class": 4}, ["saliency_batch_size", "samples_per_class"]),
    ],
)
def test_fields_that_do_not_apply_are_absent(fields, absent):
    given = {"temperature": 3.0, "inner_steps": 2, "saliency_batch_size": 64, "iterations": 9}
    assert not {*absent} & {*make(**given, **fields).fields()}
    assert make(**given, **fields).key == make(**{**given, **fields, "inner_lr": 0.3}).key


def test_fields_that_apply_are_there():
    assert make(method="snip_mb", iterations=9).fields()["iterations"] == 9
    assert make(method="grasp", samples_per_class=0).fields()["saliency_batch_size"] == 128
    assert make(method="prospr", inner_steps=2).fields()["inner_steps"] == 2


def test_a_label_names_the_controls_that_are_on():
    assert method_label(make().fields()) == "snip"
    assert method_label(make(shuffle=True, reinit=True).fields()) == "snip+shuffle+reinit"
    assert method_label(make(small_dense="macs").fields()) == "snip+small_dense:macs"
    assert method_label(make(layers_from="a.npz", invert=True).fields()) == "snip+layers_from+invert"


OWN_DATA = """
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
RESUMED = {
    "plain": {},
    "dropout, and a bound on the gradient": {"model": "my_net:with_dropout", "width": None, "clip_norm": 1.0},
    "batch norm": {"dataset": "digits", "model": "convnet", "train_samples": 200},
    "small dense": {"model": "mlp", "width": 24, "small_dense": "parameters"},
    "weights drawn anew": {"reinit": True},
    "streamed and augmented": {"dataset": "my_data:streamed"},
}


@pytest.mark.parametrize("fields", RESUMED.values(), ids=RESUMED.keys())
@pytest.mark.parametrize("stopped", [1, 3])
def test_a_resumed_trial_goes_on_bit_for_bit(fields, stopped, tmp_path, monkeypatch):
    (tmp_path / "my_net.py").write_text(OWN_MODEL)
    (tmp_path / "my_data.py").write_text(OWN_DATA)
    monkeypatch.syspath_prepend(tmp_path)
    wanted = make(epochs=4, batch_size=32, **fields)
    whole = trial.TrialRun(trial.prepare(wanted))
    curve = timeless(whole)

    cut = trial.TrialRun(trial.prepare(wanted))
    first = [next(iter(cut)) for _ in range(stopped)]
    torch.save(cut.state_dict(), tmp_path / "checkpoint.pt")
    torch.manual_seed(99)  # another process draws from elsewhere
    rest = trial.resume(wanted, torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert timeless([*first, *rest]) == curve
    for name, tensor in whole.prepared.model.state_dict().items():
        assert torch.equal(tensor, rest.prepared.model.state_dict()[name]), name


OWN_TASK = """
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
def own_task(tmp_path, monkeypatch):
    (tmp_path / "my_wanted.py").write_text(OWN_TASK)
    monkeypatch.syspath_prepend(tmp_path)


def test_what_is_measured_of_the_compacted_network_before_training(own_task):
    task = Task(measure="my_wanted:latency")
    sparse, dense = (trial.prepare(make(method="synflow", density=d), task).metrics for d in (0.1, 1.0))
    assert sparse["latency_ms"] > 0
    assert sparse["samples"] == 1
    assert sparse["weights"] < dense["weights"], "channels that cannot matter are cut away"
    assert {"latency_ms", "density"} <= next(trial.run(make(epochs=1), task)).keys()


def test_a_measured_constraint_keeps_a_network_from_training(own_task):
    task = Task(measure="my_wanted:latency", constraints={"weights": (None, 10.0)})
    (found,) = trial.run(make(epochs=3), task)
    assert found["epoch"] == 0
    assert found["val_accuracy"] == 0.25, "chance, of four classes"
    prepared = trial.prepare(make(), task)
    outcome, reason = prepared.untrained_outcome
    assert outcome == "infeasible"
    assert "is above the constraint's max 10" in reason


def test_a_collapsed_network_is_collapsed_first():
    prepared = trial.prepare(make(density=0.002), Task(constraints={"density": (0.5, None)}))
    assert prepared.untrained_outcome[0] == "collapsed"


def test_a_metric_of_forcetunes_own_is_not_taken(own_task):
    with pytest.raises(InputError, match="measure: my_wanted:taken returns macs, which forcetune measures itself"):
        trial.prepare(make(), Task(measure="my_wanted:taken"))


def test_metrics_and_loss_of_ones_own(own_task):
    found = list(trial.run(make(epochs=2), Task(metrics=("my_wanted:f1",))))
    assert [metrics["val_f1"] for metrics in found] == [pytest.approx(m["val_accuracy"]) for m in found]
    (untrained,) = trial.run(make(), Task(metrics=("my_wanted:f1",), constraints={"macs": (None, 1.0)}))
    assert 0 <= untrained["val_f1"] <= 1, "of the untrained network"


def test_a_training_loop_of_ones_own(own_task):
    found = list(trial.run(make(epochs=3), Task(train="my_wanted:train")))
    assert [metrics["epochs_so_far"] for metrics in found] == [1, 2, 3]
    assert all({"val_accuracy", "train_seconds", "density"} <= metrics.keys() for metrics in found)
    assert not trial.TrialRun(trial.prepare(make(), Task(train="my_wanted:train"))).is_resumable


def test_what_a_trial_would_report(own_task):
    before, every = trial.find_reported_metrics(make(), Task(measure="my_wanted:latency", metrics=("my_wanted:f1",)))
    assert {"density", "macs", "latency_ms"} <= {*before}
    assert {*before, "val_accuracy", "val_f1"} <= {*every}
    assert "val_f1" not in before
    with pytest.raises(InputError, match="measure: my_wanted:broken raised RuntimeError: no device"):
        trial.find_reported_metrics(make(), Task(measure="my_wanted:broken"))


def test_seconds_of_an_epoch_are_reckoned_from_a_few_steps(monkeypatch):
    prepared = trial.prepare(make(train_samples=320, batch_size=4))
    clock, steps = [0.0], []

    def stepped(*called):
        steps.append(called)
        clock[0] += 3.0

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    hook = register_optimizer_step_post_hook(stepped)
    try:
        assert trial.measure_epoch_seconds(prepared, 2) == 72 * 3.0, "288 images in batches of 4, at 3 s a step"
    finally:
        hook.remove()
    assert len(steps) == 2 * 2, "two epochs of two steps, the first for what is set up only once"


def test_trials_of_a_grid_share_pruning_steps():
    fields = {"method": "force", "iterations": 2}
    alone = timeless(run(**fields, density=0.04))
    trial.clear_pruning_caches()
    first = run(**fields, density=0.2)
    second = run(**fields, density=0.04)
    assert timeless(second) == alone
    assert (first[-1]["steps_reused"], second[-1]["steps_reused"]) == (0, 1)
    assert second[-1]["prune_seconds"] > 0.3 * first[-1]["prune_seconds"], "what the mask costs by itself"


@pytest.mark.parametrize("other", [{"seed": 1}, {"saliency_batch_size": 64}, {"invert": True}, {"batches_per_step": 2}])
def test_trials_that_score_otherwise_share_nothing(other):
    run()
    assert run(**other)[-1]["steps_reused"] == 0
    assert run(lr=0.01, density=0.1)[-1]["steps_reused"] == 1


def test_what_plays_no_part_in_a_score_is_a_field():
    assert set(Trial.model_fields) > SCORE_NEUTRAL_FIELDS


def test_few_bytes_are_kept(monkeypatch):
    monkeypatch.setattr(reuse, "PRUNING_CACHE_BYTES", 2 * 832 * 4)  # the scores of two networks, and a little state
    for seed in range(4):
        run(seed=seed)
    assert len(reuse._pruning_caches) < 4
    assert run(seed=0)[-1]["steps_reused"] == 0

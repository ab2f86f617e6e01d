"""The check of a study: the networks that it would train, and what is refused before anything starts."""

import pytest
import torch

from forcetune.errors import InputError
from forcetune.pruning import save_masks
from forcetune.run import check_study
from forcetune.study import Study


def parse_study(**trial):
    fields = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1, **trial}
    return Study.from_dict({"study": "x", "trial": fields})


def test_one_entry_for_each_data_set_and_network():
    networks = check_study(parse_study(model=["mlp", "convnet"], width=[8, 12], method=["snip", "grasp", "random_erk"]))
    assert [(network["model"], network["training"], network["classes"]) for network in networks] == [
        (f"{model} of width {width}", 288, 4) for model in ("mlp", "convnet") for width in (8, 12)
    ]


def test_controls_ask_for_no_other_network():
    assert len(check_study(parse_study(width=12, shuffle=[False, True], small_dense="macs", reinit=True))) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"density": {"low": 1e-6, "high": 0.5, "log": True}}, "density 1e-06 keeps none of"),
        ({"method": ["snip", "grasp"], "train_samples": 40}, "trial.method grasp: batches with 10 samples"),
        ({"method": "snip", "samples_per_class": [0, 99]}, "trial.method snip: batches with 99 samples"),
        ({"model": "torchvision:alexnet"}, "does not fit samples of shape"),
        ({"train_samples": 2}, "train_samples 2 .*; allowed: 3 or more"),
        ({"layers_from": "gone.npz"}, "gone.npz is not a readable mask file"),
    ],
)
def test_trials_that_cannot_run_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        check_study(parse_study(**fields))


def test_batch_norm_that_cannot_be_fed_a_single_sample(tmp_path, monkeypatch):
    (tmp_path / "my_normed.py").write_text(
        "from torch import nn\n\n"
        "def build(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    fields = {"method": ["random", "snip", "synflow"], "saliency_batch_size": [64, 1]}
    with pytest.raises(InputError, match="trial.method snip: saliency_batch_size 1: .* single sample"):
        check_study(parse_study(model="my_normed:build", **fields))
    assert check_study(parse_study(model="mlp", **fields))  # this network has no batch norm


def test_masks_of_another_network_are_refused(tmp_path):
    save_masks(tmp_path / "masks.npz", {"1.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(InputError, match="another network: 1.weight"):
        check_study(parse_study(layers_from=str(tmp_path / "masks.npz")))


USER_FUNCTIONS_CODE = """
def latency(model, example):
    return {"latency_ms": 3.0}

def renamed(model, example):
    return {"latency (ms)": 3.0, "x" * 400: 1.0}

def recall(logits, targets):
    return {"recall@5": 0.5}

def broken(logits, targets):
    raise ValueError("no such class")
"""


def test_user_functions_are_tried_before_anything_starts(tmp_path, monkeypatch):
    (tmp_path / "my_checked.py").write_text(USER_FUNCTIONS_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    fields = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1}

    def check(**top):
        return check_study(Study.from_dict({"study": "x", "trial": fields, **top}))

    assert check(measure="my_checked:latency", objectives={"latency_ms": "min"}, constraints={"latency_ms": 1})
    with pytest.raises(InputError, match=r"objectives.latency_s: no trial reports .*did you mean 'latency_ms'"):
        check(measure="my_checked:latency", objectives={"latency_s": "min"})
    with pytest.raises(InputError, match="metrics: my_checked:broken raised ValueError: no such class"):
        check(metrics="my_checked:broken")
    with pytest.raises(InputError, match=r"MLflow .* the metric name 'recall@5'; allowed: .* 'recall_5' is allowed"):
        check(metrics="my_checked:recall")
    with pytest.raises(
        InputError, match=r"measure: my_checked:renamed raised .*'latency \(ms\)'.* 'latency_ms' is allowed"
    ):
        check(measure="my_checked:renamed")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "snap", "density": 0.0005}, "density 0.0005 leaves less than one channel .* snap prunes"),
        ({"granularity": ["weight", "channel"], "density": 0.0005}, "which snip by channel prunes whole channels"),
        ({"method": "skeletonization", "density": 0.0005, "epochs": 9}, "which skeletonization prunes whole channels"),
    ],
)
def test_channels_that_cannot_be_cut_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        check_study(parse_study(**fields))


def test_the_lowest_density_of_whole_channels_is_allowed():
    with pytest.raises(InputError, match="at least") as error:
        check_study(parse_study(method="snap", density=0.0005))
    lowest = float(str(error.value).partition("at least ")[2].partition(",")[0])
    assert check_study(parse_study(method="snap", density=lowest))
    assert check_study(parse_study(method="snap", density=0.995 * lowest)), "the message rounds up"

"""Latency as an objective: the ratio to the dense network, its spread, and the function that gets that network."""

import onnx
import pytest
import torch

from forcetune import models, trial
from forcetune.deploy import files, latency, objectives, runtimes
from forcetune.deploy import measurement as measurement_module
from forcetune.errors import InputError
from forcetune.study import Study, Task, Trial

LATENCY_TASK = Task(measure="forcetune.deploy:latency")
LATENCY_NAMES = ["latency_ratio", "latency_ratio_spread", "latency_ms", "dense_latency_ms"]


def make_trial(**fields):
    return Trial(**{"dataset": "synthetic", "model": "mlp", "width": 24, "method": "snip", "density": 0.1, **fields})


def test_the_latency_of_a_pruned_network_is_a_ratio_to_the_dense_one():
    metrics = trial.prepare(make_trial(), LATENCY_TASK).metrics
    assert all(metrics[name] > 0 for name in LATENCY_NAMES)
    ratio = metrics["latency_ms"] / metrics["dense_latency_ms"]
    assert ratio / 2 < metrics["latency_ratio"] < ratio * 2, "medians of turns and of runs differ a little"


def test_a_network_of_a_tenth_of_the_width_is_quicker():
    example = torch.zeros(1, 1, 8, 8)
    small, dense = (models.build("convnet", (1, 8, 8), 10, width).eval() for width in (2, 64))
    assert latency(small, example, dense, small, None)["latency_ratio"] < 0.7
    assert latency(dense, example, small, dense, None)["latency_ratio"] > 1.5


def test_the_spread_is_that_of_the_turns(monkeypatch, tmp_path):
    clock = iter(range(10**6))
    turns = []

    def take_turns(paths, input_format, batch_size, runs):
        turns.append(runs)
        ratios = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).numpy()
        return {"file": ratios[:, None] * [[1.0, 1.0]], "reference": (ratios * 0 + next(clock) + 1)[:, None] * [[1, 1]]}

    monkeypatch.setattr(measurement_module, "_time_in_turn", take_turns)
    measured = measurement_module.measure_latency_ratio(tmp_path / "a.onnx", tmp_path / "b.onnx", None, 100)
    assert (measured.ratio, measured.spread) == (3.0, 2.0)
    assert (measured.file_ms, measured.reference_ms) == (3000.0, 1000.0)


def test_a_file_is_the_one_that_an_export_would_write(monkeypatch):
    measured = []

    def measure(path, reference, input_format, runs):
        measured.append([[*weight.dims] for weight in onnx.load(path).graph.initializer if len(weight.dims) == 4])
        return measurement_module.LatencyRatio(0.5, 0.1, 1.0, 2.0)

    monkeypatch.setattr(objectives, "measure_latency_ratio", measure)
    fields = {"model": "convnet", "width": 16, "granularity": "channel", "density": 0.2}
    metrics = trial.prepare(make_trial(**fields), LATENCY_TASK).metrics
    assert [metrics[name] for name in LATENCY_NAMES] == [0.5, 0.1, 1.0, 2.0]
    (kernels,) = measured
    assert all(kernel[0] % files.ONNX_CHANNEL_MULTIPLE == 0 for kernel in kernels)
    dense = models.build("convnet", (1, 8, 8), 4, 16)
    assert sum(k[0] for k in kernels) < sum(m.out_channels for m in dense.modules() if isinstance(m, torch.nn.Conv2d))


def test_parameters_behind_the_first_two_get_what_their_names_say(tmp_path, monkeypatch):
    (tmp_path / "my_measures.py").write_text(
        "def count(model):\n    return sum(p.numel() for p in model.parameters())\n\n"
        "def both(model, example, dense):\n    return {'live': count(model), 'all': count(dense)}\n\n"
        "def live(dense, masks):\n    return {'live': count(dense)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    both = trial.prepare(make_trial(), Task(measure="my_measures:both")).metrics
    whole = sum(p.numel() for p in models.build("mlp", (1, 8, 8), 4, 24).parameters())
    assert both["live"] < both["all"] == whole
    assert trial.prepare(make_trial(), Task(measure="my_measures:live")).metrics["live"] == both["live"]
    narrow = trial.prepare(make_trial(small_dense="parameters", method="random"), Task(measure="my_measures:both"))
    assert narrow.metrics["all"] == whole, "the network before it was replaced by a small one"


def test_a_missing_extra_is_one_sentence(monkeypatch):
    find_spec = runtimes.importlib.util.find_spec
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None if name == "onnx" else find_spec(name))
    with pytest.raises(InputError) as error:
        trial.find_reported_metrics(make_trial(), LATENCY_TASK)
    assert str(error.value) == (
        "measure: forcetune.deploy:latency needs onnx, which this Python lacks; install forcetune with its extra: "
        "`pip install 'forcetune[export]'`"
    )


def test_forcetunes_own_functions_are_no_code_of_the_user():
    study = {"study": "s", "measure": "forcetune.deploy:latency", "objectives": {"latency_ratio": "min"}}
    trial_fields = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1}
    assert Study.from_dict({**study, "trial": trial_fields}).modules == set()

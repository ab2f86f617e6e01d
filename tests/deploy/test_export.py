"""Exported networks: they compute what the trained network computes, and a file that does not is not written."""

import dataclasses
import errno
import json
from pathlib import Path

import onnx
import pytest
import safetensors
import torch
from exporting import RUN_ID, compute_logits, read_pixels
from shared_constants import REPOSITORY
from torch import nn

from forcetune import data, models
from forcetune.deploy import export as export_module
from forcetune.deploy import export_network, files, network, quantization, runtimes
from forcetune.deploy.export import DENSE, PRUNED, QUANTIZED, SMALL_DENSE
from forcetune.deploy.measurement import FileCost, Latency
from forcetune.deploy.rival import Rival
from forcetune.deploy.runtimes import OnnxRuntime, TorchRuntime
from forcetune.deploy.writing import METADATA_FILE
from forcetune.errors import InputError
from forcetune.training import Diverged, Masked

pytestmark = pytest.mark.usefixtures("converted_once")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Return the export of a convolutional network for a camera that gives NHWC pixels, with int8."""
    out = tmp_path_factory.mktemp("exports") / "new" / "folder"
    return export_network(trained, out, layout="nhwc", int8=True, max_loss=100, rival=False)


@pytest.fixture(scope="module")
def exported_mlp(trained_mlp, tmp_path_factory):
    return export_network(trained_mlp, tmp_path_factory.mktemp("exports"), rival=True)


def test_the_file_takes_pixels_in_batches_of_any_size(trained, exported):
    pixels, normalized = read_pixels()
    run, expected = OnnxRuntime(exported.paths[0]), compute_logits(trained.network, normalized)
    for size in (1, 7):
        outputs = run(pixels[:size].permute(0, 2, 3, 1).contiguous())
        assert torch.allclose(outputs, expected[:size], rtol=1e-4, atol=1e-5)


def test_the_graph_is_compact_and_has_no_batch_norm(trained, exported):
    model = onnx.load(exported.paths[0])
    onnx.checker.check_model(model)
    graph = model.graph
    operations = {node.op_type for node in graph.node}
    assert "BatchNormalization" not in operations
    assert not operations & {"Range", "Gather", "Shape"}, "the weights of the training are channels last"
    kernels = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    sizes = [weight.dims[0] for weight in graph.initializer if weight.name in kernels]
    dense_sizes = [module.out_channels for module in trained.network.modules() if isinstance(module, nn.Conv2d)]
    assert len(sizes) == len(dense_sizes)
    assert sum(sizes) < sum(dense_sizes)
    assert all(size % files.ONNX_CHANNEL_MULTIPLE == 0 for size in sizes)
    assert exported.macs_fraction < 1


def test_the_metadata_say_what_the_file_is_and_not_where_it_was_made(trained, exported):
    model = onnx.load(exported.paths[0])
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["forcetune.run_id"] == RUN_ID
    assert json.loads(metadata["forcetune.trial"]) == trained.trial.fields()
    assert "uint8 (batch, 8, 8, 1), NHWC: pixels from 0 to 255" in metadata["forcetune.input"]
    assert str(REPOSITORY).encode() not in exported.paths[0].read_bytes()


def test_class_names_are_those_of_the_data_set(tmp_path, trained_mlp, monkeypatch):
    dataset = dataclasses.replace(data.load("synthetic"), class_names=("circle", "square", "cross", "dot"))
    monkeypatch.setattr(data, "load", lambda name, root: dataset)
    export = export_network(trained_mlp, tmp_path, file_format="safetensors")
    with safetensors.safe_open(export.paths[0], "pt") as stored:
        assert json.loads(stored.metadata()["forcetune.class_names"]) == ["circle", "square", "cross", "dot"]
    assert "circle, square, cross, dot" in export.paths[-1].read_text()


def test_the_whole_validation_split_is_compared(trained, exported):
    verification = exported.verifications[PRUNED]
    assert verification.samples == 32, "a tenth of 320"
    assert verification.agreement == 1
    assert verification.relative_difference < 1e-5
    assert verification.accuracy == verification.network_accuracy == trained.metrics["val_accuracy"]


def test_files_and_networks_are_measured_beside_the_dense_one(exported):
    assert [*exported.costs] == [PRUNED, QUANTIZED, DENSE]
    for cost in exported.costs.values():
        assert all(0 < latency.p50_ms <= latency.p95_ms for latency in cost.latencies.values())
        assert [*cost.latencies] == [1, 32]
        assert cost.compression == "zstd"
        assert 0 < cost.compressed_bytes < cost.file_bytes
        assert cost.peak_bytes > 1e7, "ONNX Runtime alone takes more"
    assert exported.costs[QUANTIZED].file_bytes == exported.paths[1].stat().st_size


def test_the_metrics_are_those_of_the_delivered_file(exported):
    metrics, cost = exported.metrics, exported.costs[QUANTIZED]
    assert metrics["deployed_latency_ms"] == cost.latencies[1].p50_ms
    assert metrics["deployed_dense_latency_ms"] == exported.costs[DENSE].latencies[1].p50_ms
    assert metrics["deployed_file_bytes"] == cost.file_bytes
    assert metrics["deployed_accuracy"] == exported.verifications[QUANTIZED].accuracy


def test_the_folder_has_the_files_and_nothing_else(exported):
    folder = exported.paths[0].parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in exported.paths)
    assert [path.name for path in exported.paths] == [
        "resnet8-snip-01234567.onnx",
        "resnet8-snip-01234567-int8.onnx",
        "resnet8-snip-01234567.md",
    ]


def test_int8_takes_the_same_pixels(trained, exported):
    pixels, normalized = read_pixels()
    outputs = OnnxRuntime(exported.paths[1])(pixels.permute(0, 2, 3, 1).contiguous())
    expected = compute_logits(trained.network, normalized)
    assert (outputs - expected).abs().max() < 0.2 * (expected.max() - expected.min())
    operations = {node.op_type for node in onnx.load(exported.paths[1]).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operations


def test_the_card_has_the_figures_and_the_command(trained, exported):
    card = exported.paths[-1].read_text()
    assert "pruned by `snip` to a sparsity of 98.0" in card
    assert f"{trained.metrics['val_accuracy']:.2%}" in card
    assert f"forcetune export {RUN_ID} --format onnx --layout nhwc --int8 --max-loss 100 --no-rival --out" in card
    assert "There is no comparison with the dense network of equal latency: `--no-rival` left it out." in card
    for heading in ("## Input and output", "## Verified", "## Measured", "## Made by"):
        assert heading in card


def test_float32_input_has_pixels_from_0_to_1(trained_mlp, tmp_path):
    export = export_network(trained_mlp, tmp_path, input_type="float32", rival=False)
    pixels, normalized = read_pixels()
    outputs = OnnxRuntime(export.paths[0])(pixels.float() / 255)
    assert torch.allclose(outputs, compute_logits(trained_mlp.network, normalized), rtol=1e-4, atol=1e-5)


def test_a_file_of_torch_computes_the_same(trained, tmp_path):
    export = export_network(trained, tmp_path, file_format="torch", rival=False)
    pixels, normalized = read_pixels()
    outputs = TorchRuntime(export.paths[0])(pixels)
    assert torch.allclose(outputs, compute_logits(trained.network, normalized), rtol=1e-4, atol=1e-5)
    extra_files = {METADATA_FILE: ""}
    torch.export.load(export.paths[0], extra_files=extra_files)
    assert json.loads(extra_files[METADATA_FILE])["run_id"] == RUN_ID
    assert str(REPOSITORY).encode() not in export.paths[0].read_bytes()
    assert {*export.costs} == {PRUNED, DENSE}


def test_a_file_of_safetensors_has_each_bit(trained, tmp_path):
    export = export_network(trained, tmp_path, file_format="safetensors")
    with safetensors.safe_open(export.paths[0], "pt") as stored:
        assert all(torch.equal(stored.get_tensor(f"masks/{name}"), mask) for name, mask in trained.masks.items())
        assert all(
            torch.equal(stored.get_tensor(name), tensor) for name, tensor in trained.network.state_dict().items()
        )
    assert export.verifications[PRUNED].relative_difference < 1e-6
    assert not export.costs


def test_a_file_that_disagrees_is_not_written(trained_mlp, tmp_path, monkeypatch):
    def make_wrong(*arguments):
        deployable = network.make_deployable(*arguments)
        with torch.no_grad():
            next(deployable.module.parameters())[0] += 0.5
        return deployable

    monkeypatch.setattr(files, "make_deployable", make_wrong)
    with pytest.raises(InputError, match="disagrees with the trained network: over 32 validation samples"):
        export_network(trained_mlp, tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


def test_weights_of_another_accuracy_are_refused(trained_mlp, tmp_path):
    other = dataclasses.replace(trained_mlp, metrics={"val_accuracy": trained_mlp.metrics["val_accuracy"] - 0.1})
    with pytest.raises(InputError, match="logged val_accuracy .*the data set, its code or the weights are not those"):
        export_network(other, tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


class Checking(nn.Module):
    """A network that torch.fx cannot trace, and that torch.export can."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, samples):
        if samples.dim() != 4:
            raise ValueError("images have four dimensions")
        return self.network(samples)


class Branching(Checking):
    """A network that torch.export cannot trace either."""

    def forward(self, samples):
        return self.network(samples * 2 if float(samples.sum()) > 1e9 else samples)


def wrap(trained, kind):
    masks = {f"network.{name}": mask for name, mask in trained.masks.items()}
    return dataclasses.replace(trained, network=kind(trained.network).eval(), masks=masks)


def test_a_network_that_cannot_be_compacted_is_exported_whole_and_the_card_says_so(trained_mlp, tmp_path):
    export = export_network(wrap(trained_mlp, Checking), tmp_path, rival=False)
    assert "Checking cannot be traced" in export.notes[0]
    assert "full size, with zeros for pruned weights" in export.paths[-1].read_text()
    assert export.macs_fraction == 1
    sizes = [[*weight.dims] for weight in onnx.load(export.paths[0]).graph.initializer if len(weight.dims) == 2]
    assert sorted(sizes) == sorted([*weight.shape] for weight in trained_mlp.masks.values())


def test_a_network_that_cannot_be_exported_is_refused(trained_mlp, tmp_path):
    with pytest.raises(InputError, match="--format onnx: Branching cannot be exported: .*--format safetensors"):
        export_network(wrap(trained_mlp, Branching), tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


def test_int8_that_loses_too_much_is_refused(trained_mlp, tmp_path, monkeypatch):
    def quantize(source, target, dataset, split, input_format):
        untrained = models.build("mlp", dataset.input_shape, dataset.classes, 24, seed=9).eval()
        path, _ = files.NetworkWriter(target.parent, "onnx", input_format, {}).write("other", untrained, None)
        path.replace(target)

    monkeypatch.setattr(quantization, "quantize", quantize)
    with pytest.raises(InputError, match="--int8: the quantized network .* points less than .*--max-loss allows 1. No"):
        export_network(trained_mlp, tmp_path / "out", int8=True)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("written_before", [0, 1])
def test_a_full_disk_leaves_nothing_behind(trained_mlp, tmp_path, monkeypatch, written_before):
    write_bytes, written = Path.write_bytes, []

    def fill_disk(path, content):
        if len(written) < written_before:
            written.append(path)
            return write_bytes(path, content)
        write_bytes(path, content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    (tmp_path / "kept").write_text("")
    with pytest.raises(InputError, match="--out .*: the files cannot be written: No space left on device; nothing is"):
        export_network(trained_mlp, tmp_path / "new" / "out", rival=False)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_cannot_be_made_is_refused(trained_mlp, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--out .*file/out: the files cannot be written: Not a directory"):
        export_network(trained_mlp, tmp_path / "file" / "out")


def test_a_missing_package_is_one_sentence(trained_mlp, tmp_path, monkeypatch):
    find_spec = runtimes.importlib.util.find_spec
    monkeypatch.setattr(
        runtimes.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name)
    )
    with pytest.raises(InputError, match=r"needs onnxruntime, which this Python lacks; .*'forcetune\[export\]'"):
        export_network(trained_mlp, tmp_path / "out")
    export_network(trained_mlp, tmp_path / "out", file_format="safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file_format": "tflite"}, "--format tflite: allowed: onnx, torch, safetensors"),
        ({"layout": "hwc"}, "--layout hwc: allowed: nchw, nhwc"),
        ({"input_type": "int8"}, "--input int8: allowed: uint8, float32"),
        ({"int8": True, "file_format": "torch"}, "--format torch has no int8 version"),
        ({"int8": True, "max_loss": -1}, "--max-loss -1: allowed"),
        ({"rival": True, "file_format": "safetensors"}, "--rival: a file of safetensors has weights and masks"),
        ({"layout": "nhwc", "file_format": "safetensors"}, "--layout nhwc: a file of safetensors"),
    ],
)
def test_options_that_do_not_fit_are_refused(trained_mlp, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        export_network(trained_mlp, tmp_path / "out", **options)
    assert [*tmp_path.iterdir()] == []


def test_a_small_dense_network_is_trained_by_the_same_recipe(trained_mlp, exported_mlp):
    rival = exported_mlp.rival
    assert rival.trial.width <= trained_mlp.trial.width
    assert (rival.trial.method, rival.trial.density) == ("random", 1)
    same = ("dataset", "model", "epochs", "batch_size", "lr", "optimizer", "seed")
    assert all(getattr(rival.trial, name) == getattr(trained_mlp.trial, name) for name in same)
    assert exported_mlp.accuracies[SMALL_DENSE] == rival.accuracy
    assert SMALL_DENSE in exported_mlp.costs
    assert "a dense network of width " in exported_mlp.paths[-1].read_text()


def test_a_rival_that_cannot_be_trained_is_refused_or_noted(trained_mlp, tmp_path, monkeypatch):
    def diverge(*arguments):
        raise Diverged("the training loss is nan")

    monkeypatch.setattr(export_module, "train_rival", diverge)
    monkeypatch.setattr(export_module, "choose_width", lambda trial, measure_ratio: (3, 1.0))
    with pytest.raises(InputError, match=r"--rival: its training diverged \(the training loss is nan\)"):
        export_network(trained_mlp, tmp_path / "out", rival=True)
    export = export_network(trained_mlp, tmp_path / "out")
    assert export.notes == [
        "There is no comparison with the dense network of equal latency: its training diverged (the training loss is "
        "nan)."
    ]


def test_a_rival_is_trained_unasked_only_where_it_is_quick(trained_mlp, tmp_path):
    slow = dataclasses.replace(trained_mlp, metrics={**trained_mlp.metrics, "train_seconds": 7200.0})
    export = export_network(slow, tmp_path)
    assert export.rival is None
    assert "training it takes about 7200 s, as the trial did; `--rival` trains it" in export.paths[-1].read_text()


def with_rival(export, latency_ms, accuracy, tmp_path):
    """Return the card of an export whose small dense network has these figures."""
    cost = FileCost({size: Latency(latency_ms, latency_ms) for size in (1, 32)}, 1, 1, 1, "zstd")
    pruned = dataclasses.replace(cost, latencies={size: Latency(1.0, 1.0) for size in (1, 32)})
    verification = dataclasses.replace(export.verifications[PRUNED], accuracy=0.75)
    rival = Rival(export.trial.model_copy(update={"width": 3}), nn.Identity(), accuracy, latency_ms)
    changed = {"costs": {PRUNED: pruned, DENSE: cost, SMALL_DENSE: cost}, "verifications": {PRUNED: verification}}
    return dataclasses.replace(export, rival=rival, **changed)


@pytest.mark.parametrize(
    ("latency_ms", "accuracy", "is_beaten"),
    [(1.0, 0.75, True), (1.04, 0.8, True), (1.2, 0.8, False), (0.5, 0.7, False)],
)
def test_a_small_dense_network_that_wins_is_said_first(exported_mlp, tmp_path, latency_ms, accuracy, is_beaten):
    from forcetune.deploy.card import render_card

    export = with_rival(exported_mlp, latency_ms, accuracy, tmp_path)
    assert export.is_beaten == is_beaten
    first = render_card(export, "forcetune export").split("\n\n")[1]
    assert first.startswith("**Pruning was not worth it here: a dense network of width 3,") == is_beaten
    assert "Pruning was not worth it" in render_card(export, "") or not is_beaten


def test_a_trained_network_stays_as_it_was(trained_mlp, exported_mlp):
    weights = dict(trained_mlp.network.named_parameters())
    assert all(not weights[name][~mask].any() for name, mask in trained_mlp.masks.items())
    masked = models.build("mlp", (1, 8, 8), 4, 24)
    masked.load_state_dict(trained_mlp.network.state_dict())
    Masked(masked, trained_mlp.masks)
    assert all(torch.equal(weight, weights[name]) for name, weight in masked.named_parameters())

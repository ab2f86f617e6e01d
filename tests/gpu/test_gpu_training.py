"""Training on the device: losses near the CPU's, pruned weights at 0, and a state from which it goes on."""

import copy

import pytest
import torch
from torch import nn

from forcetune.data import load
from forcetune.models import build
from forcetune.pruning import Architecture, find_masks, pack_network, unpack_network
from forcetune.training import Average, Training, captured, evaluate
from forcetune.training.layout import lay_out

pytestmark = pytest.mark.gpu

# Two epochs at a small learning rate differ by rounding: the convolutions of a GPU round float32 inputs to 10 bits
# (TF32), and bf16 has 8 bits.
LOSS_TOLERANCES = {"float32": 0.003, "bf16": 0.05}
SAME_DEVICE_TOLERANCE = 1e-4  # relative, of two trainings on one device that compute the same in another order
TEXTURES_SHAPE, TEXTURES_CLASSES = (3, 32, 32), 10
TEXTURES = load("textures")


class Dropped(nn.Module):
    """A small network with dropout, which draws from the device's generator."""

    def __init__(self):
        super().__init__()
        first = nn.Conv2d(3, 8, 3, stride=2, padding=1)  # 16 x 16 pixels, which the pooling divides evenly
        self.body = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(128, TEXTURES_CLASSES))

    def forward(self, x):
        return self.head(self.body(x))


def resnet(seed=0):
    return build("resnet8", TEXTURES_SHAPE, TEXTURES_CLASSES, 8, seed)


def make(device, model=None, density=0.3, method="random", mask_seed=0, samples=300, batch_size=64, **options):
    """Return a network on the device and its training; 270 images: four batches of 64 and one of 14."""
    model = (resnet() if model is None else model).to(device)
    saliency_batch = torch.zeros(1, *TEXTURES_SHAPE), torch.zeros(1, dtype=torch.long)
    masks = find_masks(model, [saliency_batch], method, density, iterations=5, seed=mask_seed)
    dataset = TEXTURES.to(device)
    images, held_out = dataset.split(0, samples)
    batches = dataset.batches(images, batch_size, seed=1), dataset.batches(held_out, 128)
    options = {"epochs": 2, "lr": 0.01, "precision": "float32", "input_shape": TEXTURES_SHAPE, **options}
    return model, masks, Training(model, masks, *batches, **options)


def losses(*arguments, **options):
    return [metrics["train_loss"] for metrics in make(*arguments, **options)[2]]


def weights(model):
    return [tensor.detach().cpu().clone() for tensor in model.state_dict().values()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("density", [0.3, 0.02])  # without and with channels that are cut out
def test_the_file_of_a_network_has_the_weights_of_its_last_epoch(device, density):
    model, masks, training = make(device, density=density)
    *_, last = training
    content = pack_network(model, masks, Architecture("resnet8", 8, TEXTURES_SHAPE, TEXTURES_CLASSES))
    restored = resnet(seed=1).to(device)
    restored_masks = unpack_network(content, restored)
    assert evaluate(restored, training._validation)["val_accuracy"] == last["val_accuracy"]
    assert all(torch.equal(restored_masks[name], mask.cpu()) for name, mask in masks.items())


@pytest.mark.parametrize("precision", LOSS_TOLERANCES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_losses_are_near_those_of_the_cpu(device, precision, optimizer):
    lr = 0.01 if optimizer == "sgd" else 0.001
    expected = losses("cpu", optimizer=optimizer, lr=lr)
    actual = losses(device, optimizer=optimizer, lr=lr, precision=precision)
    assert actual == pytest.approx(expected, rel=LOSS_TOLERANCES[precision])
    assert expected[1] < expected[0]


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}, {"precision": "bf16", "optimizer": "adamw", "lr": 0.001}])
def test_pruned_weights_are_zero_after_every_epoch(device, options):
    model, masks, training = make(device, **options)
    parameters = dict(model.named_parameters())
    for _ in training:
        for name, mask in masks.items():
            assert not parameters[name][~mask].any()
            assert parameters[name][mask].any()


def test_a_gpu_trains_in_bf16_by_default(gpu):
    assert losses(gpu, precision=None) == losses(gpu, precision="bf16")


@pytest.mark.parametrize("method", ["random", "synflow"])
def test_compaction_computes_the_same(device, method):
    # Random masks leave hardly a dead channel, and SynFlow's leave few live channels
    options = {"method": method, "density": {"random": 0.1, "synflow": 0.02}[method], "epochs": 3}
    expected = [metrics["val_loss"] for metrics in make(device, input_shape=None, **options)[2]]
    _, _, training = make(device, **options)
    if method == "synflow":
        assert training.macs_fraction < 0.5
    assert [metrics["val_loss"] for metrics in training] == pytest.approx(expected, rel=SAME_DEVICE_TOLERANCE)


def test_weights_lie_channels_last_and_compute_the_same(device):
    plain = resnet().to(device).eval()
    model = copy.deepcopy(plain)
    lay_out(model, TEXTURES_SHAPE)
    convolutions = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)
    inputs = torch.randn(8, *TEXTURES_SHAPE, device=device)
    with torch.no_grad():
        assert torch.allclose(plain(inputs), model.eval()(inputs), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("precision", LOSS_TOLERANCES)
def test_a_training_goes_on_bit_for_bit(device, precision):
    def begin():
        torch.manual_seed(0)
        return make(device, Dropped(), density=0.5, epochs=3, precision=precision)

    torch.manual_seed(0)
    initial = copy.deepcopy(Dropped().state_dict())
    model, _, training = make(device, Dropped(), density=0.5, epochs=3, precision=precision)
    model.load_state_dict(initial)
    epochs = iter(training)
    next(epochs)
    state = copy.deepcopy(training.state_dict())
    expected = list(epochs)
    for _ in range(2):  # each training continues in a network of its own
        resumed_model, _, resumed = begin()
        resumed.load_state_dict(copy.deepcopy(state))
        assert list(resumed) == expected
        assert same(weights(resumed_model), weights(model))


def test_the_same_seed_gives_the_same_training(device):
    runs = []
    for _ in range(2):
        model, _, training = make(device, epochs=2)
        runs.append((list(training), weights(model)))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])


def test_evaluation_is_that_of_the_cpu(device):
    model = resnet()
    images, _ = TEXTURES.split(0, 500)
    expected = evaluate(model, TEXTURES.batches(images, 128))
    dataset = TEXTURES.to(device)
    images, _ = dataset.split(0, 500)
    actual = evaluate(
        model.to(device), dataset.batches(images, 128), metrics={"rank": lambda logits, _: logits.shape[1]}
    )
    assert actual["val_loss"] == pytest.approx(expected["val_loss"], rel=LOSS_TOLERANCES["float32"])
    assert actual["val_accuracy"] == pytest.approx(expected["val_accuracy"], abs=0.01)
    assert actual["val_rank"] == TEXTURES_CLASSES


def test_averaged_weights_are_those_of_the_cpu_and_leave_no_trace(device):
    model, device_model = resnet(), resnet().to(device)
    averages = Average(model, 5), Average(device_model, 5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for weight, device_weight in zip(model.parameters(), device_model.parameters(), strict=True):
            step = 0.1 * torch.randn(weight.shape, generator=generator)
            weight.data.add_(step)
            device_weight.data.add_(step.to(device))
        for average in averages:
            average.update()
    before = weights(device_model)
    with averages[0].swap_in(), averages[1].swap_in():
        for expected, device_average in zip(weights(model), weights(device_model), strict=True):
            assert torch.allclose(expected.float(), device_average.float(), rtol=1e-5, atol=1e-6)
    assert same(before, weights(device_model))


@pytest.fixture
def uncaptured(monkeypatch):
    """Return a function that trains step by step."""

    def train(*arguments, **options):
        with monkeypatch.context() as patched:
            patched.setattr(captured, "CAPTURE_DEVICE", "none")
            return losses(*arguments, **options)

    return train


@pytest.fixture
def no_steps_kept(monkeypatch):
    monkeypatch.setattr(captured, "_steps", type(captured._steps)())


@pytest.mark.usefixtures("no_steps_kept")
class TestCapturedSteps:
    """Tests that need a CUDA graph; tests/training/test_captured.py has the others."""

    @pytest.mark.parametrize(
        "options",
        [{}, {"optimizer": "adamw", "lr": 0.001}, {"clip_norm": 0.1, "momentum": 0.0}, {"precision": "bf16"}],
    )
    def test_losses_are_those_of_steps_one_by_one(self, gpu, uncaptured, options):
        expected = uncaptured(gpu, **options)
        tolerance = LOSS_TOLERANCES["bf16"] if options.get("precision") == "bf16" else SAME_DEVICE_TOLERANCE
        assert losses(gpu, architecture="resnet8", **options) == pytest.approx(expected, rel=tolerance)

    def test_the_next_trial_has_its_own_weights_masks_and_learning_rate(self, gpu, uncaptured):
        trials = [{"mask_seed": 0}, {"mask_seed": 1, "lr": 0.05}, {"mask_seed": 2, "lr_schedule": "constant"}]
        for number, options in enumerate(trials):
            expected = uncaptured(gpu, resnet(number), **options)
            model, masks, training = make(gpu, resnet(number), architecture="resnet8", **options)
            assert [metrics["train_loss"] for metrics in training] == pytest.approx(expected, rel=SAME_DEVICE_TOLERANCE)
            parameters = dict(model.named_parameters())
            assert all(not parameters[name][~mask].any() for name, mask in masks.items())
        assert len(captured._steps) == 1

    def test_another_batch_size(self, gpu, uncaptured):
        for batch_size in (64, 32, 64):
            expected = uncaptured(gpu, batch_size=batch_size)
            actual = losses(gpu, batch_size=batch_size, architecture="resnet8")
            assert actual == pytest.approx(expected, rel=SAME_DEVICE_TOLERANCE)

    @pytest.mark.parametrize("obstacle", ["a value is asked for", "the device is waited for"])
    def test_a_loss_that_cannot_be_captured_falls_back_with_one_warning(self, gpu, uncaptured, caplog, obstacle):
        # The second obstacle shows only while the graph is captured, and breaks the capture off

        def loss(logits, targets):
            if obstacle == "a value is asked for":
                logits.sum().item()
            else:
                torch.cuda.synchronize()
            return nn.functional.cross_entropy(logits, targets)

        network = Dropped()
        torch.manual_seed(0)
        expected = uncaptured(gpu, copy.deepcopy(network), density=0.5, loss=loss)
        for _ in range(2):
            torch.manual_seed(0)
            actual = losses(gpu, copy.deepcopy(network), density=0.5, loss=loss, architecture="dropped")
            assert actual == pytest.approx(expected, rel=SAME_DEVICE_TOLERANCE)
        assert len([message for message in caplog.messages if "not captured" in message]) == 1
        stream = torch.cuda.current_stream()
        assert stream == torch.cuda.default_stream()
        assert losses(gpu, architecture="resnet8") == pytest.approx(uncaptured(gpu), rel=SAME_DEVICE_TOLERANCE)
        assert len([message for message in caplog.messages if "not captured" in message]) == 1

    def test_a_compacted_network_is_captured_too(self, gpu, uncaptured):
        options = {"method": "synflow", "density": 0.03}
        assert losses(gpu, architecture="resnet8", **options) == pytest.approx(
            uncaptured(gpu, **options), rel=SAME_DEVICE_TOLERANCE
        )

    def test_compiled_steps(self, gpu, uncaptured, caplog):
        actual = losses(gpu, compiled=True, architecture="resnet8")
        assert actual == pytest.approx(uncaptured(gpu), rel=LOSS_TOLERANCES["float32"])
        assert not caplog.messages, "nothing says that it was not compiled"

"""The examples: a mask in a plain loop, in Lightning and in Transformers' Trainer keeps its weights at 0."""

import importlib.util

import pytest
from shared_constants import REPOSITORY

from forcetune import data, models, pruning, training

EXAMPLES = {  # the packages that an example needs, and forcetune does not
    "plain_loop": [],
    "lightning_module": ["lightning"],
    "transformers_trainer": ["transformers", "accelerate"],
}


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory):
    dataset = data.load("digits")
    images, _ = dataset.split(0)
    model = models.build("mlp", dataset.input_shape, dataset.classes, seed=0)
    masks = pruning.find_masks(model, dataset.batches(images, 128, 0), "snip", 0.1)
    path = tmp_path_factory.mktemp("masks") / "masks.npz"
    pruning.save_masks(path, masks)
    return path


@pytest.mark.filterwarnings("ignore")  # those packages give warnings of their own
@pytest.mark.parametrize(("name", "packages"), EXAMPLES.items())
def test_an_example_trains_the_kept_weights_alone(mask_file, tmp_path, monkeypatch, name, packages):
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed; forcetune itself does not need it")
    monkeypatch.chdir(tmp_path)
    specification = importlib.util.spec_from_file_location(name, REPOSITORY / "examples" / f"{name}.py")
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)
    network = example.train(str(mask_file)).cpu()
    dataset = data.load("digits")
    initial = models.build("mlp", dataset.input_shape, dataset.classes, seed=0)
    for layer, mask in pruning.load_masks(mask_file).items():
        weight = network.get_parameter(layer).detach()
        assert not weight[~mask].any()
        moved = weight[mask] != initial.get_parameter(layer).detach()[mask]
        assert moved.float().mean() > 0.9
    _, validation = dataset.split(0)
    assert training.evaluate(network, dataset.batches(validation, 1024))["val_accuracy"] > 0.85


def test_every_example_is_run():
    assert {path.stem for path in (REPOSITORY / "examples").glob("*.py")} == {*EXAMPLES}

"""The examples: a mask in a plain loop, in Lightning and in Transformers' Trainer keeps its weights at 0."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from shared_constants import REPOSITORY

from forcetune import data, models, pruning, training

EXAMPLES = {  # the packages that an example needs, and forcetune does not
    "plain_loop": [],
    "lightning_module": ["lightning"],
    "transformers_trainer": ["transformers", "accelerate"],
}
TRAIN_CODE = (
    "import sys, torch, {name} as example; torch.save(example.train(sys.argv[1]).cpu().state_dict(), 'trained.pt')"
)


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory):
    dataset = data.load("digits")
    images, _ = dataset.split(0)
    model = models.build("mlp", dataset.input_shape, dataset.classes, seed=0)
    masks = pruning.find_masks(model, dataset.batches(images, 128, 0), "snip", 0.1)
    path = tmp_path_factory.mktemp("masks") / "masks.npz"
    pruning.save_masks(path, masks)
    return path


@pytest.mark.parametrize(("name", "packages"), EXAMPLES.items(), ids=EXAMPLES)
def test_an_example_trains_the_kept_weights_alone(mask_file, tmp_path, name, packages):
    """A process of its own has none of the folders here in its path: Transformers takes `datasets` for a package."""
    if missing := [package for package in packages if find_spec(package) is None]:
        pytest.skip(f"{missing[0]} is not installed; forcetune itself does not need it")
    command = [sys.executable, "-c", TRAIN_CODE.format(name=name), str(mask_file)]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'examples'}"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    dataset = data.load("digits")
    initial, network = (models.build("mlp", dataset.input_shape, dataset.classes, seed=0) for _ in range(2))
    network.load_state_dict(torch.load(tmp_path / "trained.pt", weights_only=True))
    for layer, mask in pruning.load_masks(mask_file).items():
        weight = network.get_parameter(layer).detach()
        assert not weight[~mask].any()
        moved = weight[mask] != initial.get_parameter(layer).detach()[mask]
        assert moved.float().mean() > 0.9
    _, validation = dataset.split(0)
    assert training.evaluate(network, dataset.batches(validation, 1024))["val_accuracy"] > 0.85


def test_every_example_is_run():
    assert {path.stem for path in (REPOSITORY / "examples").glob("*.py")} == {*EXAMPLES}

"""The second study of search_spaces/, and what the papers saw, on real images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forcetune import data, models, pruning

ROOT = Path(__file__).parents[1]
FORCETUNE = [sys.executable, "-c", "from forcetune.cli import main; main()"]


@pytest.mark.long
def test_fashion_is_searched_whole(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [*FORCETUNE, "search", str(ROOT / "search_spaces" / "fashion.yaml")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "front of 15 trials" in done.stdout
    asked = [*FORCETUNE, "best", "fashion", "--json"]
    found = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    front = json.loads(found.stdout)
    # 3 epochs on 9000 images: a densest network that learns no more than this is broken
    assert front[0]["val_accuracy"] > 0.7
    assert front[-1]["sparsity"] > 0.9


def emptied(method, density, schedule="exponential"):
    """Layers that pruning ResNet-14 to this density leaves without a weight, in 20 steps of an iterative method."""
    dataset = data.load("fashion_mnist")
    training, _ = dataset.split(0)
    model = models.build("resnet14", dataset.input_shape, dataset.classes)
    masks = pruning.find_masks(model, dataset.batches(training, 128, seed=0), method, density, 20, schedule)
    return sum(not mask.any() for mask in masks.values())


@pytest.mark.long
@pytest.mark.parametrize("density", [0.02, 0.01])
def test_the_exponential_schedule_needs_fewer_steps_than_the_linear_one(density):
    # As the FORCE paper has it: in 20 steps the linear one empties about half of the network's 16 layers (8 to 10 in
    # four draws of the batches), the exponential one hardly any (2 in one of them)
    assert emptied("force", density) <= 3
    assert emptied("force", density, "linear") >= 6


@pytest.mark.long
def test_one_step_empties_layers_that_several_keep_alive():
    assert emptied("snip", 0.005) >= 2
    assert emptied("iter_snip", 0.005) == 0
    assert emptied("snip", 0.1) == 0

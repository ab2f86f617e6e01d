"""The Fashion-MNIST study in search_spaces/, and claims of the pruning papers, on real images."""

import json
import os
import subprocess

import pytest
from shared_constants import FORCETUNE_COMMAND, REPOSITORY

from forcetune import data, models, pruning


@pytest.mark.long
def test_the_fashion_study_is_searched_to_its_end(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY)}
    command = [*FORCETUNE_COMMAND, "search", str(REPOSITORY / "search_spaces" / "fashion.yaml")]
    search_result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    print(search_result.stdout)
    assert search_result.returncode == 0, search_result.stderr
    assert "front of 15 trials" in search_result.stdout
    best_command = [*FORCETUNE_COMMAND, "best", "fashion", "--json"]
    best_result = subprocess.run(
        best_command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    front = json.loads(best_result.stdout)
    # The densest network trains for 3 epochs on 9000 images. If it learns less than this, it is broken.
    assert front[0]["val_accuracy"] > 0.7
    assert front[-1]["sparsity"] > 0.9


def count_emptied_layers(method, density, schedule="exponential"):
    """Count the layers of ResNet-14 that pruning to this density empties; iterative methods take 20 steps."""
    dataset = data.load("fashion_mnist")
    training, _ = dataset.split(0)
    model = models.build("resnet14", dataset.input_shape, dataset.classes)
    masks = pruning.find_masks(model, dataset.batches(training, 128, seed=0), method, density, schedule=schedule)
    return sum(not mask.any() for mask in masks.values())


@pytest.mark.long
@pytest.mark.parametrize("density", [0.02, 0.01])
def test_the_exponential_schedule_needs_fewer_steps_than_the_linear_one(density):
    # The FORCE paper claims this. In 20 steps the linear schedule empties about half of the 16 layers (8 to 10 in four
    # draws of the batches), and the exponential schedule almost none (2 in one of the draws).
    assert count_emptied_layers("force", density) <= 3
    assert count_emptied_layers("force", density, "linear") >= 6


@pytest.mark.long
def test_one_step_empties_layers_that_several_steps_keep():
    assert count_emptied_layers("snip", 0.005) >= 2
    assert count_emptied_layers("iter_snip", 0.005) == 0
    assert count_emptied_layers("snip", 0.1) == 0

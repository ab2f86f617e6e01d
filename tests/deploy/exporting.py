"""Trained networks to export, and what an exported file computes."""

import torch

from forcetune import data
from forcetune.deploy import TrainedNetwork
from forcetune.pruning.weights import Architecture
from forcetune.study import Trial
from forcetune.trial import TrialRun, prepare

RUN_ID = "0123456789abcdef0123456789abcdef"
CONVOLUTIONAL_TRIAL = Trial(
    dataset="synthetic", model="resnet8", width=8, method="snip", density=0.02, epochs=3, batch_size=32
)


def train(trial=CONVOLUTIONAL_TRIAL):
    """Train a trial here, and return its network as a run would keep it."""
    trial_run = TrialRun(prepare(trial))
    *_, metrics = trial_run
    prepared = trial_run.prepared
    architecture = Architecture(trial.model, trial.width, prepared.dataset.input_shape, prepared.dataset.classes)
    return TrainedNetwork(
        network=prepared.model.eval(),
        masks=prepared.masks,
        trial=trial,
        run_id=RUN_ID,
        metrics={**prepared.metrics, **metrics},
        architecture=architecture,
    )


def read_pixels(name="synthetic"):
    """Return ten test images, uint8 (N, C, H, W), and the same images as batches normalize them."""
    dataset = data.load(name)
    normalized, _ = next(iter(dataset.batches(dataset.test, 10)))
    return dataset.test.inputs[:10], normalized


def compute_logits(network, normalized):
    with torch.no_grad():
        return network(normalized)

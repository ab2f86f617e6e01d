"""A trained network, as the run of its trial keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from forcetune import models, tracking
from forcetune.errors import InputError
from forcetune.names import NETWORK_FILE
from forcetune.pruning import Architecture, Masks, read_architecture, unpack_network
from forcetune.study import Trial


@dataclass(frozen=True)
class TrainedNetwork:
    """The trained network of a trial.

    Attributes:
        network: The network at its full size, in eval mode, on the CPU; pruned weights are 0.
        masks: A bool tensor for each masked parameter, by its name; True keeps.
        trial: The configuration.
        run_id: The id of the run in MLflow.
        metrics: The last values of the run's metrics, by name (`val_accuracy`, ...).
        architecture: What the network is built from; it has the shape of a sample and the number of classes.
    """

    network: nn.Module
    masks: Masks
    trial: Trial
    run_id: str
    metrics: Mapping[str, float]
    architecture: Architecture


def load_trained_network(run_id: str, tracking_uri: str | None = None) -> TrainedNetwork:
    """Return the trained network of a run, with the weights that the run's `val_accuracy` was measured on.

    The data set is not read. A network of the user's own needs its module.

    Args:
        run_id: The id of the run, or its study and name, as in `digits/trial-0036`.
        tracking_uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The network.

    Raises:
        InputError: There is no such run, it keeps no weights, or the weights do not fit the network.
    """
    run = tracking.find_run(run_id, tracking_uri)
    trial = Trial(**tracking.load_trial_fields(run, tracking_uri))
    content = tracking.read_file(run, NETWORK_FILE, tracking_uri)
    if content is None:
        raise InputError(
            f"the run {run_id} keeps no weights: `search.keep` has them kept for trials on the front (`front`), for "
            f"the most accurate one (`best`) or for all trials (`all`). `forcetune train {run_id}` trains the "
            "configuration again and keeps them"
        )
    try:
        architecture = read_architecture(content)
        network = models.build(architecture.model, architecture.input_shape, architecture.classes, architecture.width)
        masks = unpack_network(content, network)
    except InputError as error:
        raise InputError(f"the weights of the run {run_id} cannot be loaded: {error}") from error
    return TrainedNetwork(
        network=network.eval(),
        masks=masks,
        trial=trial,
        run_id=run,
        metrics=tracking.load_run_metrics(run, tracking_uri),
        architecture=architecture,
    )

"""A trained network and its masks, as the run of the trial keeps them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from forcetune import models, pruning, tracking, training
from forcetune.errors import InputError
from forcetune.names import NETWORK_FILE, RUN_PATTERN
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
        metrics: The metrics of these weights, by name (`val_accuracy`, ...): the last values of the run's metrics, or
            those that `forcetune train` has measured where they differ.
        architecture: The arguments of the network's builder, with the shape of a sample and the number of classes.
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
            f"the run {run_id} keeps no weights: {_explain_missing(run, tracking_uri)}. `forcetune train {run_id}` "
            "trains the configuration again and keeps them"
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
        metrics=load_weight_metrics(run, tracking_uri),
        architecture=architecture,
    )


def _explain_missing(run: str, tracking_uri: str | None) -> str:
    """Return the reason why a run keeps no weights, in words."""
    table = tracking.load_table(tracking.find_study(run, tracking_uri), tracking_uri)
    if table.keep_rule.get("keep") == "front" and run in table.marked[tracking.FRONT_TAG]:
        return (
            "its trial is on the front now, but the search did not keep its weights: fresh seeds have moved the front "
            "since, or `search.keep` was another one then"
        )
    return (
        "`search.keep` has them kept for trials on the front (`front`), for the most accurate one (`best`) or for all "
        "trials (`all`)"
    )


def load_weight_metrics(run_id: str, tracking_uri: str | None = None) -> dict[str, float]:
    """Return the metrics of the weights that a run keeps, by name.

    They are the last values of the run's metrics, or those that `forcetune train` has measured where they differ.

    Args:
        run_id: The id of the run.
        tracking_uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: There is no such run.
    """
    retrained = json.loads(tracking.load_run_tags(run_id, tracking_uri).get(tracking.RETRAINED_TAG, "{}"))
    return {**tracking.load_run_metrics(run_id, tracking_uri), **retrained}


def load_network(run: str, compact: bool = False, tracking_uri: str | None = None) -> nn.Module:
    """Return the trained network of a run, in eval mode, on the CPU; see `load_trained_network`.

    Args:
        run: The id of the run, or its study and name, as in `digits/trial-0036`.
        compact: Whether dead channels are cut out, so that the network is smaller and computes the same. Where that is
            not possible the network has its full size, and the log says so.
        tracking_uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The network, which takes a batch (N, *input_shape) as the data set gives it, and returns logits (N, classes).
        Without `compact` its parameters have the names that the masks have, and pruned weights are 0.

    Raises:
        InputError: There is no such run, it keeps no weights, or the weights do not fit the network.
    """
    trained = load_trained_network(run, tracking_uri)
    if not compact:
        return trained.network
    return training.compact(trained.network, trained.masks, trained.architecture.input_shape)


def load_masks(source: str | Path, tracking_uri: str | None = None) -> Masks:
    """Read masks from a file, or those of a run.

    Args:
        source: A file that `forcetune prune --out` or `forcetune.pruning.save_masks` has written, any .safetensors file
            with one bool tensor for each parameter, the id of a run, or its study and name, as in `digits/trial-0036`.
        tracking_uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        Parameter name to bool tensor of the parameter's shape, True where a weight is kept, in the order of the
        network's modules.

    Raises:
        InputError: The file holds no masks, or there is no such run, or it has no masks.
    """
    path = Path(source)
    if path.exists() or path.suffix or not RUN_PATTERN.fullmatch(str(source)):
        return pruning.load_masks(path)
    run = tracking.find_run(str(source), tracking_uri)
    return pruning.load_masks(tracking.fetch_masks(run, tracking_uri))

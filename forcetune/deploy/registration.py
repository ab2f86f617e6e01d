"""The registration of an exported network in MLflow's model registry, and the aliases by which it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from forcetune import analysis, tracking
from forcetune.deploy.evidence import load_estimated_table
from forcetune.deploy.trained import TrainedNetwork
from forcetune.errors import InputError
from forcetune.tracking import NetworkFile, RegisteredVersion

if TYPE_CHECKING:
    from forcetune.deploy.export import Export

# The tags of a version by which its file is proved again.
INPUT_TYPE_TAG, LAYOUT_TAG = "forcetune.input_type", "forcetune.layout"
FILE_ACCURACY_TAG, NETWORK_NAME_TAG = "forcetune.accuracy", "forcetune.precision"


@dataclass(frozen=True)
class Registration:
    """The version of a registered model that an export has.

    Attributes:
        model: The name of the registered model.
        version: The number of the version.
        is_new: Whether the version was made for this export; else the network was registered before.
        aliases: The aliases that name the version.
    """

    model: str
    version: int
    is_new: bool
    aliases: Sequence[str]

    @property
    def address(self) -> str:
        """The address by which MLflow loads the version: by its first alias, or else by its number."""
        return f"models:/{self.model}@{self.aliases[0]}" if self.aliases else f"models:/{self.model}/{self.version}"

    def describe(self) -> str:
        """Return the registration in words."""
        aliases = f", with the aliases {', '.join(self.aliases)}" if self.aliases else ", with no alias"
        if self.is_new:
            return f"registered: {self.model}, version {self.version}{aliases}; MLflow loads it as {self.address}"
        return (
            f"{self.model} has this network already, as version {self.version}{aliases}; no second version was "
            f"registered, and MLflow loads it as {self.address}"
        )


def check_registrable(name: str, study: str, uri: str | None = None) -> None:
    """Check that a network can be registered under a name, before it is exported.

    Args:
        name: The name of the registered model.
        study: The name of the study whose trial the network is; empty where it is none of a store.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: It cannot. A registry that does not answer raises nothing here, since the export needs none.
    """
    if not study:
        raise InputError(
            f"--register {name}: the registry names the run of a network, and this network has none; allowed: the id "
            "of a run, or its study and name, such as digits/trial-0036"
        )
    try:
        tracking.check_owner(name, study, uri)
    except InputError as error:
        raise InputError(f"--register {name}: {error}") from error


def register_export(
    export: Export, trained: TrainedNetwork, example: Tensor, name: str, uri: str | None = None
) -> Registration:
    """Register an export whose files are complete, and let the aliases of the model follow the front of its study.

    Args:
        export: The export of a run.
        trained: The network that was exported.
        example: Samples as the file takes them, for the registry.
        name: The name of the registered model.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The registration.

    Raises:
        InputError: The registry does not take the network. The files of the export stay, and the message names them.
    """
    study = export.evidence.study
    try:
        file = _make_network_file(export, trained, example)
        table = load_estimated_table(study, uri)
        tracking.note_registered(table.parent, name, uri)
        version, is_new = tracking.register_network(export.run_id, name, study, file, uri)
        landmarks = analysis.find_landmarks(analysis.front(table.trials, table.objectives), table.objectives)
        tracking.move_aliases(name, study, landmarks, version.version, uri)
        aliases = _list_aliases(version, study, uri)
    except InputError as error:
        files = ", ".join(map(str, export.paths))
        raise InputError(
            f"--register {name}: {error}. The export is complete without it ({files}); the same command registers the "
            "network once the registry takes it"
        ) from error
    return Registration(name, version.version, is_new, aliases)


def compute_identity(export: Export, trained: TrainedNetwork) -> str:
    """Return the digest by which a registry finds a network again: its weights, its version of forcetune, its input.

    The bytes of the file do not count, since another machine may round and order them in another way.

    Args:
        export: The export.
        trained: The network that was exported.
    """
    form = export.input_format.describe() if export.input_format else ""
    digest = hashlib.sha256(f"{export.version} {export.delivered} {form}".encode())
    for name, tensor in [*trained.network.state_dict().items(), *trained.masks.items()]:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _make_network_file(export: Export, trained: TrainedNetwork, example: Tensor) -> NetworkFile:
    import onnx

    *networks, card = export.paths
    path = networks[[*export.verifications].index(export.delivered)]
    accuracy = export.verifications[export.delivered].accuracy
    form = export.input_format
    assert form  # a file of ONNX has an input
    return NetworkFile(
        path=path,
        model=onnx.load(path),
        example=example.numpy(),
        classes=export.classes,
        identity=compute_identity(export, trained),
        tags={
            "forcetune.version": export.version,
            NETWORK_NAME_TAG: export.delivered,
            FILE_ACCURACY_TAG: repr(accuracy),
            INPUT_TYPE_TAG: form.dtype,
            LAYOUT_TAG: form.layout or "nchw",
        },
        metadata={"class_names": list(export.class_names), "input": form.describe(), "trial": export.trial.fields()},
        card=card.read_text("utf-8"),
    )


def _list_aliases(version: RegisteredVersion, study: str, uri: str | None) -> Sequence[str]:
    versions = tracking.list_versions(version.model, study, uri)
    return next((entry.aliases for entry in versions if entry.version == version.version), ())

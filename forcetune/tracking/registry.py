"""MLflow's model registry: exported networks as versions of a model, and the aliases that name some of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from forcetune.errors import InputError
from forcetune.stores import absolute_uri, hide_password, mlflow_uri
from forcetune.tracking.client import check_answers, make_client, open_client
from forcetune.tracking.copying import find_moved_run
from forcetune.tracking.requests import create_once

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

MODEL_NAME_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]{0,199}")  # `models:/NAME@knee` cannot hold all that MLflow allows
OWNER_TAG = "forcetune.study"  # of a registered model: the study whose networks are its versions
IDENTITY_TAG = "forcetune.network"  # of a version: the digest by which a second registration finds it
REGISTERED_TAG = "forcetune.registered"  # of a study's parent run: the names of its registered models, as JSON
MODEL_FOLDER = "registered"  # of the versions among the artifacts of a run
MODEL_FILE = "model.onnx"  # MLflow's name for the file of a model of its ONNX flavour
CARD_FILE = "card.md"
DESCRIPTION_CHARACTERS = 5000  # of the columns in MLflow's tables
ABSENT_CODE = "RESOURCE_DOES_NOT_EXIST"


class RegistryError(InputError):
    """The error of a registry that does not answer, or that refuses a request."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model.

    Attributes:
        model: The name of the registered model.
        version: The number of the version.
        run_id: The id of the run whose network it is.
        tags: The tags of the version by name.
        aliases: The aliases that name it.
    """

    model: str
    version: int
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The model, the version and its aliases in words."""
        aliases = f" ({', '.join(self.aliases)})" if self.aliases else ""
        return f"{self.model} version {self.version}{aliases}"


@dataclass(frozen=True, eq=False)
class NetworkFile:
    """An ONNX file with what the registry says about it.

    Attributes:
        path: The file.
        model: The same as the package onnx has loaded it.
        example: A batch of samples as the file takes them; its first dimension may have any size.
        classes: The number of classes.
        identity: The digest of what makes it the same network.
        tags: The tags of its version, by name.
        metadata: The metadata of the model, by name, for whoever loads it.
        card: The model card, in Markdown.
    """

    path: Path
    model: Any
    example: np.ndarray
    classes: int
    identity: str
    tags: Mapping[str, str]
    metadata: Mapping[str, Any]
    card: str


@dataclass(frozen=True)
class AliasMoves:
    """The aliases of a registered model beside what they should name.

    Attributes:
        moved: The version that an alias names now, for each alias that had to move.
        missing: The id of the run that an alias should name and that has no version, for each alias that names another
            network until then.
    """

    moved: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def find_registry_uri(uri: str | None = None) -> str:
    """Return the URI of the model registry: MLFLOW_REGISTRY_URI, or else that of the MLflow store.

    Args:
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.
    """
    return absolute_uri(os.environ.get("MLFLOW_REGISTRY_URI", "").strip() or uri or mlflow_uri())


def check_model_name(name: str) -> None:
    """Check that a registered model can have a name.

    Raises:
        InputError: It cannot.
    """
    if not MODEL_NAME_PATTERN.fullmatch(name):
        raise InputError(
            f"--register {name}: this is no name for a registered model; allowed: a letter or digit, then letters, "
            "digits, _ . - (200 in all), since `models:/NAME@knee` has to name it"
        )


def check_owner(name: str, study: str, uri: str | None = None) -> None:
    """Check that a study may register its networks under a name, as far as the registry answers.

    Args:
        name: The name of the registered model.
        study: The name of the study.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: The name has networks of another study, or models of another program.
    """
    with suppress(RegistryError), _open_registry(uri) as client:
        _refuse_other_owner(client, _find_model(client, name), study)


def register_network(
    run: str, name: str, study: str, file: NetworkFile, uri: str | None = None
) -> tuple[RegisteredVersion, bool]:
    """Register a network as a version of a model, which is made where there is none.

    The version is created last: whatever fails before leaves no version. A network that has a version gets no other.

    Args:
        run: The id of the run whose network it is. The files of the version are among its artifacts.
        name: The name of the registered model.
        study: The name of the study that has the run.
        file: The network.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The version, and whether it is a new one.

    Raises:
        InputError: The name has networks of another study, or models of another program.
        RegistryError: The registry or the artifact store does not answer, or is full.
    """
    check_model_name(name)
    with _open_registry(uri) as client:
        _claim_model(client, name, study)
        if (version := _find_identity(client, name, file.identity)) is not None:
            return version, False
        _log_model(client, run, name, file, uri)
        tags = {**file.tags, IDENTITY_TAG: file.identity}
        created = create_once(
            lambda: _find_identity(client, name, file.identity),
            lambda: _create_version(client, name, run, tags, _shorten(file.card)),
        )
        return _keep_first(client, created)


def note_registered(parent: str, name: str, uri: str | None = None) -> None:
    """Note in the parent run of a study that a registered model has its networks, so that aliases move with the front.

    Args:
        parent: The id of the parent run.
        name: The name of the registered model.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: The store does not answer.
    """
    with open_client(uri or mlflow_uri()) as client:
        names = json.loads(client.get_run(parent).data.tags.get(REGISTERED_TAG, "[]"))
        if name not in names:
            client.set_tag(parent, REGISTERED_TAG, json.dumps([*names, name]))


def move_aliases(
    name: str, study: str, runs: Mapping[str, str], chosen: int | None = None, uri: str | None = None
) -> AliasMoves:
    """Let the aliases of a registered model name the networks of these runs.

    An alias moves to the newest version of its run, or stays where it names a version of that run already. Where the
    run has no version, the alias stays too: whoever loads the network by it still gets one.

    Args:
        name: The name of the registered model.
        study: The name of the study whose front has the runs. A model of another study stays as it is.
        runs: The id of the run that each alias should name.
        chosen: The number of a version to which an alias moves in any case where it is one of the alias's run.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        RegistryError: The registry does not answer, or refuses a request.
    """
    with _open_registry(uri) as client:
        moves = _find_moves(client, name, study, runs, chosen)
        for alias, version in moves.moved.items():
            client.set_registered_model_alias(name, alias, str(version))
        return moves


def find_alias_moves(name: str, study: str, runs: Mapping[str, str], uri: str | None = None) -> AliasMoves:
    """Return what `move_aliases` would move, and move nothing.

    Args:
        name: The name of the registered model.
        study: The name of the study whose front has the runs.
        runs: The id of the run that each alias should name.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        RegistryError: The registry does not answer.
    """
    with _open_registry(uri) as client:
        return _find_moves(client, name, study, runs)


def list_versions(name: str, study: str, uri: str | None = None) -> list[RegisteredVersion]:
    """Return the versions of a registered model, the newest first; none where it is not the study's.

    Args:
        name: The name of the registered model.
        study: The name of the study.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        RegistryError: The registry does not answer.
    """
    with _open_registry(uri) as client:
        model = _find_owned_model(client, name, study)
        return _list_versions(client, model) if model else []


def move_versions(name: str, study: str, source: str, target: str) -> int:
    """Move the versions of a registered model whose runs were copied to another store; their aliases go with them.

    Each version is created in the target, under the next number there, before it is deleted in the source; after a kill
    the next call goes on. Versions that forcetune did not register stay in the source, as do those of other runs.

    Args:
        name: The name of the registered model.
        study: The name of the study.
        source: The URI of the MLflow store that the runs were copied from.
        target: The URI of the MLflow store that has the copies, with the files of the versions among their artifacts.

    Returns:
        The number of versions that this call has moved.

    Raises:
        InputError: In one of the stores the name has networks of another study, or models of another program.
        RegistryError: A registry does not answer, or refuses a request.
    """
    with _open_registry(source) as source_client, _open_registry(target) as target_client:
        model = _find_model(source_client, name)
        if model is None:
            return 0
        _refuse_other_owner(source_client, model, study)
        _claim_model(target_client, name, study)
        versions = _list_versions(source_client, model)
        moved_runs = {version.run_id: find_moved_run(version.run_id, target) for version in versions}
        count = 0
        for version in reversed(versions):
            run = moved_runs[version.run_id]
            if run and IDENTITY_TAG in version.tags:
                _move_version(source_client, target_client, version, run)
                count += 1
        if count == len(versions) and find_registry_uri(source) != find_registry_uri(target):
            source_client.delete_registered_model(name)
        return count


@contextmanager
def fetch_network_file(version: RegisteredVersion, uri: str | None = None) -> Iterator[Path]:
    """Download the files of a version, and yield the path of its ONNX file for as long as the block lasts.

    Args:
        version: The version.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        RegistryError: The registry does not answer.
        FileNotFoundError: The files of the version are gone, or cannot be read.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    store = uri or mlflow_uri()
    with _open_registry(store) as client:
        source = client.get_model_version_download_uri(version.model, str(version.version))
    with TemporaryDirectory() as folder:
        try:
            repository = get_artifact_repository(source, tracking_uri=store, registry_uri=find_registry_uri(store))
            path = Path(repository.download_artifacts("", folder)) / MODEL_FILE
            path.stat()
        except Exception as error:  # an MlflowException, or what reading the artifact store raises
            raise FileNotFoundError(_explain(error)) from error
        yield path


@contextmanager
def _open_registry(uri: str | None) -> Iterator[MlflowClient]:
    """Open a client of the store and the registry; an error of either is a RegistryError of one sentence."""
    from mlflow.exceptions import MlflowException

    address = find_registry_uri(uri)
    try:
        check_answers(address)
        client = make_client(uri or mlflow_uri())
    except InputError as error:
        raise RegistryError(f"the model registry cannot be used: {error}") from error
    try:
        yield client
    except MlflowException as error:
        raise RegistryError(f"the model registry {hide_password(address)} cannot be used: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """Return the first line of what an error says; of an error that copied several files, that of the first file."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])
    text = getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
    return str(text).partition("\n")[0]


def _find_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != ABSENT_CODE:
            raise
        return None


def _find_owned_model(client: MlflowClient, name: str, study: str) -> RegisteredModel | None:
    """Return a registered model of the study; None where it was deleted, or belongs to another study."""
    model = _find_model(client, name)
    return model if model and model.tags.get(OWNER_TAG) == study else None


def _refuse_other_owner(client: MlflowClient, model: RegisteredModel | None, study: str) -> None:
    if model is None:
        return
    owner = model.tags.get(OWNER_TAG)
    if owner is None and _list_versions(client, model):
        raise InputError(
            f"the registered model {model.name} has versions that forcetune did not register; allowed: another name"
        )
    if owner not in (None, study):
        raise InputError(
            f"the registered model {model.name} has the networks of the study {owner!r}, and its aliases follow that "
            f"front; allowed: another name for those of {study!r}"
        )


def _claim_model(client: MlflowClient, name: str, study: str) -> None:
    """Make the registered model where there is none, and note whose networks it has."""
    model = create_once(
        lambda: _find_model(client, name),
        lambda: client.create_registered_model(name, {OWNER_TAG: study}, _describe_model(name, study)),
    )
    _refuse_other_owner(client, model, study)
    if OWNER_TAG not in model.tags:
        client.set_registered_model_tag(name, OWNER_TAG, study)


def _describe_model(name: str, study: str) -> str:
    return (
        f"Networks of the study `{study}`, exported and registered by forcetune. The aliases `knee`, `sparsest` and "
        f"`most-accurate` name points of its front: `mlflow.pyfunc.load_model('models:/{name}@knee')`. They move when "
        "a network is registered, and at the end of a search, of its re-runs and of a night. The description of each "
        "version is its model card."
    )


def _create_version(
    client: MlflowClient, name: str, run: str, tags: Mapping[str, str], description: str
) -> RegisteredVersion:
    """Create a version whose files are among the artifacts of its run."""
    artifacts = str(client.get_run(run).info.artifact_uri).rstrip("/")
    created = client.create_model_version(
        name,
        f"{artifacts}/{_locate_files(name, tags[IDENTITY_TAG])}",
        run,
        tags=dict(tags),
        description=description,
        await_creation_for=0,  # else MLflow logs that it waits; its own stores have a version at once
    )
    return _read_version(created)


def _move_version(
    source_client: MlflowClient, target_client: MlflowClient, version: RegisteredVersion, run: str
) -> None:
    """Create a version with its aliases for the copy of its run, and delete it for the run itself."""
    name, number, identity = version.model, str(version.version), version.tags[IDENTITY_TAG]
    description = str(source_client.get_model_version(name, number).description or "")
    moved = create_once(
        lambda: _find_identity(target_client, name, identity, run),
        lambda: _create_version(target_client, name, run, version.tags, description),
    )
    for alias in version.aliases:
        target_client.set_registered_model_alias(name, alias, str(moved.version))
    source_client.delete_model_version(name, number)


def _locate_files(model: str, identity: str) -> str:
    """Return the folder of a version's files among the artifacts of its run."""
    return f"{MODEL_FOLDER}/{model}/{identity[:16]}"


def _log_model(client: MlflowClient, run: str, name: str, file: NetworkFile, uri: str | None) -> None:
    """Log the files of a model of MLflow's ONNX flavour among the artifacts of a run.

    Where that fails, what was written of them is deleted as far as the artifact store answers, unless another process
    has registered the same network meanwhile.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    location = _locate_files(name, file.identity)
    artifact_uri = str(client.get_run(run).info.artifact_uri)
    try:
        with TemporaryDirectory() as parent:
            folder = Path(parent) / "model"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow warns of its own type hints when its flavours are imported
                _write_model(folder, file)
            client.log_artifacts(run, str(folder), location)
    except BaseException as error:
        with suppress(Exception):
            if _find_identity(client, name, file.identity) is None:
                get_artifact_repository(artifact_uri, tracking_uri=uri or mlflow_uri()).delete_artifacts(location)
        if not isinstance(error, Exception):  # Ctrl-C
            raise
        raise RegistryError(f"its files cannot be written to the run {run}: {_explain(error)}") from error


def _write_model(folder: Path, file: NetworkFile) -> None:
    """Write a model of MLflow's ONNX flavour: signature, input example, requirements, card and the very file."""
    import mlflow.onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec
    from numpy import dtype

    # A name would make pyfunc ask for a dictionary in place of an array.
    inputs = TensorSpec(file.example.dtype, (-1, *file.example.shape[1:]))
    outputs = TensorSpec(dtype("float32"), (-1, file.classes), name="logits")
    mlflow.onnx.save_model(
        file.model,
        str(folder),
        signature=ModelSignature(Schema([inputs]), Schema([outputs])),
        input_example=file.example,
        pip_requirements=mlflow.onnx.get_default_pip_requirements(),
        onnx_execution_providers=["CPUExecutionProvider"],
        metadata=dict(file.metadata),
        save_as_external_data=False,
    )
    shutil.copyfile(file.path, folder / MODEL_FILE)  # MLflow has written it anew, perhaps in other bytes
    (folder / CARD_FILE).write_text(file.card, "utf-8")


def _shorten(card: str) -> str:
    """Return a card that fits into a description."""
    note = f"\n\n(The rest of this card is in {CARD_FILE} among the files of this version.)\n"
    return card if len(card) <= DESCRIPTION_CHARACTERS else card[: DESCRIPTION_CHARACTERS - len(note)] + note


def _find_moves(
    client: MlflowClient, name: str, study: str, runs: Mapping[str, str], chosen: int | None = None
) -> AliasMoves:
    model = _find_owned_model(client, name, study)
    if model is None:
        return AliasMoves()
    versions = _list_versions(client, model)
    moved: dict[str, int] = {}
    missing: dict[str, str] = {}
    for alias, run in runs.items():
        numbers = [version.version for version in versions if version.run_id == run]
        current = int(model.aliases.get(alias, 0))
        if not numbers:
            missing |= {alias: run} if current else {}
            continue
        target = next(number for number in (chosen, current, max(numbers)) if number in numbers)
        if target != current:
            moved[alias] = target
    return AliasMoves(moved, missing)


def _keep_first(client: MlflowClient, created: RegisteredVersion) -> tuple[RegisteredVersion, bool]:
    """Delete a version where another process has registered the same network at the same time, and was first."""
    first = _find_identity(client, created.model, created.tags[IDENTITY_TAG])
    if first is None or first.version == created.version:
        return created, True
    client.delete_model_version(created.model, str(created.version))
    return first, False


def _find_identity(client: MlflowClient, name: str, identity: str, run: str | None = None) -> RegisteredVersion | None:
    """Return the version of a network that was registered before, the oldest of several; None where there is none.

    Args:
        client: A client of the registry.
        name: The name of the registered model.
        identity: The digest of the network.
        run: The id of the run that the version must name; None for any run.
    """
    model = _find_model(client, name)
    for version in reversed(_list_versions(client, model) if model else []):
        if version.tags.get(IDENTITY_TAG) == identity and run in (None, version.run_id):
            return version
    return None


def _list_versions(client: MlflowClient, model: RegisteredModel) -> list[RegisteredVersion]:
    """Return the versions of a registered model, the newest first."""
    versions = [_read_version(version) for version in client.search_model_versions(f"name='{model.name}'")]
    names: dict[int, list[str]] = {}
    for alias, number in model.aliases.items():
        names.setdefault(int(number), []).append(alias)
    named = [replace(version, aliases=tuple(sorted(names.get(version.version, ())))) for version in versions]
    return sorted(named, key=lambda version: -version.version)


def _read_version(version: ModelVersion) -> RegisteredVersion:
    return RegisteredVersion(str(version.name), int(version.version), str(version.run_id), dict(version.tags))

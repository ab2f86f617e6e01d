"""The proof of a registered network: its file, as the registry has it, computes the accuracy of its run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from forcetune import data, tracking
from forcetune.deploy.export import PRUNED, VERIFIED_BATCH_SIZE
from forcetune.deploy.inputs import InputType, Layout, choose_input_format, iterate_samples
from forcetune.deploy.registration import FILE_ACCURACY_TAG, INPUT_TYPE_TAG, LAYOUT_TAG, NETWORK_NAME_TAG
from forcetune.deploy.runtimes import OnnxRuntime, require_packages
from forcetune.deploy.trained import load_weight_metrics
from forcetune.deploy.verification import is_same_accuracy, measure_accuracy
from forcetune.study import Trial
from forcetune.tracking import RegisteredVersion
from forcetune.trial import derive_seed


@dataclass(frozen=True)
class Proof:
    """The proof of a registered version.

    Attributes:
        study: The name of the study.
        model: The name of the registered model.
        version: The number of the version.
        aliases: The aliases that name it.
        run_id: The id of its run.
        expected: The accuracy that it should have, 0 to 1: the run's `val_accuracy`, or for int8 that of the file when
            it was registered; None where the run has none.
        accuracy: The accuracy of the file on the validation split; None where it was not measured.
        samples: The number of validation samples.
        problem: What is wrong with the file; None where it agrees, or could not be proved.
        obstacle: Why it could not be proved here; None where it was.
    """

    study: str
    model: str
    version: int
    aliases: Sequence[str]
    run_id: str
    expected: float | None = None
    accuracy: float | None = None
    samples: int = 0
    problem: str | None = None
    obstacle: str | None = None

    @property
    def label(self) -> str:
        """The study, the model, the version and its aliases in words."""
        version = RegisteredVersion(self.model, self.version, self.run_id, {}, tuple(self.aliases))
        return f"{self.study}: the registered network {version.label}"

    def plain(self) -> dict[str, Any]:
        """Return the proof as data that JSON can hold."""
        return {**asdict(self), "aliases": list(self.aliases)}

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> Proof:
        """Make a proof from the data that `plain` returned."""
        return cls(**content)


def prove_registered(study: str, runs: Collection[str], uri: str | None = None) -> list[Proof]:
    """Prove the registered networks of a study that are runs of interest, or that an alias names.

    Args:
        study: The name of the study.
        runs: The ids of the runs of interest.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        A proof for each version; none where no network of the study is registered.

    Raises:
        InputError: The MLflow store or the registry does not answer, or packages are missing.
    """
    models = tracking.load_table(study, uri).registered
    versions = [version for model in models for version in tracking.list_versions(model, study, uri)]
    exported = [version for version in versions if INPUT_TYPE_TAG in version.tags]  # none that somebody added by hand
    chosen = [version for version in exported if version.aliases or version.run_id in runs]
    if chosen:
        require_packages("the proof of a registered network")
    return [prove_version(version, study, uri) for version in chosen]


def prove_version(version: RegisteredVersion, study: str, uri: str | None = None) -> Proof:
    """Load the file of a registered version in ONNX Runtime, and measure its accuracy on the run's validation split.

    Args:
        version: The version.
        study: The name of the study that has its run.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The proof. A file that is gone, cannot be run, or has another accuracy is its problem; a data set that this
        machine lacks is an obstacle.
    """
    identity = (study, version.model, version.version, version.aliases, version.run_id)
    try:
        expected = _find_expected(version, uri)
        trial = Trial(**tracking.load_trial_fields(version.run_id, uri))
        dataset = data.load(trial.dataset, trial.data_root).to("cpu")
    except Exception as error:  # the store does not answer, or what a data set of the user's own raises
        return Proof(*identity, obstacle=str(error).partition("\n")[0])
    _, validation = dataset.split(derive_seed(trial, "split"), trial.train_samples)
    dtype, layout = cast(InputType, version.tags[INPUT_TYPE_TAG]), cast(Layout, version.tags[LAYOUT_TAG])
    try:
        batches = iterate_samples(dataset, validation, choose_input_format(dataset, dtype, layout), VERIFIED_BATCH_SIZE)
        with tracking.fetch_network_file(version, uri) as path:
            accuracy, samples = measure_accuracy(OnnxRuntime(path), batches)
    except Exception as error:  # the file is gone, or ONNX Runtime raises one of its many errors
        reason = str(error).partition("\n")[0]
        return Proof(*identity, expected, problem=f"cannot be run: {reason}")
    problem = None
    if expected is not None and not is_same_accuracy(accuracy, expected, samples):
        problem = (
            f"has an accuracy of {accuracy:.4f} on {samples} validation images, and {expected:.4f} is that of its run"
        )
    return Proof(*identity, expected, accuracy, samples, problem)


def _find_expected(version: RegisteredVersion, uri: str | None) -> float | None:
    """Return the accuracy that a version should have; None where its run logged none."""
    if version.tags.get(NETWORK_NAME_TAG) != PRUNED:
        return float(version.tags[FILE_ACCURACY_TAG])
    return load_weight_metrics(version.run_id, uri).get("val_accuracy")

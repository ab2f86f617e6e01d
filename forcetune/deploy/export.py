"""The export of a trained network to a file that runs: verified against the network, and measured beside others."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch

from forcetune import __version__, data, models, tracking
from forcetune.deploy.card import render_card
from forcetune.deploy.evidence import TrialEvidence, load_evidence
from forcetune.deploy.files import NetworkWriter
from forcetune.deploy.folder import writing_to
from forcetune.deploy.inputs import InputFormat, InputType, Layout, SampleBatch, choose_input_format, iterate_samples
from forcetune.deploy.measurement import FileCost, describe_machine, measure_files, measure_latency_ratio
from forcetune.deploy.registration import Registration, check_registrable, register_export
from forcetune.deploy.rival import MAX_EQUAL_LATENCY_RATIO, Rival, choose_width, train_rival
from forcetune.deploy.runtimes import RUNTIMES, require_packages
from forcetune.deploy.trained import TrainedNetwork, load_trained_network
from forcetune.deploy.verification import Verification, check_accuracy, check_outputs, compare_outputs
from forcetune.deploy.writing import MASK_NAME_PREFIX, SUFFIXES, FileFormat, make_safetensors
from forcetune.errors import InputError
from forcetune.study import Study, Task, Trial
from forcetune.training import Diverged
from forcetune.trial import derive_seed

VERIFIED_BATCH_SIZE = 128
PRUNED, QUANTIZED, DENSE, SMALL_DENSE = "pruned", "pruned, int8", "dense", "small dense"  # the names of networks
MAX_QUICK_TRAINING_S = 120.0  # of a trial whose small dense network is trained unless the user says otherwise
REGISTERED_SAMPLES = 2  # the input example of a version
MAX_LOSS_POINTS = 1.0  # of accuracy by int8, where the user says nothing else


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export.

    Attributes:
        file_format: `onnx`, `torch` (a .pt2 file of torch.export) or `safetensors` (weights and masks).
        layout: The order of an image's dimensions in the input, `nchw` or `nhwc`.
        input_type: `uint8` pixels or `float32`; None for uint8 where the data set has pixels, else float32.
        int8: Whether an int8 version of the ONNX file is written too.
        max_loss: The points of accuracy (hundredths) that int8 may lose.
        rival: Whether the small dense network of equal latency is trained for comparison; None for trials that trained
            within MAX_QUICK_TRAINING_S.
        model_name: The name of the model in MLflow's registry that gets the network; None where it is not registered.
    """

    file_format: FileFormat = "onnx"
    layout: Layout = "nchw"
    input_type: InputType | None = None
    int8: bool = False
    max_loss: float = MAX_LOSS_POINTS
    rival: bool | None = None
    model_name: str | None = None

    def check(self) -> None:
        """Check the options against each other.

        Raises:
            InputError: An option has a value that is not allowed, or does not fit the format.
        """
        for option, value, allowed in (
            ("--format", self.file_format, get_args(FileFormat)),
            ("--layout", self.layout, get_args(Layout)),
            ("--input", self.input_type, (None, *get_args(InputType))),
        ):
            if value not in allowed:
                raise InputError(f"{option} {value}: allowed: {', '.join(filter(None, allowed))}")
        if self.int8 and self.file_format != "onnx":
            raise InputError(f"--int8 quantizes an ONNX file; --format {self.file_format} has no int8 version")
        if not self.max_loss >= 0:
            raise InputError(f"--max-loss {self.max_loss:g}: allowed: points of accuracy, 0 or more")
        if self.file_format == "safetensors":
            graph_options = {"--layout nhwc": self.layout == "nhwc", "--input": self.input_type, "--rival": self.rival}
            if unfit := [option for option, is_set in graph_options.items() if is_set]:
                raise InputError(
                    f"{unfit[0]}: a file of safetensors has weights and masks, and no graph that runs; allowed: "
                    "--format onnx, torch"
                )
        if self.model_name is not None:
            tracking.check_model_name(self.model_name)
            if self.file_format != "onnx":
                raise InputError(
                    f"--register {self.model_name}: the registry gets an ONNX file, which MLflow itself runs; allowed: "
                    f"--format onnx, not {self.file_format}"
                )
        if self.file_format == "onnx":
            require_packages("an ONNX file", ", or choose --format torch or safetensors")

    def make_command(self, run_id: str, out: Path) -> str:
        """Return the command that exports a run with these options."""
        words = ["forcetune", "export", run_id, "--format", self.file_format]
        if self.file_format != "safetensors":
            words += ["--layout", self.layout, *(["--input", self.input_type] if self.input_type else [])]
        words += ["--int8", "--max-loss", f"{self.max_loss:g}"] if self.int8 else []
        words += [] if self.rival is None else ["--rival" if self.rival else "--no-rival"]
        words += [] if self.model_name is None else ["--register", self.model_name]
        return shlex.join([*words, "--out", str(out)])


@dataclass(frozen=True)
class Export:
    """An exported network: its files and all that was measured of it.

    Attributes:
        paths: The files: the network, its int8 version where there is one, and the model card.
        run_id: The id of the run.
        trial: The configuration.
        run_metrics: The metrics of the run.
        options: The options of the export.
        input_format: The format of the samples that the files take; None for safetensors.
        classes: The number of classes.
        class_names: The names of the classes; empty where they have none.
        macs_fraction: The fraction of the dense network's multiply-adds that is left, 0 to 1.
        verifications: The comparisons with the trained network, by the name of the network.
        costs: The cost of each network by its name; none for safetensors.
        rival: The small dense network of equal latency, where it was trained.
        runtime: The runtime and its version.
        machine: The processor of the machine that measured.
        notes: Sentences on what could not be done, or was not.
        evidence: The seeds and the verdicts behind the accuracy of the trial.
        registration: The version in MLflow's registry; None where the network was not registered.
        version: The version of forcetune.
    """

    paths: Sequence[Path]
    run_id: str
    trial: Trial
    run_metrics: Mapping[str, float]
    options: ExportOptions
    input_format: InputFormat | None
    classes: int
    class_names: Sequence[str]
    macs_fraction: float
    verifications: Mapping[str, Verification]
    costs: Mapping[str, FileCost] = field(default_factory=dict)
    rival: Rival | None = None
    runtime: str = ""
    machine: str = ""
    notes: Sequence[str] = ()
    evidence: TrialEvidence = field(default_factory=TrialEvidence)
    registration: Registration | None = None
    version: str = __version__

    @property
    def delivered(self) -> str:
        """The name of the network that the export is for: the int8 version where there is one."""
        return QUANTIZED if QUANTIZED in self.verifications else PRUNED

    @property
    def accuracies(self) -> dict[str, float]:
        """The accuracy of each trained network by its name, 0 to 1."""
        accuracies = {name: verification.accuracy for name, verification in self.verifications.items()}
        return {**accuracies, SMALL_DENSE: self.rival.accuracy} if self.rival else accuracies

    @property
    def is_beaten(self) -> bool:
        """Whether the small dense network is as quick as the pruned one and at least as accurate."""
        if not self.rival:
            return False
        # its width was chosen by the first of these, so that the noise of the second does not speak for pruning
        ratios = (self.rival.latency_ratio, self._median_ms(SMALL_DENSE) / self._median_ms(PRUNED))
        return min(ratios) <= MAX_EQUAL_LATENCY_RATIO and self.rival.accuracy >= self.accuracies[PRUNED]

    @property
    def rival_verdict(self) -> str | None:
        """The comparison with the small dense network in words; None where there is no such network."""
        if not self.rival:
            return None
        points = 100 * (self.accuracies[PRUNED] - self.rival.accuracy)
        numbers = (
            f"a dense network of width {self.rival.trial.width}, trained by the same recipe, takes "
            f"{self._median_ms(SMALL_DENSE):.3f} ms and reaches {self.rival.accuracy:.2%}; the pruned network takes "
            f"{self._median_ms(PRUNED):.3f} ms and reaches {self.accuracies[PRUNED]:.2%} ({points:+.2f} points). Each "
            "accuracy is that of one training."
        )
        if self.is_beaten:
            return f"Pruning was not worth it here: {numbers}"
        return f"Against the dense network of equal latency: {numbers}"

    @property
    def metrics(self) -> dict[str, float]:
        """The figures as metrics of the run, each with `deployed_` before its name; of the delivered file."""
        verification = self.verifications[self.delivered]
        metrics = {
            "deployed_accuracy": verification.accuracy,
            "deployed_agreement": verification.agreement,
            "deployed_largest_difference": verification.largest_difference,
        }
        if self.costs:
            cost = self.costs[self.delivered]
            metrics |= {
                "deployed_latency_ms": cost.latencies[1].p50_ms,
                "deployed_latency_p95_ms": cost.latencies[1].p95_ms,
                "deployed_batch_latency_ms": cost.latencies[32].p50_ms,
                "deployed_batch_latency_p95_ms": cost.latencies[32].p95_ms,
                "deployed_dense_latency_ms": self._median_ms(DENSE),
                "deployed_peak_bytes": cost.peak_bytes,
                "deployed_file_bytes": cost.file_bytes,
                "deployed_compressed_bytes": cost.compressed_bytes,
            }
        if self.rival:
            metrics |= {
                "deployed_small_dense_latency_ms": self._median_ms(SMALL_DENSE),
                "deployed_small_dense_accuracy": self.rival.accuracy,
            }
        return metrics

    def _median_ms(self, name: str) -> float:
        return self.costs[name].latencies[1].p50_ms


def export_network(
    run: str | TrainedNetwork,
    out: str | Path = ".",
    *,
    file_format: FileFormat = "onnx",
    layout: Layout = "nchw",
    input_type: InputType | None = None,
    int8: bool = False,
    max_loss: float = MAX_LOSS_POINTS,
    rival: bool | None = None,
    register: str | None = None,
    uri: str | None = None,
) -> Export:
    """Export a trained network to a file that runs, with a model card beside it.

    The network is compacted to the channels that matter, its batch norms are folded, and the normalization of its input
    becomes part of the graph. The file is verified against the trained network on the whole validation split, and
    measured beside the dense network; a file that disagrees is not written. The figures become metrics of the run.

    Args:
        run: The id of a run that keeps its weights, its study and name (`digits/trial-0036`), or a loaded network, in
            which case nothing is logged.
        out: The folder for the files, which is made where it does not exist.
        file_format: `onnx`, `torch` (a .pt2 file of torch.export) or `safetensors` (weights and masks).
        layout: The order of an image's dimensions in the input, `nchw` or `nhwc`.
        input_type: `uint8` pixels or `float32` ones from 0 to 1; None for uint8 where the data set has pixels.
        int8: Whether an int8 version of the ONNX file is written too, calibrated on training images.
        max_loss: The points of accuracy (hundredths) that int8 may lose.
        rival: Whether the small dense network of equal latency is trained for comparison; None for trials that trained
            within two minutes.
        register: The name of the model in MLflow's registry that gets the network as a version, with the int8 file
            where there is one; None registers nothing. A network that has a version already gets no second one.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The export: its files, its verification and its costs.

    Raises:
        InputError: The run keeps no weights, the file disagrees with the network, int8 loses too much accuracy, the
            folder cannot be written to, or a package is missing; no file is left then. Or the registry does not take
            the network: then the files stay.
    """
    options = ExportOptions(file_format, layout, input_type, int8, max_loss, rival, register)
    options.check()
    trained = load_trained_network(run, uri) if isinstance(run, str) else run
    origin = _load_origin(trained.run_id, uri) if isinstance(run, str) else _Origin()
    if register is not None:
        check_registrable(register, origin.evidence.study, uri)
    with writing_to(Path(out)) as folder:
        exporter = _Exporter(trained, origin, options, folder)
        export = exporter.export_tensors() if file_format == "safetensors" else exporter.export_graph()
        card = folder / f"{exporter.stem}.md"
        export = dataclasses.replace(export, paths=[*export.paths, card])
        card.write_text(render_card(export, options.make_command(trained.run_id, Path(out))), "utf-8")
        if isinstance(run, str):
            tracking.log_metrics(trained.run_id, export.metrics, uri)
    export = dataclasses.replace(export, paths=[Path(out) / path.name for path in export.paths])
    if register is None:
        return export
    registration = register_export(export, trained, exporter.make_example(), register, uri)
    return dataclasses.replace(export, registration=registration)


@dataclass(frozen=True)
class _Origin:
    """The circumstances in which a network was trained.

    Attributes:
        task: The part of the study that its trials share.
        device: The device that trained it, as the run's tag has it.
        evidence: The seeds and the verdicts behind its accuracy.
    """

    task: Task = field(default_factory=Task)
    device: str = "cpu"
    evidence: TrialEvidence = field(default_factory=TrialEvidence)


def _load_origin(run_id: str, uri: str | None) -> _Origin:
    study = Study.from_dict(tracking.load_study_file(tracking.find_study(run_id, uri), uri))
    device = tracking.load_run_tags(run_id, uri).get("forcetune.device", "cpu")
    return _Origin(study.task, device, load_evidence(run_id, uri))


class _Exporter:
    """The export of one trained network: its data, its options, and the steps."""

    def __init__(self, trained: TrainedNetwork, origin: _Origin, options: ExportOptions, folder: Path) -> None:
        self._trained = trained
        self._origin = origin
        self._options = options
        self._folder = folder
        trial = trained.trial
        self._network = trained.network.cpu().float().eval()
        self._dataset = data.load(trial.dataset, trial.data_root).to("cpu")
        self._training, self._validation = self._dataset.split(derive_seed(trial, "split"), trial.train_samples)
        self._format = choose_input_format(self._dataset, options.input_type, options.layout)
        self._writer = NetworkWriter(folder, options.file_format, self._format, self._make_metadata())
        self._notes: list[str] = []

    def make_example(self) -> torch.Tensor:
        """Return two validation samples as the file takes them."""
        return next(iterate_samples(self._dataset, self._validation, self._format, REGISTERED_SAMPLES)).inputs

    @property
    def stem(self) -> str:
        """The name of the files without their suffixes: the model, the method, and the beginning of the run's id."""
        trial = self._trained.trial
        words = (trial.model.rpartition(":")[2], trial.method.rpartition(":")[2], self._trained.run_id[:8])
        return "-".join(re.sub(r"[^\w.]+", "_", word) for word in words if word)

    def export_tensors(self) -> Export:
        """Write weights and masks, and check that the file has each bit of them."""
        path = self._folder / f"{self.stem}{SUFFIXES['safetensors']}"
        path.write_bytes(make_safetensors(self._network, self._trained.masks, self._make_metadata()))
        network = models.build(*self._architecture)
        stored = safetensors.torch.load_file(path)
        weights = {name: tensor for name, tensor in stored.items() if not name.startswith(MASK_NAME_PREFIX)}
        network.load_state_dict(weights)
        if not all(torch.equal(weights[name], tensor) for name, tensor in self._network.state_dict().items()):
            raise InputError(f"{path.name} does not have the bits that were written to it; no file is written")
        verification = self._compare(network.eval(), normalized=True)
        check_outputs(verification)
        check_accuracy(verification, self._trained.run_id, self._trained.metrics.get("val_accuracy"))
        return self._make_export([path], {PRUNED: verification}, macs_fraction=1.0, input_format=None)

    def export_graph(self) -> Export:
        """Write, verify and measure the network, its int8 version and the networks beside it."""
        trained, options = self._trained, self._options
        path, deployable = self._writer.write(self.stem, self._network, trained.masks)
        self._notes += deployable.notes
        verification = self._compare(RUNTIMES[path.suffix](path))
        check_outputs(verification)
        check_accuracy(verification, trained.run_id, trained.metrics.get("val_accuracy"))
        files, verifications = {PRUNED: path}, {PRUNED: verification}
        if options.int8:
            files[QUANTIZED], verifications[QUANTIZED] = self._quantize(path, verification)
        beside = {DENSE: self._write_beside("dense", self._build(trained.trial.width))}
        if rival := self._train_rival(path):
            beside[SMALL_DENSE] = self._write_beside("small-dense", rival.network)
        costs = measure_files({**files, **beside}, self._format)
        for unneeded in beside.values():
            unneeded.unlink()
        return self._make_export(
            [*files.values()], verifications, deployable.macs_fraction, self._format, costs=costs, rival=rival
        )

    @property
    def _architecture(self) -> tuple[str, tuple[int, ...], int, int | None]:
        architecture = self._trained.architecture
        return architecture.model, architecture.input_shape, architecture.classes, architecture.width

    def _build(self, width: int | None) -> torch.nn.Module:
        trial = self._trained.trial
        seed = derive_seed(trial, "weights")
        return models.build(trial.model, self._dataset.input_shape, self._dataset.classes, width, seed).eval()

    def _write_beside(self, name: str, network: torch.nn.Module) -> Path:
        """Write a dense network, only to measure it."""
        return self._writer.write(f"{self.stem}-{name}", network, None)[0]

    def _compare(self, run: Callable[[torch.Tensor], torch.Tensor], normalized: bool = False) -> Verification:
        batches: Iterable[SampleBatch] = iterate_samples(
            self._dataset, self._validation, self._format, VERIFIED_BATCH_SIZE
        )
        if normalized:
            batches = (dataclasses.replace(batch, inputs=batch.normalized) for batch in batches)
        return compare_outputs(run, self._network, batches)

    def _quantize(self, path: Path, verification: Verification) -> tuple[Path, Verification]:
        """Write the int8 version of a file, and refuse it where it loses too much accuracy."""
        from forcetune.deploy.quantization import quantize

        target = path.with_name(f"{self.stem}-int8{path.suffix}")
        quantize(path, target, self._dataset, self._training, self._format)
        quantized = self._compare(RUNTIMES[target.suffix](target))
        loss = 100 * (verification.accuracy - quantized.accuracy)
        if loss > self._options.max_loss + 1e-9:
            raise InputError(
                f"--int8: the quantized network has an accuracy of {quantized.accuracy:.2%} on the validation split, "
                f"{loss:.2f} points less than the float32 network ({verification.accuracy:.2%}); --max-loss allows "
                f"{self._options.max_loss:g}. No file is written; a larger --max-loss, or an export without --int8, is"
            )
        return target, quantized

    def _train_rival(self, path: Path) -> Rival | None:
        """Train the small dense network of equal latency; where that is not done, a note says why."""
        reason = self._find_reason_without_rival()
        if reason is None:
            try:
                width, ratio = choose_width(self._trained.trial, lambda width: self._measure_ratio(path, width))
                return train_rival(self._trained.trial, self._origin.task, width, ratio)
            except InputError as error:
                reason = str(error)
            except Diverged as error:
                reason = f"its training diverged ({error})"
        if self._options.rival:
            raise InputError(f"--rival: {reason}")
        self._notes.append(f"There is no comparison with the dense network of equal latency: {reason}.")
        return None

    def _find_reason_without_rival(self) -> str | None:
        """Return why no small dense network is trained; None where it is."""
        trial, wanted = self._trained.trial, self._options.rival
        seconds = self._trained.metrics.get("train_seconds")
        if wanted is False:
            return "`--no-rival` left it out"
        if trial.small_dense or trial.density == 1:
            return "this network is a dense network itself"
        if wanted is None and seconds is None:
            return "the cost of training it is not known; `--rival` trains it"
        if wanted is None and self._origin.device != "cpu" and not torch.cuda.is_available():
            return f"the trial was trained on {self._origin.device}, which this machine lacks; `--rival` trains it"
        if wanted is None and seconds > MAX_QUICK_TRAINING_S:  # type: ignore[operator]
            return f"training it takes about {seconds:.0f} s, as the trial did; `--rival` trains it"
        return None

    def _measure_ratio(self, path: Path, width: int) -> float:
        beside = self._write_beside(f"width-{width}", self._build(width))
        measured = measure_latency_ratio(beside, path, self._format)
        beside.unlink()
        return measured.ratio

    def _make_metadata(self) -> dict[str, str]:
        return {
            "version": __version__,
            "run_id": self._trained.run_id,
            "trial": json.dumps(self._trained.trial.fields(), sort_keys=True),
            "class_names": json.dumps(self._dataset.class_names),
            "input": self._format.describe(),
        }

    def _make_export(
        self,
        paths: Sequence[Path],
        verifications: Mapping[str, Verification],
        macs_fraction: float,
        input_format: InputFormat | None,
        **measured: Any,
    ) -> Export:
        trained = self._trained
        return Export(
            paths=paths,
            run_id=trained.run_id,
            trial=trained.trial,
            run_metrics=trained.metrics,
            options=self._options,
            input_format=input_format,
            classes=self._dataset.classes,
            class_names=self._dataset.class_names,
            macs_fraction=macs_fraction,
            verifications=verifications,
            runtime=_describe_runtime(self._options.file_format),
            machine=describe_machine(),
            notes=self._notes,
            evidence=self._origin.evidence,
            **measured,
        )


def _describe_runtime(file_format: FileFormat) -> str:
    return f"ONNX Runtime {version('onnxruntime')}" if file_format == "onnx" else f"torch {torch.__version__}"

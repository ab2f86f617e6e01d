"""The messages of a search: what the driver, the workers, the ledger and the outbox tell each other about a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution

from forcetune.study import Companion, Task, Trial
from forcetune.tracking import Epoch

Cause = Literal["lost", "node", "leaving", "memory", "time"]  # leaving: its node has notice of its end


@dataclass
class Proposal:
    """A configuration with the parameters that were sampled for it."""

    trial: Trial
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    start: str | None = None  # the hash of the known configuration under `search.start` that it stands for
    optuna_trial: optuna.Trial | None = None  # its trial in the in-memory study
    parent_key: str | None = None  # of a companion: the key of the study's trial that it belongs to
    tags: Mapping[str, str] = field(default_factory=dict)  # of a companion: `Companion.tags`

    @property
    def key(self) -> str:
        """The key that identifies the configuration in its study."""
        return Companion(self.trial, self.parent_key or "", self.tags).key


@dataclass(frozen=True)
class PriorTrial:
    """A trial of another study, which this study learns from.

    Attributes:
        fields: The trial's fields.
        values: The values of this study's objectives, in this study's order.
        on_front: Whether the trial may stand on the front: it was trained to its end.
    """

    fields: Mapping[str, Any]
    values: Sequence[float]
    on_front: bool


@dataclass(frozen=True)
class Attempts:
    """The attempts at a trial so far.

    Attributes:
        attempt: The number of the last attempt; 0 before the first one.
        lost: The number of lost attempts that count towards `retries`.
        room: The memory factor of the next attempt: the multiple of what `resources` asks for.
        lost_nodes: The number of attempts that were lost with their node, and do not count towards `retries`.
    """

    attempt: int = 1
    lost: int = 0
    room: int = 1
    lost_nodes: int = 0


@dataclass(frozen=True)
class Assignment:
    """One attempt at one trial, as the driver hands it to a worker.

    Attributes:
        number: The trial's number in the ledger.
        trial: The configuration.
        task: The study's task.
        attempt: The number of the attempt.
        mlflow_uri: The address of MLflow, which is only read, where `layers_from` names a run.
        folder: The driver's folder, from which relative data roots and the user's modules are found.
        checkpoints: The trial's folder of checkpoints.
        threads: The number of torch's threads.
        memory_factor: The multiple of the study's `resources` that the attempt gets.
        sends_weights: Whether the last report of a trial that was trained has its weights.
    """

    number: int
    trial: Trial
    task: Task
    attempt: int
    mlflow_uri: str
    folder: str
    checkpoints: str
    threads: int
    memory_factor: int = 1
    sends_weights: bool = False


@dataclass(frozen=True)
class TrialStarted:
    """The state of a trial before it trains, and what earlier attempts measured of it.

    Attributes:
        static_metrics: The metrics that are known before training, by name.
        device: The name of the device.
        curve: The epochs of earlier attempts.
        dataset: The identity of the data set, the fields of `data.DataIdentity`.
        epochs: The number of epochs of the training, all levels included; None where it is that of the trial.
        driver: The version of the GPU's driver; None where there is none, or it cannot be read.
    """

    static_metrics: dict[str, float]
    device: str
    curve: list[Epoch]
    dataset: Mapping[str, Any] | None = None
    epochs: int | None = None
    driver: str | None = None


@dataclass(frozen=True)
class Report:
    """A report of a worker: the first one says that the trial has started, each later one has an epoch.

    Attributes:
        metrics: The static metrics and those of the epoch, by name.
        epoch: The epoch that has ended.
        trial_started: The trial before it trains; only in the first report.
        outcome: The outcome of the trial; only in the last report.
        reason: The reason for the outcome.
        trace: The lines of the traceback of a trial that has failed.
        files: The content of the trial's files, by name; a later one replaces an earlier one.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    epoch: Epoch | None = None
    trial_started: TrialStarted | None = None
    outcome: str | None = None
    reason: str | None = None
    trace: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialOutcome:
    """The outcome of a trial.

    Attributes:
        outcome: `trained`, `stopped`, `collapsed`, `infeasible` or `failed`.
        reason: Why it did not train to its end; None where it did.
        values: The values of the study's objectives, in their order; None where it failed.
        time: When it ended, in ms since 1970.
        record: What was measured of it: the static metrics (`facts`), the curve, the data set, and what the study had
            cost by then (`spent`).
    """

    outcome: str
    reason: str | None = None
    values: Sequence[float] | None = None
    time: int | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on_front(self) -> bool:
        """Whether the trial may stand on the front."""
        return self.outcome == "trained"

    @property
    def tags(self) -> dict[str, str]:
        """The outcome and its reason, as tags of the trial's run."""
        return {"forcetune.outcome": self.outcome, **({"forcetune.reason": self.reason} if self.reason else {})}


class LostError(Exception):
    """A failure of an attempt through no fault of the trial; another worker may have more luck.

    Args:
        cause: The cause of the loss.
        reason: The reason, in words.
    """

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(cause, reason)
        self.cause: Cause = cause
        self.reason = reason

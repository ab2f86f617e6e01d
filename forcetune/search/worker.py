"""What runs beside the GPU: one attempt at a trial, reported epoch by epoch. Knows neither Ray nor MLflow's runs."""

import ctypes
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from forcetune import data, pruning, trial
from forcetune.containment import ProcessEndError, contained
from forcetune.names import find_in
from forcetune.search.checkpoints import Checkpoints, SupersededError
from forcetune.spec import Task, Trial
from forcetune.tracking import Epoch, fetch_masks

log = logging.getLogger(__name__)

Cause = Literal["lost", "node", "memory", "time"]  # why an attempt ended: a worker alone lost, or its whole node, ...

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h has them


@dataclass(frozen=True)
class Assignment:
    """One attempt at one trial, as the driver hands it to a worker."""

    number: int
    fields: dict[str, Any]
    task: Task
    attempt: int
    mlflow_uri: str  # read alone, where `layers_from` names a run
    folder: str  # of the driver: relative data roots and the user's modules are found from it
    checkpoints: str  # the trial's own folder
    threads: int
    room: int = 1  # times what `resources` asks for


@dataclass(frozen=True)
class TrialStarted:
    """What is known of a trial before it trains, and what earlier attempts measured of it."""

    facts: dict[str, float]
    device: str
    masks: bytes  # masks.npz
    layers: list[dict[str, Any]]
    curve: list[Epoch]
    dataset: data.DataIdentity | None = None


@dataclass(frozen=True)
class Report:
    """What a worker tells: first the opening, then an epoch each time; the last one has the outcome.

    metrics: those known before training and those of the epoch, by name.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    epoch: Epoch | None = None
    opening: TrialStarted | None = None
    outcome: str | None = None
    reason: str | None = None
    trace: tuple[str, ...] = ()


class LostError(Exception):
    """This attempt failed through no fault of the trial; another worker may have more luck."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(cause, reason)
        self.cause: Cause = cause
        self.reason = reason


def execute(assignment: Assignment) -> Iterator[Report]:
    """Run a trial from where its last checkpoint left it.

    Whatever the trial raises becomes the outcome `failed`: the worker lives on for the next trial. Raises LostError
    where this process is of no more use, SupersededError where the trial has been given to another.
    """
    settle(assignment.folder, assignment.threads)
    wanted = Trial(**assignment.fields)
    checkpoints = Checkpoints(assignment.checkpoints, assignment.attempt, wanted.key)
    checkpoints.claim()
    metrics: dict[str, float] = {}
    try:
        reports = _run(assignment, wanted, checkpoints)
        while report := _next(reports):
            metrics = report.metrics or metrics
            yield report
    except SupersededError:
        raise
    except ProcessEndError as error:
        yield Report(metrics, outcome="failed", reason=str(error), trace=tuple(traceback.format_exc().splitlines()))
    except Exception as error:  # the user's own model, data or method may raise anything
        reason = f"{type(error).__name__}: {error}"
        if cause := _cause(error):
            raise LostError(cause, reason) from None
        yield Report(metrics, outcome="failed", reason=reason, trace=tuple(traceback.format_exc().splitlines()))


@contained()
def _next(reports: Iterator[Report]) -> Report | None:
    return next(reports, None)


def _run(assignment: Assignment, wanted: Trial, checkpoints: Checkpoints) -> Iterator[Report]:
    saved = checkpoints.newest()
    if saved:
        trial_run = trial.resume(wanted, saved["trial"], assignment.task)
    else:
        fetch = partial(fetch_masks, uri=assignment.mlflow_uri)
        trial_run = trial.TrialRun(trial.prepare(wanted, assignment.task, fetch))
    prepared = trial_run.prepared
    curve = [Epoch(*told) for told in saved["curve"]] if saved else []
    yield Report(opening=_opening(prepared, curve))
    if saved and curve[-1].step == wanted.epochs:  # trained to the end, and not heard
        yield Report({**prepared.metrics, **curve[-1].metrics}, outcome="trained")
    for metrics in trial_run:
        step = int(metrics["epoch"])
        last = step in (0, wanted.epochs)
        curve.append(Epoch(step, int(time.time() * 1000), _of_epoch(metrics, prepared.metrics, last)))
        if step and trial_run.resumable and (last or checkpoints.due()):
            _save(checkpoints, {"trial": trial_run.state_dict(), "curve": [epoch.plain() for epoch in curve]})
        outcome, reason = (prepared.untrained or ("trained", None)) if last else (None, None)
        yield Report(metrics, curve[-1], outcome=outcome, reason=reason)


def _of_epoch(metrics: dict[str, float], before: dict[str, float], last: bool) -> dict[str, float]:
    """What an epoch adds to what was known before training; the time it took in all stands at the last alone."""
    left_out = {"epoch", *([] if last else ["train_seconds"])}
    return {n: value for n, value in metrics.items() if n not in left_out and (n not in before or value != before[n])}


def _save(checkpoints: Checkpoints, state: dict[str, Any]) -> None:
    """A disk that takes no checkpoint costs nothing but the way back to it."""
    try:
        checkpoints.save(state)
    except OSError as error:
        log.warning("no checkpoint: %s", error)


def _opening(prepared: trial.PreparedTrial, curve: list[Epoch]) -> TrialStarted:
    return TrialStarted(
        facts=prepared.metrics,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        masks=pruning.pack_masks(prepared.masks),
        layers=pruning.layer_table(prepared.masks),
        curve=list(curve),
        dataset=data.identify(prepared.trial.dataset, prepared.trial.data_root),
    )


def _cause(error: Exception) -> Cause | None:
    """Why the attempt, not the trial, failed; None where it is the trial's own fault."""
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return "memory"
    # a process that reads data may be killed as a worker may
    if ("DataLoader worker" in text and "killed" in text) or isinstance(error, torch.AcceleratorError) or _poisoned():
        return "lost"
    return None


def _poisoned() -> bool:
    """Whether an error on the GPU, of whatever library, has left this process without the use of it."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except Exception:  # each library has its own error
        return True
    return False


def _keep_memory() -> None:
    """Let glibc keep what torch gives back: a step frees and asks for the same tensors, page by page, as it goes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, most in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(option, most)


@contained()
def read_data(places: list[dict[str, Any]], folder: str) -> None:
    """Load the data set of each place, its `dataset` and `data_root`. Raises InputError where one is not there."""
    settle(folder, 1)
    for place in places:
        data.load(place["dataset"], place.get("data_root"))


def settle(folder: str, threads: int) -> None:
    """Take this process to the driver's folder, with as many threads as the trial has cores."""
    find_in(folder)
    if Path(folder).is_dir():  # not on another machine
        os.chdir(folder)
    torch.set_num_threads(threads)
    _keep_memory()
    torch.backends.cudnn.deterministic = True

"""The worker's part of a search: one attempt at a trial, reported epoch by epoch.

This module knows neither Ray nor MLflow's runs.
"""

import ctypes
import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from forcetune import data, pruning, training, trial
from forcetune.containment import ProcessEndError, contained
from forcetune.ledger.checkpoints import Checkpoints, SupersededError
from forcetune.ledger.messages import Assignment, Cause, LostError, Report, TrialStarted
from forcetune.names import NETWORK_FILE, add_import_folder
from forcetune.study import COST_METRICS
from forcetune.tracking import Epoch, fetch_masks

log = logging.getLogger(__name__)

NVIDIA_DRIVER_FILE = Path("/proc/driver/nvidia/version")
LEAVING_REASON = "its node is about to be switched off; the trial goes on elsewhere from its checkpoint"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # the values in malloc.h


def execute(
    assignment: Assignment,
    is_node_leaving: Callable[[], bool] = lambda: False,
    group: training.ProcessGroup | None = None,
    share_state: Callable[[trial.TrialRun], None] = lambda trial_run: None,
) -> Iterator[Report]:
    """Run a trial from its last checkpoint on.

    An exception of the trial itself becomes the outcome `failed`, and the worker lives on for the next trial. Where its
    node has notice of its end, the attempt ends after the next epoch with a checkpoint, if it can leave one that
    another node reads.

    Args:
        assignment: The attempt at the trial.
        is_node_leaving: Returns whether the node has notice of its end.
        group: The processes that train the trial together, of which this one is the first; None where it trains
            the trial alone.
        share_state: Called with the trial before the first report, if the trial is trained from there on. The other
            processes go on from its state.

    Yields:
        The reports of the trial, in the order of its epochs.

    Raises:
        LostError: This process is of no more use.
        SupersededError: The trial was given to another worker.
    """
    set_up_process(assignment.folder, assignment.threads)
    checkpoints, saved = _claim(assignment)
    yield from _report_errors(_run(assignment, checkpoints, saved, is_node_leaving, group, share_state))


def follow(assignment: Assignment, state: dict[str, Any], group: training.ProcessGroup) -> Iterator[Report]:
    """Train a process's share of a trial that the first process of its group executes.

    Args:
        assignment: The attempt at the trial.
        state: The state of the trial in the first process, as `TrialRun.state_dict` returned it there.
        group: The processes that train the trial together.

    Yields:
        An empty report at the beginning and after each epoch; one with the outcome `failed` where the trial fails here.

    Raises:
        LostError: This process is of no more use.
    """
    set_up_process(assignment.folder, assignment.threads)
    yield from _report_errors(_follow(assignment, state, group))


def _follow(assignment: Assignment, state: dict[str, Any], group: training.ProcessGroup) -> Iterator[Report]:
    trial_run = trial.resume(assignment.trial, state, assignment.task, group)
    yield Report()
    for _ in trial_run:
        yield Report()


def _report_errors(reports: Iterator[Report]) -> Iterator[Report]:
    """Yield reports; an exception of the trial becomes the last one, one of the worker a LostError."""
    metrics: dict[str, float] = {}
    try:
        while report := _next_report(reports):
            metrics = report.metrics or metrics
            yield report
    except (SupersededError, LostError):
        raise
    except ProcessEndError as error:
        yield Report(metrics, outcome="failed", reason=str(error), trace=tuple(traceback.format_exc().splitlines()))
    except Exception as error:  # the user's model, data or method may raise anything
        reason = f"{type(error).__name__}: {error}"
        if cause := _find_cause(error):
            raise LostError(cause, reason) from None
        yield Report(metrics, outcome="failed", reason=reason, trace=tuple(traceback.format_exc().splitlines()))


@contained()
def _next_report(reports: Iterator[Report]) -> Report | None:
    return next(reports, None)


def _claim(assignment: Assignment) -> tuple[Checkpoints, dict[str, Any] | None]:
    """Put the attempt in force, and return its checkpoints with the state from which it goes on, if there is one.

    Raises:
        LostError: The store of the checkpoints does not answer: the trial would start anew although it has one.
        SupersededError: A later attempt is in force.
    """
    try:
        checkpoints = Checkpoints(assignment.checkpoints, assignment.attempt, assignment.trial.key)
        checkpoints.claim()
        return checkpoints, checkpoints.newest()
    except OSError as error:
        raise LostError("node", f"this machine cannot reach the checkpoints of the trial: {error}") from None


def _run(
    assignment: Assignment,
    checkpoints: Checkpoints,
    saved: dict[str, Any] | None,
    is_node_leaving: Callable[[], bool],
    group: training.ProcessGroup | None,
    share_state: Callable[[trial.TrialRun], None],
) -> Iterator[Report]:
    if saved:
        trial_run = trial.resume(assignment.trial, saved["trial"], assignment.task, group)
    else:
        fetch = partial(fetch_masks, uri=assignment.mlflow_uri)
        trial_run = trial.TrialRun(trial.prepare(assignment.trial, assignment.task, fetch), group)
    prepared = trial_run.prepared
    curve = [Epoch(*values) for values in saved["curve"]] if saved else []
    files = {} if trial_run.has_rule else _pack_files(trial_run)  # masks that a rule changes follow once they settle
    is_over = bool(saved) and curve[-1].step == trial_run.total_epochs
    if not is_over and (saved or not prepared.untrained_outcome):
        share_state(trial_run)
    yield Report(trial_started=_describe_start(trial_run, curve), files=files)
    has_sent_masks = not trial_run.has_rule
    if is_over:  # the driver did not receive the last report
        yield _report_end(assignment, trial_run, {**prepared.metrics, **curve[-1].metrics})
    for metrics in trial_run:
        step = int(metrics["epoch"])
        is_last = step in (0, trial_run.total_epochs)
        curve.append(Epoch(step, int(time.time() * 1000), _select_logged_metrics(metrics, is_last)))
        is_leaving = trial_run.is_resumable and checkpoints.is_reachable and not is_last and is_node_leaving()
        if step and trial_run.is_resumable and (is_last or is_leaving or checkpoints.is_due()):
            _save(checkpoints, {"trial": trial_run.state_dict(), "curve": [epoch.plain() for epoch in curve]})
        all_metrics = {**prepared.metrics, **metrics}
        if is_last:
            yield _report_end(assignment, trial_run, all_metrics, curve[-1])
        else:
            files = {} if has_sent_masks or not metrics["settled"] else _pack_files(trial_run)
            has_sent_masks |= bool(files)
            yield Report(all_metrics, curve[-1], files=files)
        if is_leaving:
            raise LostError("leaving", LEAVING_REASON)


def _report_end(
    assignment: Assignment, trial_run: trial.TrialRun, metrics: dict[str, float], epoch: Epoch | None = None
) -> Report:
    """Return the last report of a trial, with its weights, and its masks where they have changed since the first one.

    The worker sends the weights to the driver, and the driver writes them: the worker does not know what is on the
    front, and need not have a folder that the driver can read.
    """
    outcome, reason = trial_run.prepared.outcome
    files = _pack_files(trial_run) if trial_run.has_rule else {}
    if assignment.sends_weights and outcome == "trained":
        files |= _pack_weights(trial_run)
    return Report(metrics, epoch, outcome=outcome, reason=reason, files=files)


def _pack_weights(trial_run: trial.TrialRun) -> dict[str, bytes]:
    """Return the file of the trained network; none where a network of the user's own has tensors that no file takes."""
    try:
        return {NETWORK_FILE: trial_run.pack_weights()}
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        if _find_cause(error):
            raise
        log.warning("the weights of the trial are not kept: %s", error)
        return {}


def _select_logged_metrics(metrics: dict[str, float], is_last: bool) -> dict[str, float]:
    """Return the metrics of an epoch that are logged; the cost of the training is logged only at the last epoch."""
    left_out = {"epoch"} if is_last else {"epoch", *COST_METRICS}
    return {name: value for name, value in metrics.items() if name not in left_out}


def _save(checkpoints: Checkpoints, state: dict[str, Any]) -> None:
    """Save a checkpoint; where the disk takes none the trial goes on without it."""
    try:
        checkpoints.save(state)
    except OSError as error:
        log.warning("no checkpoint was saved: %s", error)


def _describe_start(trial_run: trial.TrialRun, curve: list[Epoch]) -> TrialStarted:
    prepared = trial_run.prepared
    return TrialStarted(
        static_metrics=dict(prepared.metrics),  # they change at the end where a rule changes the masks
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        curve=list(curve),
        epochs=trial_run.total_epochs,
        dataset=asdict(data.identify(prepared.trial.dataset, prepared.trial.data_root)),
        driver=_read_driver_version() if torch.cuda.is_available() else None,
    )


def _read_driver_version() -> str | None:
    """Return the version of Nvidia's driver, which Linux reports; None on other systems."""
    try:
        text = NVIDIA_DRIVER_FILE.read_text("utf-8", "replace")
    except OSError:
        return None
    version = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", text)
    return version[1] if version else None


def _pack_files(trial_run: trial.TrialRun) -> dict[str, bytes]:
    """Return the files of a trial: its masks, the table of its layers and, where a rule changes masks, their trail."""
    masks = trial_run.masks
    files = {
        "masks.npz": pruning.pack_masks(masks),
        "layers.json": json.dumps(pruning.layer_table(masks), indent=1).encode(),
    }
    return files | ({"trail.json": json.dumps(trial_run.trail).encode()} if trial_run.trail else {})


def _find_cause(error: Exception) -> Cause | None:
    """Return the cause of a failure of the attempt; None where the trial itself has failed."""
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return "memory"
    # the system may kill a process that reads data, as it may kill a worker
    if (
        ("DataLoader worker" in text and "killed" in text)
        or isinstance(error, torch.AcceleratorError | training.LostProcessError)
        or _is_gpu_broken()
    ):
        return "lost"
    return None


def _is_gpu_broken() -> bool:
    """Return whether an error on the GPU, of any library, has left the GPU useless to this process."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except Exception:  # each library raises an error of its own
        return True
    return False


def _keep_memory() -> None:
    """Let glibc keep the memory that torch frees, since each training step frees and allocates the same tensors.

    Otherwise the system takes and gives that memory page by page.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, size in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(option, size)


@contained()
def read_data(sources: list[dict[str, Any]], folder: str) -> None:
    """Load each data set, to see that it is there.

    Args:
        sources: The `dataset` of each data set, and its `data_root` where the study has one.
        folder: The driver's folder.

    Raises:
        InputError: A data set is not there.
    """
    set_up_process(folder, 1)
    for source in sources:
        data.load(source["dataset"], source.get("data_root"))


def set_up_process(folder: str, threads: int) -> None:
    """Prepare this process for a trial: the driver's folder, the number of threads, deterministic kernels.

    Args:
        folder: The driver's folder, which becomes the current one where this machine has it.
        threads: The number of torch's threads: as many as the trial has cores.
    """
    add_import_folder(folder)
    if Path(folder).is_dir():  # not on another machine
        os.chdir(folder)
    torch.set_num_threads(threads)
    _keep_memory()
    torch.backends.cudnn.deterministic = True

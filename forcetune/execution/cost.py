"""The predicted cost of a search, from a few measured seconds of its slowest and its fastest trial."""

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from forcetune import trial
from forcetune.execution.placement import resolve_on_this_machine
from forcetune.formats import duration
from forcetune.search.printing import print_line
from forcetune.search.stopping import estimate_trained_share
from forcetune.state_files import write_whole
from forcetune.stores import get_cost_file, ray_address
from forcetune.study import ResolvedResources, Study, Task, Trial
from forcetune.tracking import fetch_masks

log = logging.getLogger(__name__)

MAX_CONFIGURATIONS = 256  # that stand for the whole space
TIMED_STEPS = 8  # of training
RAY_START_S = 15.0  # until Ray's first trial runs
TRIAL_OVERHEAD_S = 0.1  # of a trial beside its pruning and training: benchmarks/overhead.py


@dataclass(frozen=True)
class Cost:
    """The predicted cost of a study.

    Attributes:
        device: The device on which the trials were measured.
        trials: The number of trials of the study.
        at_once: The number of trials that run at once.
        fastest: The time of the fastest trial, trained to its end, in seconds.
        slowest: The time of the slowest trial, trained to its end, in seconds.
        mean: The mean time of a trial, trained to its end, in seconds.
        hours: The duration of the search, less what early stopping saves on average.
        device_hours: The device hours of all trials, less what early stopping saves on average.
    """

    device: str
    trials: int
    at_once: int
    fastest: float
    slowest: float
    mean: float
    hours: float
    device_hours: float


def predict(study: Study) -> Cost:
    """Predict the cost of a study, and keep the prediction beside the ledger for `report`.

    It measures the trials with the least and the most multiply-adds, and interpolates between them. Raises what a trial
    may raise.
    """
    resources = resolve_on_this_machine(study)
    sample = list(islice(_draw_configurations(study), MAX_CONFIGURATIONS))
    work = _count_work(sample)
    extremes = [sample[int(np.argmin(work))], sample[int(np.argmax(work))]]
    threads = torch.get_num_threads()
    torch.set_num_threads(min(resources.threads, os.cpu_count() or 1))
    try:
        _measure_seconds(extremes[0], study.task, 1)  # the first call loads and builds what is no cost of a trial
        extreme_seconds = [_measure_seconds(extreme, study.task, resources.processes) for extreme in extremes]
    finally:
        torch.set_num_threads(threads)
    durations = np.interp(work, [min(work), max(work)], extreme_seconds)
    mean, at_once = float(durations.mean()), _count_concurrent_trials(resources)
    trained = study.trials * estimate_trained_share(study.stopping, study.trials)
    seconds = mean * trained + TRIAL_OVERHEAD_S * study.trials
    cost = Cost(
        torch.cuda.get_device_name() if torch.cuda.is_available() else "this machine's cpu",
        study.trials,
        at_once,
        min(extreme_seconds),  # a trial with fewer multiply-adds may take longer
        max(extreme_seconds),
        mean,
        (RAY_START_S + seconds / at_once) / 3600,
        resources.devices * seconds / 3600,
    )
    _keep(study, cost)
    return cost


def _keep(study: Study, cost: Cost) -> None:
    path = get_cost_file(study.study)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(cost)).encode())
    except OSError as error:
        log.warning(
            "the search cannot be compared with this prediction: %s cannot be written (%s)", path, error.strerror
        )


def report(study: Study, hours: float, console: Console) -> None:
    """Print the duration of a search beside its prediction; nothing where none was made for its number of trials.

    Args:
        study: The study.
        hours: The measured duration of the search.
        console: Where the line is printed.
    """
    cost = _read(get_cost_file(study.study))
    if cost and cost.trials == study.trials:
        deviation = cost.hours / hours - 1
        took, predicted = (duration(3600 * value) for value in (hours, cost.hours))
        message = f"the search took {took}; `forcetune check` predicted {predicted} ({deviation:+.0%})"
        print_line(console, message)


def _read(path: Path) -> Cost | None:
    """Return a prediction that was kept; None where there is none, or one that another version wrote."""
    try:
        return Cost(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _draw_configurations(study: Study) -> Iterator[Trial]:
    """Yield the grid's trials in random order, or trials of a random search without end."""
    if study.search.sampler == "grid":
        grid = list(study.grid())
        generator = np.random.default_rng(0)
        yield from (grid[i] for i in generator.permutation(len(grid)))
        return
    from forcetune.search.proposals import SampledProposals

    at_random = study.model_copy(update={"search": study.search.model_copy(update={"sampler": "random"})})
    proposals = SampledProposals(at_random, [])
    while proposal := proposals.ask():
        yield proposal.trial


def _count_work(trials: list[Trial]) -> list[float]:
    """Return the multiply-adds to prune and train each dense network; a backward pass counts as two forward passes."""
    work = []
    for configuration, description in zip(trials, trial.check_trials(trials), strict=True):
        fields = configuration.fields()
        samples = fields.get("iterations", 1) * fields.get("batches_per_step", 0) * configuration.saliency_batch_size
        passes = configuration.count_passes(description["training"])
        work.append(
            description["macs"] * (3 * samples + passes * (3 * description["training"] + description["validation"]))
        )
    return work


def _measure_seconds(configuration: Trial, task: Task, processes: int) -> float:
    """Return the seconds that a trial takes, from a few of its pruning and training steps in this process."""
    unconstrained_task = replace(task, constraints={})
    unscreened = configuration.model_copy(update={"screen": False})
    trial.clear_pruning_caches()
    started = time.perf_counter()
    prepared = trial.prepare(_with_iterations(unscreened, 1), unconstrained_task, fetch_masks)
    pruning = time.perf_counter() - started
    if configuration.fields().get("iterations", 1) > 1:
        trial.clear_pruning_caches()
        restarted = time.perf_counter()
        trial.prepare(_with_iterations(unscreened, 2), unconstrained_task, fetch_masks)
        pruning += (time.perf_counter() - restarted - pruning) * (configuration.iterations - 1)
    epoch_seconds = trial.measure_epoch_seconds(prepared, TIMED_STEPS, processes)
    return max(pruning, 0.0) + configuration.count_passes(len(prepared.training)) * epoch_seconds


def _with_iterations(configuration: Trial, iterations: int) -> Trial:
    return configuration.model_copy(update={"iterations": iterations})


def _count_concurrent_trials(resources: ResolvedResources) -> int:
    """Return the number of trials that run at once: those that fit here, or on a cluster what `concurrent` says."""
    fitting = resources.count_fitting(os.cpu_count() or 1, torch.cuda.device_count())
    if ray_address():
        fitting = resources.concurrent or fitting
    return max(1, min(fitting, resources.concurrent or fitting))

"""What a search will cost, predicted from a few measured seconds of its slowest and its fastest trial."""

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
from forcetune.search.placement import on_this_machine
from forcetune.search.stopping import share_trained
from forcetune.spec import ResolvedResources, Study, Task, Trial
from forcetune.stores import optuna_uri, ray_address, state_folder
from forcetune.times import duration

log = logging.getLogger(__name__)

DRAWS = 256  # configurations that stand for the whole space
STEPS = 8  # of training that are measured
START = 15.0  # seconds until Ray's first trial runs
BESIDE = 0.1  # seconds a trial beside its pruning and training: benchmarks/overhead.py


@dataclass(frozen=True)
class Cost:
    """Of a study: trials, at once; seconds of the fastest, the slowest and the mean trial, trained to its end.

    device: on which they were measured; hours: of the search; device_hours: of all trials; both with what early
    stopping saves on average.
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
    """Measure and keep the prediction beside the ledger for `report`. Raises what a trial may raise."""
    resources = on_this_machine(study)
    drawn = list(islice(_configurations(study), DRAWS))
    work = _work(drawn)
    ends = [drawn[int(np.argmin(work))], drawn[int(np.argmax(work))]]
    torch.set_num_threads(max(1, int(min(resources.cpus, os.cpu_count() or 1))))
    _seconds(ends[0], study.task)  # what is loaded and built for the first time is not the trial's
    fastest, slowest = (_seconds(end, study.task) for end in ends)
    each = np.interp(work, [min(work), max(work)], [fastest, slowest])
    mean, at_once = float(each.mean()), _at_once(resources)
    trained = study.trials * share_trained(study.stopping, study.trials)
    seconds = mean * trained + BESIDE * study.trials
    cost = Cost(
        torch.cuda.get_device_name() if torch.cuda.is_available() else "this machine's cpu",
        study.trials,
        at_once,
        fastest,
        slowest,
        mean,
        (START + seconds / at_once) / 3600,
        (resources.gpus or resources.cpus) * seconds / 3600,
    )
    _keep(study, cost)
    return cost


def _keep(study: Study, cost: Cost) -> None:
    path = cost_file(study.study)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(cost)))
    except OSError as error:
        log.warning("the search will not be held against this cost: %s cannot be written (%s)", path, error.strerror)


def report(study: Study, hours: float, console: Console) -> None:
    """Print what the search took beside what was predicted, where it was."""
    path = cost_file(study.study)
    if path.exists() and (cost := Cost(**json.loads(path.read_text()))).trials == study.trials:
        off = cost.hours / hours - 1
        took, predicted = (duration(3600 * each) for each in (hours, cost.hours))
        told = f"searched for {took}; `forcetune check` had predicted {predicted} ({off:+.0%})"
        console.print(told, soft_wrap=True, highlight=False)


def cost_file(study: str) -> Path:
    """Where the prediction of a study is kept."""
    return state_folder(optuna_uri()) / f"{study}.cost.json"


def _configurations(study: Study) -> Iterator[Trial]:
    """The grid's trials, or as many drawn at random as somebody asks for."""
    if study.search.sampler == "grid":
        everything = list(study.grid())
        generator = np.random.default_rng(0)
        yield from (everything[i] for i in generator.permutation(len(everything)))
        return
    from forcetune.search.proposals import Sampled

    at_random = study.model_copy(update={"search": study.search.model_copy(update={"sampler": "random"})})
    proposals = Sampled(at_random, [])
    while proposal := proposals.ask():
        yield proposal.trial


def _work(trials: list[Trial]) -> list[float]:
    """The multiply-adds of pruning and training each network once dense, a backward pass taken for two forward."""
    found = []
    for one, known in zip(trials, trial.check_each(trials), strict=True):
        fields = one.fields()
        samples = fields.get("iterations", 1) * fields.get("batches_per_step", 0) * one.saliency_batch_size
        found.append(known["macs"] * (3 * samples + one.epochs * (3 * known["training"] + known["validation"])))
    return found


def _seconds(one: Trial, task: Task) -> float:
    """What one trial takes, from a few of its pruning and training steps."""
    unbound = replace(task, constraints={})
    whole = one.model_copy(update={"screen": False})
    trial.forget()
    started = time.perf_counter()
    prepared = trial.prepare(_pruned_in(whole, 1), unbound)
    pruning = time.perf_counter() - started
    if one.fields().get("iterations", 1) > 1:
        trial.forget()
        two = time.perf_counter()
        trial.prepare(_pruned_in(whole, 2), unbound)
        pruning += (time.perf_counter() - two - pruning) * (one.iterations - 1)
    return max(pruning, 0.0) + one.epochs * trial.seconds_an_epoch(prepared, STEPS)


def _pruned_in(one: Trial, iterations: int) -> Trial:
    return one.model_copy(update={"iterations": iterations})


def _at_once(resources: ResolvedResources) -> int:
    """Trials that fit beside one another, of a cluster as many as the study says."""
    fit = int((os.cpu_count() or 1) / resources.cpus + 1e-9)
    if resources.gpus:
        fit = min(fit, int(torch.cuda.device_count() / resources.gpus + 1e-9))
    if ray_address():
        fit = resources.concurrent or fit
    return max(1, min(fit, resources.concurrent or fit))

"""`gpus: auto`: how many trials share a GPU, by what a probe of the largest was seen to need of its memory."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from pathlib import Path

import torch

from forcetune import trial
from forcetune.containment import contained
from forcetune.errors import InputError
from forcetune.search.worker import settle
from forcetune.spec import AUTO, ResolvedResources, Resources, Study, Task, Trial
from forcetune.training.captured import KEPT

NETWORK = ["dataset", "data_root", "model", "width"]
PRUNED = [*NETWORK, "method", "saliency_batch_size", "samples_per_class", "inner_steps"]
TRAINED = [*NETWORK, "batch_size", "optimizer", "momentum", "weight_decay", "clip_norm", "precision"]
TOGETHER = KEPT + 1  # trainings whose memory a worker may hold: those it keeps, and the one under way
SPARE = 10  # percent of a GPU's memory, for what else trials differ in
MOST = 100  # trials on one GPU: shares of more are too much alike in the four decimals that Ray keeps
STEPS = 8  # of training and of validation, in each of two passes


@dataclass(frozen=True)
class Probe:
    """What is run to see what a trial needs: some configurations are pruned, then some are trained for a few steps."""

    pruned: list[Trial]
    trained: list[Trial]
    task: Task
    folder: str  # of the driver: relative data roots and the user's modules are found from it
    threads: int


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU: those in use while a trial is there, by whomever, and all that it has."""

    used: int
    total: int

    @property
    def trials(self) -> int:
        """How many it holds, at least one."""
        return max(1, (100 - SPARE) * self.total // (100 * self.used))


def largest(study: Study) -> Probe:
    """Each method's largest configuration in pruning, and the few largest in training, ends of ranges included.

    Large is what takes many multiply-adds of a dense network times images at once. Raises InputError where a
    network does not fit its data.
    """
    pruned, trained = _configurations(study, PRUNED), _configurations(study, TRAINED)
    both = [*pruned, *trained]
    facts = dict(zip(both, trial.check_each(both), strict=True))

    def in_pruning(one: Trial) -> int:
        images = one.balanced * facts[one]["classes"] or one.saliency_batch_size
        return int(facts[one]["macs"] * images * (1 + (one.inner_steps or 0)))

    def in_training(one: Trial) -> int:
        return int(facts[one]["macs"] * one.batch_size)

    of_method = {one.method: one for one in sorted(pruned, key=in_pruning)}
    return Probe(
        pruned=list(of_method.values()),
        trained=sorted(trained, key=in_training)[-TOGETHER:],
        task=replace(study.task, constraints={}),
        folder=str(Path.cwd()),
        threads=max(1, int(study.resources.cpus)),
    )


def _configurations(study: Study, names: Iterable[str]) -> list[Trial]:
    """Those that differ in these fields; at random weights of the highest density hardly a channel is dead."""
    written = [name for name in names if name in study.space]
    fixed = {"method": "random", "density": max(study.space["density"].values), "iterations": 2, "screen": False}
    found = (
        Trial(**{**fixed, **{name: fields[name] for name in written if name in fields}})
        for fields in study.combinations(written)
    )
    return list(dict.fromkeys(found))


@contained()
def measure(probe: Probe) -> Memory:
    """Run the probe in this process and look at its GPU while all that was taken for it is still held.

    That is what a worker comes to hold, which runs one trial after the other. A trial that finds too little memory
    needs all there is. Raises InputError where torch sees no GPU, and what a trial may raise.
    """
    settle(probe.folder, probe.threads)
    if not torch.cuda.device_count():
        raise InputError("torch sees no GPU in a process that has one to itself")
    try:
        for one in probe.pruned:
            trial.prepare(one, probe.task)
        for one in probe.trained:
            trial.seconds_an_epoch(trial.prepare(one, probe.task), STEPS)
    except torch.OutOfMemoryError:
        _, total = torch.cuda.mem_get_info()
        return Memory(total, total)
    free, total = torch.cuda.mem_get_info()
    return Memory(total - free, total)


def sharing(memory: Memory, resources: Resources, nodes: Sequence[Mapping[str, float]]) -> int:
    """Trials on each GPU: as many as its memory holds, and no more than cores and `concurrent` let run at once.

    Else each would count as less of a GPU than it has, and one GPU be full while another has none.

    nodes: "CPU" and "GPU" of each, as Ray counts them; at least one has a GPU.
    """
    with_gpu = [(node.get("CPU", 0), node["GPU"]) for node in nodes if node.get("GPU")]
    at_once = max(ceil(int(cpus / resources.cpus + 1e-9) / gpus) for cpus, gpus in with_gpu)
    if resources.concurrent:
        at_once = min(at_once, ceil(resources.concurrent / sum(gpus for _, gpus in with_gpu)))
    return max(1, min(memory.trials, at_once, MOST))


def share(trials: int) -> float:
    """Of a GPU for each of so many trials, in the four decimals that Ray keeps."""
    return floor(10_000 / trials) / 10_000


def told(trials: int, memory: Memory) -> str:
    """One line on what the probe found, and what is made of it."""
    found = f"{trials} trials share a GPU" if trials > 1 else "a trial has a GPU to itself"
    more = f" (its memory would hold {memory.trials})" if memory.trials > trials else ""
    used, total = memory.used / 2**30, memory.total / 2**30
    return f"resources: {found}{more}: one was seen to need {used:.1f} of its {total:.1f} GiB"


def placed(resources: Resources, gpus: float) -> ResolvedResources:
    """The same resources with so many GPUs a trial."""
    return ResolvedResources(**{**resources.model_dump(), "gpus": gpus})


def on_this_machine(study: Study) -> ResolvedResources:
    """What a trial occupies here, where no Ray is asked. Raises as `measure` does."""
    resources = study.resources
    if resources.gpus != AUTO:
        return placed(resources, resources.gpus)
    if not (gpus := torch.cuda.device_count()):
        return placed(resources, 0)
    trials = sharing(measure(largest(study)), resources, [{"CPU": os.cpu_count() or 1, "GPU": gpus}])
    return placed(resources, share(trials))

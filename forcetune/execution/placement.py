"""The share of a GPU for each trial (`gpus: auto`), from the memory that a probe of the largest trials needs."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from pathlib import Path

import torch

from forcetune import trial
from forcetune.containment import contained
from forcetune.errors import InputError
from forcetune.execution.worker import set_up_process
from forcetune.study import AUTO, Effect, ResolvedResources, Resources, Study, Task, Trial, count_whole, select_fields
from forcetune.training.captured import KEPT_GRAPHS

TRAININGS_IN_MEMORY = KEPT_GRAPHS + 1  # at most in a worker: those whose graphs it keeps, and the current one
SPARE_MEMORY_PERCENT = 10  # of a GPU's memory, since trials differ in more than the probe tries
MAX_TRIALS_PER_GPU = 100  # with more, the shares do not differ enough in the four decimals that Ray keeps
PROBE_STEPS = 8  # of training and of validation, in each of two passes


@dataclass(frozen=True)
class Probe:
    """The trials by which the memory of a trial is measured.

    Attributes:
        pruned: Configurations that are pruned.
        trained: Configurations that are then trained for a few steps.
        task: The study's task, without its constraints.
        folder: The driver's folder, from which relative data roots and the user's modules are found.
        threads: The number of torch's threads.
    """

    pruned: list[Trial]
    trained: list[Trial]
    task: Task
    folder: str
    threads: int


@dataclass(frozen=True)
class Memory:
    """The memory of one GPU.

    Attributes:
        used: The bytes in use while a trial runs there, those of other processes included.
        total: All its bytes.
    """

    used: int
    total: int

    @property
    def max_trials(self) -> int:
        """The number of trials whose memory the GPU holds, at least one."""
        return max(1, (100 - SPARE_MEMORY_PERCENT) * self.total // (100 * self.used))


def plan_probe(study: Study) -> Probe:
    """Return the probe of a study: each method's largest configuration in pruning, and the few largest in training.

    The size of a configuration is the multiply-adds of its dense network times the images of a batch. The ends of
    ranges are among the configurations.

    Raises:
        InputError: A network does not fit its data.
    """
    pruned, trained = (
        _list_configurations(study, select_fields(effect)) for effect in (Effect.PRUNING_MEMORY, Effect.TRAINING_MEMORY)
    )
    configurations = [*pruned, *trained]
    descriptions = dict(zip(configurations, trial.check_trials(configurations), strict=True))

    def compute_pruning_size(configuration: Trial) -> int:
        images = (
            configuration.saliency_samples_per_class * descriptions[configuration]["classes"]
            or configuration.saliency_batch_size
        )
        return int(descriptions[configuration]["macs"] * images * (1 + (configuration.inner_steps or 0)))

    def compute_training_size(configuration: Trial) -> int:
        return int(descriptions[configuration]["macs"] * configuration.batch_size)

    largest_by_method = {
        configuration.method: configuration for configuration in sorted(pruned, key=compute_pruning_size)
    }
    return Probe(
        pruned=list(largest_by_method.values()),
        trained=sorted(trained, key=compute_training_size)[-TRAININGS_IN_MEMORY:],
        task=replace(study.task, constraints={}),
        folder=str(Path.cwd()),
        threads=study.resources.threads,
    )


def _list_configurations(study: Study, names: Iterable[str]) -> list[Trial]:
    """Return the configurations that differ in these fields.

    By default the weights are pruned at random, at the study's highest density, which leaves almost no channel dead.
    """
    written = [name for name in names if name in study.space]
    fixed = {"method": "random", "density": max(study.space["density"].values), "iterations": 2, "screen": False}
    configurations = (
        Trial(**{**fixed, **{name: fields[name] for name in written if name in fields}})
        for fields in study.combinations(written)
    )
    return list(dict.fromkeys(configurations))


@contained()
def measure_memory(probe: Probe) -> Memory:
    """Run the probe in this process, and measure its GPU while all memory that the probe took is still held.

    A worker comes to hold as much, since it runs one trial after the other. A trial that runs out of memory counts as
    one that needs the whole GPU. Raises what a trial may raise, too.

    Raises:
        InputError: Torch sees no GPU.
    """
    set_up_process(probe.folder, probe.threads)
    if not torch.cuda.device_count():
        raise InputError("torch finds no GPU in a process to which Ray gave one")
    try:
        for configuration in probe.pruned:
            trial.prepare(configuration, probe.task)
        for configuration in probe.trained:
            trial.measure_epoch_seconds(trial.prepare(configuration, probe.task), PROBE_STEPS)
    except torch.OutOfMemoryError:
        _, total = torch.cuda.mem_get_info()
        return Memory(total, total)
    free, total = torch.cuda.mem_get_info()
    return Memory(total - free, total)


def count_trials_per_gpu(memory: Memory, resources: Resources, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return the number of trials that share a GPU.

    They are as many as its memory holds, and no more than the cores and `concurrent` let run at once. With a larger
    number each trial would count as less of a GPU than it has, and Ray would fill one GPU and leave another one empty.

    Args:
        memory: The memory of one GPU.
        resources: The study's resources.
        nodes: The "CPU" and "GPU" of each node, as Ray counts them; at least one node has a GPU.
    """
    with_gpu = [(node.get("CPU", 0), node["GPU"]) for node in nodes if node.get("GPU")]
    at_once = max(ceil(count_whole(cpus, resources.cpus) / gpus) for cpus, gpus in with_gpu)
    if resources.concurrent:
        at_once = min(at_once, ceil(resources.concurrent / sum(gpus for _, gpus in with_gpu)))
    return max(1, min(memory.max_trials, at_once, MAX_TRIALS_PER_GPU))


def compute_gpu_share(trials: int) -> float:
    """Return the share of a GPU for each trial, where `trials` share it, in the four decimals that Ray keeps."""
    return floor(10_000 / trials) / 10_000


def describe_probe(trials: int, memory: Memory) -> str:
    """Return one line for the user on what the probe measured, and on how many trials share a GPU."""
    decision = f"{trials} trials share a GPU" if trials > 1 else "a trial has a GPU to itself"
    more = f" (its memory would hold {memory.max_trials})" if memory.max_trials > trials else ""
    used, total = memory.used / 2**30, memory.total / 2**30
    return f"resources: {decision}{more}: a trial needs {used:.1f} of {total:.1f} GiB (measured)"


def describe_unused_gpus(gpus: float) -> str:
    """Return one line for the user whose trials have more GPUs than forcetune's training uses in one process."""
    return (
        f"resources: a trial has {gpus:g} GPUs and one process, whose training uses one of them; `processes: {gpus:g}` "
        "trains it on all"
    )


def resolve_gpus(resources: Resources, gpus: float) -> ResolvedResources:
    """Return the resources with this number of GPUs for each trial."""
    return ResolvedResources(**{**resources.model_dump(), "gpus": gpus})


def resolve_on_this_machine(study: Study) -> ResolvedResources:
    """Return the resources of a trial on this machine, without Ray. Raises as `measure_memory` does."""
    resources = study.resources
    if resources.gpus != AUTO:
        return resolve_gpus(resources, resources.gpus)
    if not (gpus := torch.cuda.device_count()):
        return resolve_gpus(resources, 0)
    trials = count_trials_per_gpu(
        measure_memory(plan_probe(study)), resources, [{"CPU": os.cpu_count() or 1, "GPU": gpus}]
    )
    return resolve_gpus(resources, compute_gpu_share(trials))

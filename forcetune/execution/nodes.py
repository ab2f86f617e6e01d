"""The nodes of a Ray: what a trial gets of them, how many trials fit, and whether the nodes can read the data."""

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import ray
from ray import tune
from ray._private import state as _ray_state  # for the nodes that are drained, which ray.nodes() does not tell
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from forcetune.errors import InputError
from forcetune.execution import placement
from forcetune.execution.worker import read_data
from forcetune.search.printing import print_line
from forcetune.study import AUTO, ResolvedResources, Resources, Study, count_whole

ResultT = TypeVar("ResultT")
ArgumentT = TypeVar("ArgumentT")

PROBE_NOTICE_S = 60.0  # after which a user who waits for the probe is told so
DATA_READ_PATIENCE_S = 300.0  # for a node to read the study's data
GPU_TYPE_LABEL = "ray.io/accelerator-type"  # Ray's label of a node with the kind of its GPUs


def resolve_resources(study: Study, console: Console) -> ResolvedResources:
    """Return the resources of a trial in numbers: for `gpus: auto` a probe on a whole GPU measures how many share one.

    Where a cluster has several kinds of GPU, Ray chooses the probe's among those that `gpu_type` allows. A trial that
    runs out of memory is tried again with a larger share.

    Args:
        study: The study.
        console: Where the user reads what the probe measured.

    Raises:
        InputError: Not even one trial fits, or the probe fails.
    """
    resources, nodes = study.resources, _list_node_resources(study.resources.gpu_type)
    if resources.gpus != AUTO:
        if resources.gpus > 1 and resources.processes == 1 and not study.train:
            print_line(console, placement.describe_unused_gpus(resources.gpus))
        return placement.resolve_gpus(resources, resources.gpus)
    if not any(node.get("GPU") for node in nodes) and not resources.gpu_type:
        print_line(console, "resources: no GPU here, trials run on the CPU")
        return placement.resolve_gpus(resources, 0)
    count_slots(placement.resolve_gpus(resources, 1))
    memory = _call_on_gpu(placement.measure_memory, placement.plan_probe(study), resources, console)
    trials = placement.count_trials_per_gpu(memory, resources, nodes)
    print_line(console, placement.describe_probe(trials, memory))
    return placement.resolve_gpus(resources, placement.compute_gpu_share(trials))


def _call_on_gpu(
    call: Callable[[ArgumentT], ResultT], argument: ArgumentT, resources: Resources, console: Console
) -> ResultT:
    """Call a function in a process with a GPU to itself, and return its result.

    The process ends after the call, so that the memory of the GPU is free again.
    """
    selector = _make_label_selector(resources)
    probe = ray.remote(num_gpus=1, num_cpus=resources.cpus, max_calls=1, label_selector=selector)(call)
    reference = probe.remote(argument)
    if not ray.wait([reference], timeout=PROBE_NOTICE_S)[0]:
        print_line(console, "resources: the probe for `gpus: auto` is still running, or waits for a free GPU")
    try:
        result: ResultT = ray.get(reference)
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        raise InputError(
            f"resources.gpus: the probe for `auto` failed: {type(cause).__name__}: {cause}. Fix that error, or set "
            "`gpus` to a number, for which no probe runs (0.5: two trials share a GPU)"
        ) from error
    return result


def _list_nodes(gpu_types: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the living nodes that take trials: those without notice of their end.

    Args:
        gpu_types: The kinds of GPUs of the nodes; empty for all nodes.
    """
    leaving = _ray_state.state.get_draining_nodes()
    return [
        node
        for node in ray.nodes()
        if node["Alive"]
        and node["NodeID"] not in leaving
        and (not gpu_types or node["Labels"].get(GPU_TYPE_LABEL) in gpu_types)
    ]


def _list_node_resources(gpu_types: Collection[str] = ()) -> list[dict[str, float]]:
    return [node["Resources"] for node in _list_nodes(gpu_types)]


def _make_label_selector(resources: Resources) -> dict[str, str]:
    """Return Ray's selector of the nodes whose GPUs are of the study's kinds; empty where it names none."""
    return {GPU_TYPE_LABEL: f"in({','.join(resources.gpu_type)})"} if resources.gpu_type else {}


def count_fitting(resources: ResolvedResources) -> int:
    """Return the number of trials that fit on the living nodes at once."""
    nodes = _list_node_resources(resources.gpu_type)
    if resources.spread:
        return sum(_count_fitting_on(node, resources.per_process) for node in nodes) // resources.processes
    return sum(_count_fitting_on(node, resources) for node in nodes)


def _count_fitting_on(node: Mapping[str, float], resources: ResolvedResources) -> int:
    return resources.count_fitting(node.get("CPU", 0), node.get("GPU", 0))


def count_slots(resources: ResolvedResources) -> int:
    """Return the number of trials that run at once: those that fit, at most `concurrent`.

    Raises:
        InputError: Not even one trial fits.
    """
    fitting = count_fitting(resources)
    if fitting < 1:
        raise InputError(f"resources: {describe_missing(resources)}")
    return min(fitting, resources.concurrent or fitting)


def describe_missing(resources: ResolvedResources) -> str:
    """Return what a trial asks for and no node has, and what the nodes have."""
    nodes = _list_nodes()
    cpus, gpus = (sum(node["Resources"].get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    wanted, kinds = "", ""
    if resources.gpu_type:
        wanted = f" of the kind {' or '.join(resources.gpu_type)}"
        present = sorted({kind for node in nodes if (kind := node["Labels"].get(GPU_TYPE_LABEL))})
        kinds = f", of the kinds {', '.join(present)}" if present else ", of no kind that Ray knows"
    return (
        f"a trial asks for {resources.cpus:g} cpus and {resources.gpus:g} gpus{wanted}, and no node has them; "
        f"Ray has {cpus:g} cpus and {gpus:g} gpus on {len(nodes)} nodes{kinds}"
    )


def find_max_memory_factor(resources: ResolvedResources) -> int:
    """Return the largest multiple of a trial's resources that one node has, for a trial that needs more memory.

    A trial that shares a GPU gets the whole GPU at most. Where a trial may be on several nodes, a process of it counts.
    """
    if resources.spread:
        resources = resources.per_process
    nodes = [node for node in _list_node_resources(resources.gpu_type) if node.get("GPU", 0) >= resources.gpus]
    by_cores = max((count_whole(node.get("CPU", 0), resources.cpus) for node in nodes), default=1)
    return min(by_cores, count_whole(1, resources.gpus) or 1) if resources.gpus else by_cores


def make_request(resources: ResolvedResources, memory_factor: int) -> tune.PlacementGroupFactory:
    """Return the placement group of a trial; where it has several processes, each has a bundle, and its worker none."""
    selector = _make_label_selector(resources)
    if resources.processes > 1:
        process = resources.per_process
        bundle = {"CPU": process.cpus * memory_factor, "GPU": process.gpus}
        strategy = "PACK" if resources.spread else "STRICT_PACK"
        selectors = {"bundle_label_selector": [selector] * resources.processes} if selector else {}
        return tune.PlacementGroupFactory([{}, *[bundle] * resources.processes], strategy=strategy, **selectors)
    gpus = min(resources.gpus * memory_factor, max(resources.gpus, 1))
    return tune.PlacementGroupFactory(
        [{"CPU": resources.cpus * memory_factor, "GPU": gpus}],
        **({"bundle_label_selector": [selector]} if selector else {}),
    )


def start_data_reads(study: Study) -> list[tuple[str, Any]]:
    """Let each node on which a trial fits read the study's data.

    A node reads the data while the driver starts, in a process that goes on as its first worker.

    Returns:
        The address of each node, and Ray's reference to the result of its read, for `check_data_reads`.
    """
    sources = list(study.combinations([name for name in ("dataset", "data_root") if name in study.space]))
    gpus = study.resources.gpus
    resources = placement.resolve_gpus(study.resources, 0 if gpus == AUTO else gpus)
    if resources.spread:
        resources = resources.per_process
    nodes = [node for node in _list_nodes(resources.gpu_type) if _count_fitting_on(node["Resources"], resources)]
    return [(node["NodeManagerAddress"], _make_reader(node["NodeID"]).remote(sources, os.getcwd())) for node in nodes]


def check_data_reads(reads: list[tuple[str, Any]]) -> None:
    """Wait until the nodes have read the study's data. A node that is lost meanwhile is no fault of the study.

    Args:
        reads: What `start_data_reads` returned.

    Raises:
        InputError: A node does not have the data, or does not read them in time; the message has its address.
    """
    for address, reference in reads:
        try:
            ray.get(reference, timeout=DATA_READ_PATIENCE_S)
        except ray.exceptions.GetTimeoutError:
            raise InputError(
                f"the node {address} did not finish reading the study's data within {DATA_READ_PATIENCE_S:g} s"
            ) from None
        except ray.exceptions.RayTaskError as error:
            raise InputError(f"trial.dataset: on the node {address}: {error.cause}") from error
        except ray.exceptions.RayError:
            continue


def _make_reader(node: str) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=strategy)(read_data)

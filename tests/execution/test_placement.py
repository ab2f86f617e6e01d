"""`gpus: auto`: the trials of a probe, the GPU share that follows from their memory, and Ray's placement by it."""

import io

import pytest
import torch
from rich.console import Console

from forcetune.errors import InputError
from forcetune.execution import environment, placement
from forcetune.execution.placement import Memory, compute_gpu_share, count_trials_per_gpu, measure_memory, plan_probe
from forcetune.study import Resources, Study

environment.prepare()  # Ray reads these variables while it is imported

import ray  # noqa: E402

from forcetune.execution import actors, nodes  # noqa: E402

GIB = 2**30
ONE_GPU_NODES = [{"CPU": 16, "GPU": 1}]


def parse_study(resources=None, **fields):
    fixed = {"dataset": "synthetic", "model": "mlp", "width": 12, "method": "snip", "density": [0.1, 0.4]}
    return Study.from_dict(
        {"study": "s", "trial": {**fixed, **fields}, "resources": {"gpus": "auto", **(resources or {})}}
    )


@pytest.mark.parametrize(
    ("used", "trials"),
    [
        (18 * GIB, 7),
        (42 * GIB, 3),
        (63 * GIB, 2),
        (64 * GIB, 1),
        (140 * GIB, 1),
        (GIB // 2, 252),
    ],
)
def test_as_many_trials_share_a_gpu_as_nine_tenths_of_its_memory_hold(used, trials):
    assert Memory(used, 140 * GIB).max_trials == trials


def test_a_gpu_share_places_exactly_that_number_of_trials():
    for trials in range(1, placement.MAX_TRIALS_PER_GPU + 1):
        assert round(compute_gpu_share(trials), 4) == compute_gpu_share(trials)
        assert int(1 / compute_gpu_share(trials)) == trials


@pytest.mark.parametrize(
    ("resources", "nodes", "trials"),
    [
        ({}, ONE_GPU_NODES, 7),
        ({"cpus": 4}, ONE_GPU_NODES, 4),
        ({"cpus": 3}, [{"CPU": 16, "GPU": 2}], 3),
        ({"concurrent": 5}, ONE_GPU_NODES, 5),
        ({"concurrent": 5}, [*ONE_GPU_NODES, *ONE_GPU_NODES, {"CPU": 64}], 3),
        ({"cpus": 16}, ONE_GPU_NODES, 1),
        ({}, [{"CPU": 2, "GPU": 1}, *ONE_GPU_NODES], 7),
    ],
)
def test_no_more_trials_share_a_gpu_than_run_at_once(resources, nodes, trials):
    assert count_trials_per_gpu(Memory(18 * GIB, 140 * GIB), Resources(**resources), nodes) == trials


def test_a_trial_that_needs_almost_no_memory_has_the_smallest_share():
    assert (
        count_trials_per_gpu(Memory(GIB // 10, 140 * GIB), Resources(), [{"CPU": 900, "GPU": 1}])
        == placement.MAX_TRIALS_PER_GPU
    )


def test_a_probe_runs_the_largest_trials():
    probe = plan_probe(
        parse_study(width={"low": 8, "high": 20}, method=["random", "snip"], batch_size=[16, 64, 32], lr=[0.1, 1])
    )
    assert [(trial.method, trial.width, trial.density) for trial in probe.pruned] == [
        ("random", 20, 0.4),
        ("snip", 20, 0.4),
    ]
    assert [(trial.width, trial.batch_size) for trial in probe.trained] == [(8, 64), (20, 32), (20, 64)]


def test_a_probe_has_the_largest_saliency_batch_of_each_method():
    snip_only = {"when": {"method": "snip"}}
    sampled = {"method": ["random", "snip"], "saliency_batch_size": {"choices": [32, 256], **snip_only}}
    fields_by_method = {trial.method: trial.fields() for trial in plan_probe(parse_study(**sampled)).pruned}
    assert fields_by_method.keys() == {"random", "snip"}
    assert fields_by_method["snip"]["saliency_batch_size"] == 256


def test_memory_is_read_once_the_probe_has_run(folder, monkeypatch):
    measured = []
    monkeypatch.setattr(
        placement.trial, "measure_epoch_seconds", lambda prepared, steps: measured.append(prepared.trial)
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (140 * GIB - 10 * GIB * len(measured), 140 * GIB))
    probe = plan_probe(parse_study(batch_size=[16, 32]))
    assert measure_memory(probe) == Memory(20 * GIB, 140 * GIB)
    assert measured == probe.trained

    def too_large(requested, task):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(placement.trial, "prepare", too_large)
    assert measure_memory(probe).max_trials == 1


@pytest.fixture(scope="module")
def two_gpus():
    """Start a Ray that counts two GPUs of the kind A100, which no test uses."""
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=8, num_gpus=2, labels={nodes.GPU_TYPE_LABEL: "A100"}, **options)
    yield
    ray.shutdown()


@pytest.fixture
def out():
    return io.StringIO()


def resolve_on_cluster(study, out):
    return nodes.resolve_resources(study, Console(file=out, width=200))


def test_trials_share_the_gpus_of_a_cluster(two_gpus, monkeypatch, out):
    used_and_total = 42 * GIB, 140 * GIB
    monkeypatch.setattr(
        placement, "measure_memory", lambda probe: Memory(*used_and_total) if ray.get_gpu_ids() else None
    )
    resources = resolve_on_cluster(parse_study(), out)
    assert (resources.gpus, nodes.count_slots(resources), nodes.find_max_memory_factor(resources)) == (0.3333, 6, 3)
    assert "3 trials share a GPU: a trial needs 42.0 of 140.0 GiB" in out.getvalue()
    assert resolve_on_cluster(parse_study({"gpus": 0.5}), out).gpus == 0.5
    assert resolve_on_cluster(parse_study({"cpus": 4}), out).gpus == 1
    assert "a trial has a GPU to itself (its memory would hold 3)" in out.getvalue()


def test_trials_are_placed_on_the_kinds_of_gpus_that_the_study_names(two_gpus, out):
    for gpu_type in ("A100", ["H100", "A100"]):
        resources = resolve_on_cluster(parse_study({"gpus": 0.5, "gpu_type": gpu_type}), out)
        assert (nodes.count_slots(resources), nodes.find_max_memory_factor(resources)) == (4, 2)
        group = nodes.make_request(resources, 1).to_placement_group()
        assert group.wait(20)
        ray.util.remove_placement_group(group)
    resources = resolve_on_cluster(parse_study({"gpus": 0.5, "gpu_type": "H100"}), out)
    group = nodes.make_request(resources, 1).to_placement_group()
    assert not group.wait(1), "Ray itself keeps it from the other kind"
    ray.util.remove_placement_group(group)
    message = "asks for 1 cpus and 0.5 gpus of the kind H100, and no node has them; .* on 1 nodes, of the kinds A100"
    with pytest.raises(InputError, match=message):
        nodes.count_slots(resources)


def test_a_probe_runs_on_a_kind_that_the_study_names(two_gpus, monkeypatch, out):
    monkeypatch.setattr(placement, "measure_memory", lambda probe: Memory(70 * GIB, 140 * GIB))
    assert resolve_on_cluster(parse_study({"gpu_type": "A100"}), out).gpus == 1
    with pytest.raises(InputError, match="of the kind H100, and no node has them"):
        resolve_on_cluster(parse_study({"gpu_type": "H100"}), out)


def test_gpus_that_no_process_uses_are_named(two_gpus, out):
    assert resolve_on_cluster(parse_study({"gpus": 2, "processes": 2}), out).processes == 2
    assert out.getvalue() == ""
    assert resolve_on_cluster(parse_study({"gpus": 2}), out).processes == 1
    assert "a trial has 2 GPUs and one process, whose training uses one of them; `processes: 2`" in out.getvalue()


def test_a_trial_without_a_gpu_sees_none(two_gpus, monkeypatch):
    def visible():
        import os

        actors.hide_gpus()
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert ray.get(ray.remote(num_gpus=0)(visible).remote()) == ""
    assert ray.get(ray.remote(num_gpus=0.5)(visible).remote()) in ("0", "1")


def test_a_probe_that_fails_is_refused(two_gpus, monkeypatch, out):
    def fail(probe):
        raise ValueError("no such layer")

    monkeypatch.setattr(placement, "measure_memory", fail)
    with pytest.raises(InputError, match="resources.gpus: the probe for `auto` failed: ValueError: no such layer"):
        resolve_on_cluster(parse_study(), out)
    with pytest.raises(InputError, match="asks for 9 cpus and 1 gpus, and no node has them"):
        resolve_on_cluster(parse_study({"cpus": 9}), out)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
def test_a_gpu_that_torch_does_not_see_is_refused(two_gpus, out):
    with pytest.raises(InputError, match="InputError: torch finds no GPU"):
        resolve_on_cluster(parse_study(), out)


def test_without_a_gpu_trials_run_on_the_cpu(monkeypatch, out):
    monkeypatch.setattr(nodes, "_list_node_resources", lambda gpu_types: [{"CPU": 8}])
    assert resolve_on_cluster(parse_study(), out).gpus == 0
    assert out.getvalue() == "resources: no GPU here, trials run on the CPU\n"


def test_resources_are_resolved_on_this_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert placement.resolve_on_this_machine(parse_study()).gpus == 0
    assert placement.resolve_on_this_machine(parse_study({"gpus": 0.5, "compile": True})).compile
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(placement.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(placement, "measure_memory", lambda probe: Memory(42 * GIB, 140 * GIB))
    assert placement.resolve_on_this_machine(parse_study()).gpus == 0.3333

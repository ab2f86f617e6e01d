"""Trials of several processes: what they report, which error counts where one fails, and their placement by Ray."""

import os
import shutil
import socket
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from promise import check_promise
from torch import distributed

from forcetune import trial
from forcetune.errors import InputError
from forcetune.execution import environment, retraining, worker
from forcetune.ledger.messages import Assignment, LostError, Report
from forcetune.study import ResolvedResources, Task, Trial
from forcetune.training import LostProcessError

environment.prepare()  # Ray reads these variables while it is imported

import ray  # noqa: E402

from forcetune.execution import actors, connection, nodes, parallel  # noqa: E402

TRAINED_TRIAL = {"dataset": "synthetic", "model": "mlp", "width": 12, "method": "snip", "density": 0.2, "epochs": 2}


def make_assignment(folder, **changed):
    return Assignment(
        number=0,
        trial=Trial(**{**TRAINED_TRIAL, **changed}),
        task=Task(),
        attempt=1,
        mlflow_uri="sqlite:///none.db",
        folder=str(folder),
        checkpoints=str(folder / "s" / "0000"),
        threads=1,
    )


class PairGroup:
    """The first of two processes, of which the other one does the same."""

    rank, size = 0, 2

    def sum(self, tensor):
        tensor.mul_(2)

    def gather(self, tensor):
        return torch.stack([tensor, tensor])

    def broadcast(self, tensors):
        pass


class LostGroup(PairGroup):
    def sum(self, tensor):
        raise LostProcessError("Connection closed by peer")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").mkdir()
    return tmp_path


def test_the_first_process_shares_its_state_before_it_reports(folder):
    states = []
    reports = list(
        worker.execute(
            make_assignment(folder),
            group=PairGroup(),
            share_state=lambda trial_run: states.append(trial_run.state_dict()),
        )
    )
    assert [report.outcome for report in reports] == [None, None, "trained"]
    assert len(states) == 1
    followed = list(worker.follow(make_assignment(folder), states[0], PairGroup()))
    assert [report.outcome for report in followed] == [None, None, None]
    assert not any(report.metrics or report.files or report.epoch for report in followed)


def test_a_network_that_is_not_trained_needs_no_other_process(folder):
    states = []
    *_, last = worker.execute(make_assignment(folder, density=0.004), group=LostGroup(), share_state=states.append)
    assert (last.outcome, states) == ("collapsed", [])


def test_a_trial_that_has_ended_needs_no_other_process(folder):
    list(worker.execute(make_assignment(folder), group=PairGroup()))
    states = []
    *_, last = worker.execute(make_assignment(folder), group=LostGroup(), share_state=states.append)
    assert (last.outcome, states) == ("trained", [])


def test_a_process_that_is_gone_costs_the_attempt(folder):
    reports = worker.execute(make_assignment(folder), group=LostGroup())
    next(reports)
    with pytest.raises(LostError, match="Connection closed by peer") as raised:
        next(reports)
    assert raised.value.cause == "lost"


def test_one_process_cannot_leave_batch_norm_unsynchronised(folder):
    with pytest.raises(InputError, match="sync_batch_norm false: only a trial of several processes"):
        trial.TrialRun(trial.prepare(Trial(**TRAINED_TRIAL, sync_batch_norm=False)))
    prepared = trial.prepare(Trial(**TRAINED_TRIAL, sync_batch_norm=False))
    assert trial.measure_epoch_seconds(prepared, 1, processes=2) > 0, "`check` can still time it"


def test_such_a_trial_is_not_trained_again_in_one_process(monkeypatch):
    tags = {"forcetune.outcome": "trained", "forcetune.processes": "4"}
    monkeypatch.setattr(retraining.tracking, "find_run", lambda run: "r")
    monkeypatch.setattr(
        retraining.tracking, "load_trial_fields", lambda run: {**TRAINED_TRIAL, "sync_batch_norm": False}
    )
    monkeypatch.setattr(retraining, "load_run_tags", lambda run: tags)
    with pytest.raises(InputError, match="s/trial-0001 was trained by 4 processes, each of which normalized its share"):
        retraining.train_again("s/trial-0001")


def fail(reason):
    return Report(outcome="failed", reason=reason)


def raise_in_task(error):
    return ray.exceptions.RayTaskError("advance", "trace", error)


LOST = raise_in_task(LostError("lost", "an exchange failed"))
MEMORY = raise_in_task(LostError("memory", "OutOfMemoryError"))
DIED = ray.exceptions.ActorDiedError()
KILLED_FOR_MEMORY = ray.exceptions.OutOfMemoryError("the node ran low")


@pytest.fixture
def collect(monkeypatch):
    """Return a function that collects results, of which those that are None never come."""
    ended, coming = [], []
    monkeypatch.setattr(parallel, "FAILURE_PATIENCE_S", 0.01)
    monkeypatch.setattr(actors, "has_lost_node", lambda member: False)
    monkeypatch.setattr(parallel.ray, "kill", ended.append)

    def wait(references, timeout):
        ready = [rank for rank in references if coming[rank] is not None]
        assert ready or timeout is not None, "it would wait for ever"
        return ready[:1], []

    monkeypatch.setattr(parallel.ray, "wait", wait)
    monkeypatch.setattr(parallel, "_get", lambda rank: coming[rank])

    def run(*results):
        processes = object.__new__(parallel.TrialProcesses)
        processes._members, processes.is_alive = [*range(len(results))], True
        ended.clear()
        coming[:] = results
        try:
            return processes._collect({rank: rank for rank in range(len(results))})
        finally:
            assert ended == ([] if processes.is_alive else processes._members)

    return run


def test_the_results_of_all_processes_are_in_their_order(collect):
    first, second = Report({"a": 1.0}), Report()
    assert collect(first, second) == [first, second]


@pytest.mark.parametrize(
    ("results", "cause", "reason"),
    [
        ((LOST, DIED), "lost", "of its 2 processes, number 1: its worker ended without an error message"),
        ((fail("ValueError: odd"), DIED), "lost", "number 1"),
        ((None, DIED), "lost", "number 1"),
        ((LOST, KILLED_FOR_MEMORY), "memory", "number 1: Ray ended its worker"),
        ((LOST, MEMORY), "memory", "OutOfMemoryError"),
        ((None, LOST), "lost", "an exchange failed"),
    ],
)
def test_a_process_that_ended_explains_the_errors_of_the_others(collect, results, cause, reason):
    with pytest.raises(LostError, match=reason) as raised:
        collect(*results)
    assert raised.value.cause == cause


@pytest.mark.parametrize("results", [(fail("mine"), None), (None, fail("mine")), (LOST, fail("mine"))])
def test_a_failure_in_one_process_is_that_of_the_trial(collect, results):
    with pytest.raises(parallel.FailedTrial) as raised:
        collect(*results)
    assert raised.value.report.reason == "mine"


def test_a_lost_node_is_told_from_a_lost_process(collect, monkeypatch):
    monkeypatch.setattr(actors, "has_lost_node", lambda member: member == 1)
    with pytest.raises(LostError) as raised:
        collect(None, DIED)
    assert raised.value.cause == "node"


class Reference(SimpleNamespace):
    __hash__ = object.__hash__


class StandIn:
    """A process that answers at once, and notes its calls."""

    def __init__(self, *reports, is_trained=True):
        self.calls = []
        remaining = iter(reports)
        self._answers = {
            "begin": lambda assignment: (Report({"start": 1.0}), is_trained),
            "pack_state": lambda: b"state",
            "follow": lambda assignment, state: Report(),
            "advance": lambda: next(remaining),
            "leave": lambda: None,
        }

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append(name)
            return Reference(answer=self._answers[name](*arguments))

        return SimpleNamespace(remote=call)


@pytest.fixture
def make_processes(monkeypatch):
    """Return a function that makes the processes of a trial from stand-ins."""
    monkeypatch.setattr(parallel.ray, "wait", lambda references, timeout: (references[:1], []))
    monkeypatch.setattr(parallel, "_get", lambda reference: reference.answer)
    monkeypatch.setattr(parallel.ray, "kill", lambda member: member.calls.append("killed"))

    def make(*members):
        processes = object.__new__(parallel.TrialProcesses)
        processes._members, processes.is_alive = [*members], True
        return processes

    return make


EPOCH, LAST = Report({"loss": 1.0}), Report({"loss": 0.5}, outcome="trained")


def test_all_processes_train_an_epoch_at_a_time(make_processes):
    first, second = StandIn(EPOCH, LAST), StandIn(Report(), Report())
    processes = make_processes(first, second)
    assert list(processes.run("assignment")) == [Report({"start": 1.0}), EPOCH, LAST]
    assert first.calls == ["begin", "pack_state", "advance", "advance", "leave"]
    assert second.calls == ["follow", "advance", "advance", "leave"]
    assert processes.is_alive, "they train the next trial"


def test_a_trial_that_is_stopped_leaves_its_processes_to_the_next(make_processes):
    first, second = StandIn(EPOCH, EPOCH), StandIn(Report(), Report())
    worker_of_tune = object.__new__(parallel.ParallelWorker)
    worker_of_tune._processes = make_processes(first, second)
    worker_of_tune._reports = worker_of_tune._processes.run("assignment")
    assert [next(worker_of_tune._reports) for _ in range(2)][1] == EPOCH
    assert worker_of_tune.reset_config({})
    assert (first.calls[-1], second.calls[-1], worker_of_tune._processes.is_alive) == ("leave", "leave", True)
    worker_of_tune.cleanup()
    assert (first.calls[-1], second.calls[-1]) == ("killed", "killed")


def test_a_trial_that_is_not_trained_occupies_the_first_process_alone(make_processes):
    first, second = StandIn(Report(outcome="collapsed"), is_trained=False), StandIn()
    assert [report.outcome for report in make_processes(first, second).run("assignment")] == [None, "collapsed"]
    assert second.calls == ["leave"]


def test_a_failure_in_the_second_process_is_reported_and_ends_both(make_processes):
    first, second = StandIn(EPOCH, EPOCH), StandIn(Report(), fail("mine"))
    processes = make_processes(first, second)
    *_, last = processes.run("assignment")
    assert (last.outcome, last.reason, processes.is_alive) == ("failed", "mine", False)
    assert first.calls[-1] == second.calls[-1] == "killed"


def resolve(**resources):
    return ResolvedResources(**resources)


def test_each_process_has_a_bundle_of_the_placement_group():
    request = nodes.make_request(resolve(cpus=4, gpus=2, processes=2), 2)
    assert request.head_bundle_is_empty
    assert (request.bundles, request.strategy) == ([{"CPU": 4.0, "GPU": 1.0}] * 2, "STRICT_PACK")
    assert nodes.make_request(resolve(processes=2, cpus=2, spread=True), 1).strategy == "PACK"
    single = nodes.make_request(resolve(cpus=2, gpus=0.5), 1)
    assert (single.bundles, single.head_bundle_is_empty) == ([{"CPU": 2.0, "GPU": 0.5}], False)


@pytest.mark.parametrize(
    ("resources", "node_resources", "trials"),
    [
        ({"cpus": 2, "processes": 2}, [{"CPU": 4}], 2),
        ({"cpus": 2, "processes": 2}, [{"CPU": 3}, {"CPU": 3}], 2),
        ({"cpus": 2, "processes": 2, "spread": True}, [{"CPU": 3}, {"CPU": 3}], 3),
        ({"cpus": 4, "gpus": 4, "processes": 4, "spread": True}, [{"CPU": 8, "GPU": 2}] * 2, 1),
        ({"cpus": 4, "gpus": 4, "processes": 4}, [{"CPU": 8, "GPU": 4}, {"CPU": 8}], 1),
    ],
)
def test_the_trials_that_fit(monkeypatch, resources, node_resources, trials):
    monkeypatch.setattr(nodes, "_list_node_resources", lambda gpu_types: node_resources)
    assert nodes.count_fitting(resolve(**resources)) == trials


def test_threads_are_those_of_a_process():
    assert (resolve(cpus=4, processes=2).threads, resolve(cpus=1, processes=2).threads) == (2, 1)
    assert resolve(cpus=4, gpus=2, processes=2).devices == 2


def test_the_interface_of_an_address_is_found():
    assert parallel.find_interface("127.0.0.1") == "lo"
    assert parallel.find_interface("192.0.2.1") is None


def test_the_store_listens_on_one_address():
    member = object.__new__(parallel.Member)
    member._size = 2
    port = member.open_store("127.0.0.1")
    client = distributed.TCPStore("127.0.0.1", port, 2)
    client.set("key", "value")
    assert client.get("key") == b"value"
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port), timeout=1):
        pass


# The same network three times: as it is, with a second process that is killed once, in the second epoch, and with a
# second process that raises an error. All wait in their first step until two trials have their processes.
MODEL_PY = """
import os, signal, time
from pathlib import Path

import torch
from torch import distributed, nn


class Watch(nn.Module):
    def __init__(self, strike):
        super().__init__()
        self.strike, self.steps = strike, 0

    def forward(self, x):
        if self.training and torch.is_grad_enabled() and distributed.is_initialized():
            self.steps += 1
            Path("processes").mkdir(exist_ok=True)
            Path(f"processes/{os.getpid()}").touch()
            deadline = time.monotonic() + 60
            while len(os.listdir("processes")) < 4 and time.monotonic() < deadline:
                time.sleep(0.05)
            if distributed.get_rank() == 1:
                self.strike(self.steps)
        return x


def kill(steps):
    if steps == 8 and not os.path.exists("struck"):
        Path("struck").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def fail(steps):
    raise RuntimeError("mine")


def make(strike):
    def build(shape, classes):
        size = shape[0] * shape[1] * shape[2]
        return nn.Sequential(
            nn.Flatten(), nn.Linear(size, 12), nn.BatchNorm1d(12), nn.ReLU(), Watch(strike), nn.Linear(12, classes)
        )

    return build


good, killed, broken = make(lambda steps: None), make(kill), make(fail)
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory, empty_mlflow):
    """Search a study whose trials have two processes on a Ray of four cores, and one of its trials in one process."""
    from forcetune import run

    folder = tmp_path_factory.mktemp("parallel")
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    (folder / "watched.py").write_text(MODEL_PY)
    fixed = {"dataset": "synthetic", "method": "random", "density": 0.3, "epochs": 4, "lr": 0.05}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("MLFLOW_TRACKING_URI", "FORCETUNE_STORAGE", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setattr(connection, "connect_ray", nullcontext)
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            for name, models, resources in (
                ("pairs", ["watched:good", "watched:killed", "watched:broken"], {"cpus": 2, "processes": 2}),
                ("single", ["watched:good"], {}),
            ):
                run.run_study(
                    {
                        "study": name,
                        "trial": {**fixed, "model": models},
                        "search": {"sampler": "grid"},
                        "resources": resources,
                    }
                )
        finally:
            ray.shutdown()
        yield {name: check_promise(name, count).set_index("model") for name, count in (("pairs", 3), ("single", 1))}


@pytest.mark.long  # a dozen processes import torch and Ray
def test_two_trials_of_two_processes_share_four_slots(searched):
    rows = searched["pairs"]
    assert rows["outcome"].to_dict() == {
        "watched:good": "trained",
        "watched:killed": "trained",
        "watched:broken": "failed",
    }
    assert rows.loc["watched:broken", "reason"] == "RuntimeError: mine"
    assert len(os.listdir("processes")) >= 4


@pytest.mark.long
def test_a_killed_process_fails_the_attempt_and_the_next_goes_on(searched):
    from forcetune.tracking import load_run_tags

    rows = searched["pairs"]
    tags = {model: load_run_tags(rows.loc[model, "run_id"]) for model in ("watched:good", "watched:killed")}
    assert [run_tags["forcetune.attempt"] for run_tags in tags.values()] == ["1", "2"]
    assert tags["watched:good"]["forcetune.processes"] == "2"
    for metric in ("train_loss", "val_loss", "val_accuracy"):
        assert rows.loc["watched:killed", metric] == rows.loc["watched:good", metric], "bit for bit"


@pytest.mark.long
def test_two_processes_have_the_losses_of_one(searched):
    pairs, single = (searched[name].loc["watched:good"] for name in ("pairs", "single"))
    for metric in ("train_loss", "val_loss"):
        assert pairs[metric] == pytest.approx(single[metric], rel=1e-4), "in float32"

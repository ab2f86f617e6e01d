"""Trials that several processes train: the actors of one placement group, of which the first one has the trial."""

import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from io import BytesIO
from typing import Any

import ray
import torch
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import distributed

from forcetune import trial
from forcetune.execution.actors import Worker, explain_end, find_notice, hide_gpus
from forcetune.execution.worker import execute, follow
from forcetune.ledger.messages import Assignment, LostError, Report
from forcetune.training import TorchGroup

EXCHANGE_PATIENCE_S = 300.0  # for the other processes in an exchange: they may read slower, but none may be stuck
FAILURE_PATIENCE_S = 3.0  # for the other processes to say what happened, once one of them has failed
ONE_NODE_HOST = "127.0.0.1"
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")  # which gloo and NCCL listen on
SIOCGIFADDR = 0x8915  # the request for an interface's address, in Linux's sockios.h


class ParallelWorker(Worker):
    """An actor of Tune that lets processes train its trials, one process in each bundle of its placement group.

    The actor itself computes nothing. It notices at once where a process ends, which an exchange on a GPU may not.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare an actor without a trial, as Tune calls it once."""
        super().setup(config)
        self._processes: TrialProcesses | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the actor and its processes for another trial."""
        if self._reports is not None:
            self._reports.close()  # type: ignore[attr-defined]  # a generator, of a trial that was stopped
        return super().reset_config(new_config)

    def cleanup(self) -> None:
        """End the processes."""
        if self._processes:
            self._processes.kill()

    def _begin(self, assignment: Assignment) -> Iterator[Report]:
        """Start a trial in the processes; return its reports."""
        if self._processes is None or not self._processes.is_alive:
            self._processes = TrialProcesses()
        return self._processes.run(assignment)


class TrialProcesses:
    """The processes of a placement group, which train one trial after the other.

    Attributes:
        is_alive: Whether the processes can train a trial; after a failure, other ones are needed.

    Raises:
        LostError: A process has ended before all of them were connected.
    """

    def __init__(self) -> None:
        group = get_current_placement_group()
        self._members = [
            ray.remote(Member)
            .options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
            )
            .remote(index, len(group.bundle_specs))
            for index, bundle in enumerate(group.bundle_specs)
        ]
        self.is_alive = True
        nodes = self._collect({rank: member.find_node.remote() for rank, member in enumerate(self._members)})
        is_local = len({node_id for node_id, _ in nodes}) == 1
        hosts = [ONE_NODE_HOST if is_local else address for _, address in nodes]
        (port,) = self._collect({0: self._members[0].open_store.remote(hosts[0])})
        self._collect(
            {rank: member.join.remote(hosts[0], port, hosts[rank]) for rank, member in enumerate(self._members)}
        )

    def run(self, assignment: Assignment) -> Iterator[Report]:
        """Train a trial, epoch by epoch in all processes at the same time.

        Args:
            assignment: The attempt at the trial.

        Yields:
            The reports of the first process, or one with the outcome `failed` where another process fails.

        Raises:
            LostError: A process has ended, or is of no more use.
            SupersededError: The trial was given to another worker.
        """
        leader = self._members[0]
        try:
            ((report, is_trained),) = self._collect({0: leader.begin.remote(assignment)})
            yield report
            members = dict(enumerate(self._members)) if is_trained and report.outcome is None else {0: leader}
            followers = {rank: member for rank, member in members.items() if rank}
            state = leader.pack_state.remote() if followers else None
            self._collect({rank: member.follow.remote(assignment, state) for rank, member in followers.items()})
            while report.outcome is None:
                report, *_ = self._collect({rank: member.advance.remote() for rank, member in members.items()})
                yield report
        except FailedTrial as failure:
            yield failure.report
        finally:
            if self.is_alive:
                for member in self._members:
                    member.leave.remote()

    def kill(self) -> None:
        """End the processes."""
        self.is_alive = False
        for member in self._members:
            ray.kill(member)

    def _collect(self, references: Mapping[int, Any]) -> list[Any]:
        """Return the results of a call to each of some processes.

        Where one fails, the others may wait for it for ever. They have FAILURE_PATIENCE_S to end too, since an error in
        one process may be the consequence of another one's end; then all are ended.

        Args:
            references: Ray's reference to each result, by the number of the process.

        Returns:
            The results, in the order of `references`.

        Raises:
            FailedTrial: The trial has failed in a process.
            LostError: A process has ended, or is of no more use.
        """
        results: dict[int, Any] = {}
        ranks = {reference: rank for rank, reference in references.items()}
        deadline: float | None = None
        while len(results) < len(references):
            waiting = [reference for reference, rank in ranks.items() if rank not in results]
            timeout = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            ready, _ = ray.wait(waiting, timeout=timeout)
            if not ready:
                break
            result = results[ranks[ready[0]]] = _get(ready[0])
            if deadline is None and _is_failure(result):
                deadline = time.monotonic() + FAILURE_PATIENCE_S
        if deadline is not None:
            self._end_failed(results)
        return [results[rank] for rank in references]

    def _end_failed(self, results: Mapping[int, Any]) -> None:
        """End all processes and raise why: a process that ended counts before an error, which may follow from it."""
        failures = {rank: result for rank, result in sorted(results.items()) if _is_failure(result)}
        losses = [
            (rank, *explain_end(error, self._members[rank]))
            for rank, error in failures.items()
            if isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError)
        ]
        self.kill()
        if losses:
            rank, cause, reason = losses[0]
            raise LostError(cause, f"of its {len(self._members)} processes, number {rank}: {reason}")
        for result in failures.values():
            if isinstance(result, Report):
                raise FailedTrial(result)
        causes = [error.cause for error in failures.values()]
        # of several reasons, memory is the one that another attempt can do something about
        raise min(causes, key=lambda cause: not (isinstance(cause, LostError) and cause.cause == "memory"))


class FailedTrial(Exception):
    """The end of a trial that has failed in a process.

    Attributes:
        report: The last report of the trial.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report


class Member:
    """A process of a trial, as an actor of Ray.

    Args:
        rank: The number of the process, from 0.
        size: The number of processes.
    """

    def __init__(self, rank: int, size: int) -> None:
        hide_gpus()
        self._rank = rank
        self._size = size
        self._store: Any = None  # of torch.distributed; only in the first process
        self._reports: Iterator[Report] | None = None
        self._trial_run: trial.TrialRun | None = None

    def find_node(self) -> tuple[str, str]:
        """Return the id and the address of this process's node."""
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def open_store(self, host: str) -> int:
        """Open the store in which the processes find each other, on an address of this node; return its port."""
        listener = socket.create_server((host, 0))
        port = int(listener.getsockname()[1])
        self._store = distributed.TCPStore(  # type: ignore[attr-defined]
            host,
            port,
            self._size,
            is_master=True,
            timeout=timedelta(seconds=EXCHANGE_PATIENCE_S),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),  # torch itself would listen on every address
        )
        return port

    def join(self, store_host: str, store_port: int, host: str) -> None:
        """Connect this process with the others.

        Args:
            store_host: The address of the store.
            store_port: Its port.
            host: The address of this node, by which the others reach this process.
        """
        timeout = timedelta(seconds=EXCHANGE_PATIENCE_S)
        if interface := find_interface(host):
            for variable in INTERFACE_VARIABLES:
                os.environ.setdefault(variable, interface)
        store = self._store
        if store is None:
            store = distributed.TCPStore(  # type: ignore[attr-defined]
                store_host, store_port, self._size, timeout=timeout
            )
        distributed.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=self._rank,
            world_size=self._size,
            timeout=timeout,
        )

    def begin(self, assignment: Assignment) -> tuple[Report, bool]:
        """Start a trial in the first process; return its first report, and whether it is trained from there on."""
        self._reports = execute(assignment, find_notice().is_given, TorchGroup(), self._keep)
        report = next(self._reports)
        return report, self._trial_run is not None

    def pack_state(self) -> bytes:
        """Return the state of the trial, from which the other processes go on."""
        assert self._trial_run
        content = BytesIO()
        torch.save(self._trial_run.state_dict(), content)
        return content.getvalue()

    def follow(self, assignment: Assignment, state: bytes) -> Report:
        """Take part in a trial of the first process; return an empty report, or one of a failure."""
        loaded = torch.load(BytesIO(state), map_location="cpu", weights_only=True)
        self._reports = follow(assignment, loaded, TorchGroup())
        return next(self._reports)

    def advance(self) -> Report:
        """Train for an epoch; return its report, which is empty where this is not the first process."""
        assert self._reports
        return next(self._reports)

    def leave(self) -> None:
        """Forget the trial."""
        self._reports = self._trial_run = None

    def _keep(self, trial_run: trial.TrialRun) -> None:
        self._trial_run = trial_run


def find_interface(address: str) -> str | None:
    """Return the name of the network interface with an IPv4 address; None where the system does not report it.

    By themselves gloo and NCCL choose an interface by the host's name, which may be that of another address.

    Args:
        address: The address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                request = struct.pack("256s", name.encode())
                if socket.inet_ntoa(fcntl.ioctl(probe, SIOCGIFADDR, request)[20:24]) == address:
                    return name
    return None


def _get(reference: Any) -> Any:
    """Return the result of a call, or the error with which Ray ended it."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return error


def _is_failure(result: Any) -> bool:
    """Return whether a result is an error, or the report of a trial that has failed."""
    return isinstance(result, Exception) or (isinstance(result, Report) and result.outcome == "failed")

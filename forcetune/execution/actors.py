"""The actors that run trials: they live on from trial to trial, and the error of a lost one says why it was lost."""

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray import tune
from ray._private import state as _ray_state  # the public API for actors needs the dashboard, which a Ray may lack

from forcetune.execution.worker import LEAVING_REASON, execute
from forcetune.ledger.messages import Assignment, Cause, LostError, Report

ASSIGNMENT_KEY = "assignment"  # of a worker's assignment in Tune's config
REPORT_KEY = "report"  # of a worker's report in Tune's result
NOTICE_POLL_S = 5.0  # between two questions of a worker whether its node has notice of its end
NODE_DEATH_PATIENCE_S = 2.0  # after a worker is lost: as a machine shuts down, its node may be lost a moment later
NODE_POLL_S = 0.2  # between two checks of a node
NODE_ANSWER_S = 1.0  # for a node's process to take a connection


class Worker(tune.Trainable):
    """An actor that runs one trial after the other; each step returns the next report of the trial.

    Tune may set up a second actor for a trial that an idle actor then takes, so nothing happens before the first step.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare an actor without a trial, as Tune calls it once."""
        self._reports: Iterator[Report] | None = None
        self._notice: NodeNotice | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the actor for another trial; Tune calls it where actors are reused."""
        self._reports = None
        return True

    def step(self) -> dict[str, Any]:
        """Return the next report of the trial, as a result of Tune."""
        if self._reports is None:
            self._notice = self._notice or find_notice()
            if self._notice.is_given():  # this actor was kept for the next trial
                raise LostError("leaving", LEAVING_REASON)
            self._reports = self._begin(self.config[ASSIGNMENT_KEY])
        report = next(self._reports)
        return {REPORT_KEY: report, "done": report.outcome is not None}

    def _begin(self, assignment: Assignment) -> Iterator[Report]:
        """Start a trial in this process; return its reports."""
        hide_gpus()
        assert self._notice
        return execute(assignment, self._notice.is_given)


class NodeNotice:
    """The notice of a node that it is about to end: Ray drains it, as before a preemption.

    Args:
        node_id: The id of the node.
    """

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._is_given = False
        self._next_poll = 0.0

    def is_given(self) -> bool:
        """Return whether the node has notice; Ray's head is asked every NOTICE_POLL_S."""
        if time.monotonic() >= self._next_poll and not self._is_given:
            self._is_given = self._node_id in _ray_state.state.get_draining_nodes()
            self._next_poll = time.monotonic() + NOTICE_POLL_S
        return self._is_given


def find_notice() -> NodeNotice:
    """Return the notice of this process's node."""
    return NodeNotice(ray.get_runtime_context().get_node_id())


def hide_gpus() -> None:
    """Hide the GPUs from torch in a process to which Ray gave none: `gpus: 0` means the CPU on any machine."""
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def explain_end(error: Exception | None, actor: Any) -> tuple[Cause, str]:
    """Return the cause and the reason, in words, of the end of an attempt.

    Args:
        error: The error with which Ray or Tune lost the attempt; None where neither kept one.
        actor: The actor that had the attempt; None where it had none yet.
    """
    cause, reason = explain_loss(error)
    is_gone = actor is not None and not isinstance(error, ray.exceptions.RayTaskError)
    if is_gone and cause == "lost" and has_lost_node(actor):
        return "node", "its node was lost (preempted, switched off or out of reach)"
    return cause, reason


def explain_loss(error: Exception | None) -> tuple[Cause, str]:
    """Return the cause and the reason, in words, of the error with which Tune lost a trial."""
    original = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(original, LostError):
        return original.cause, original.reason
    if isinstance(original, ray.exceptions.OutOfMemoryError) or "OUT_OF_MEMORY" in str(original):
        return "memory", "Ray ended its worker, because the node was out of memory"
    if original is None or isinstance(original, ray.exceptions.RayActorError):  # Tune keeps none of Ray's other errors
        return "lost", "its worker ended without an error message (killed, out of memory, or its node is gone)"
    return "lost", f"its worker failed: {type(original).__name__}: {original}".splitlines()[0]


def has_lost_node(actor: Any) -> bool:
    """Return whether the node of an actor that is gone is gone too."""
    address = _ray_state.actors(actor._actor_id.hex()).get("Address", {})
    deadline = time.monotonic() + NODE_DEATH_PATIENCE_S
    while not (is_lost := not _is_reachable(address.get("NodeID"))) and time.monotonic() < deadline:
        time.sleep(NODE_POLL_S)
    return is_lost


def _is_reachable(node_id: str | None) -> bool:
    """Return whether a node is alive for Ray and takes a connection; Ray itself notices a death up to 15 s later."""
    if not node_id:  # an actor that was never placed
        return True
    node = next((node for node in ray.nodes() if node["NodeID"] == node_id), None)
    if node is None or not node["Alive"]:
        return False
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), NODE_ANSWER_S).close()
    except OSError:
        return False
    return True

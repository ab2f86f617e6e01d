"""What follows where an attempt at a trial is lost, without a driver."""

import pytest

from forcetune.ledger.messages import Attempts, TrialOutcome
from forcetune.search.attempts import FREE_NODE_LOSSES, plan_next_attempt


def plan(attempts, cause, retries=3, max_memory_factor=1):
    return plan_next_attempt(attempts, cause, "it was lost", retries, max_memory_factor)


def test_a_loss_that_is_no_fault_of_the_trial_takes_no_retry():
    assert plan(Attempts(attempt=2), "leaving", retries=0) == Attempts(attempt=2)
    assert plan(Attempts(), "node", retries=0) == Attempts(lost_nodes=1)
    assert plan(Attempts(lost_nodes=FREE_NODE_LOSSES), "node") == Attempts(lost=1, lost_nodes=FREE_NODE_LOSSES)


def test_a_lack_of_memory_doubles_it_as_far_as_a_node_has_it():
    assert plan(Attempts(), "memory", max_memory_factor=4) == Attempts(lost=1, room=2)
    assert plan(Attempts(lost=1, room=2), "memory", max_memory_factor=3) == Attempts(lost=2, room=3)


@pytest.mark.parametrize(
    ("attempts", "cause", "reason"),
    [
        (Attempts(), "time", "it was lost"),
        (Attempts(attempt=4, lost=3), "lost", "it was lost; failed after 4 attempts"),
        (Attempts(attempt=4, lost=3), "memory", "it was lost; failed after 4 attempts"),
        (Attempts(room=2), "memory", "it was lost; no node has more memory for it"),
    ],
)
def test_a_trial_fails_without_a_retry_that_could_help(attempts, cause, reason):
    assert plan(attempts, cause, max_memory_factor=2) == TrialOutcome("failed", reason)

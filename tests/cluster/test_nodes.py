"""Nodes that have notice of their end, and a cluster that shrinks to nothing and grows again."""

import subprocess
import sys

import psutil
import pytest
from processes import list_descendants, wait_until

pytestmark = pytest.mark.long

NOTICE_PY = """
import sys

import ray
from ray.scripts.scripts import main

ray.init(log_to_driver=False, logging_level="ERROR")
node = next(node["NodeID"] for node in ray.nodes() if node["Alive"] and "GPU" in node["Resources"])
options = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test", "--deadline-remaining-seconds", "60"]
sys.argv = ["ray", "drain-node", "--address", {address!r}, "--node-id", node, *options]
main()
"""


def drain(cluster, environment):
    """Let Ray drain the second node, as a cloud's autoscaler does before it takes a machine away."""
    code = NOTICE_PY.format(address=cluster.address)
    variables = {**environment, "RAY_ADDRESS": cluster.address}
    drained = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert drained.returncode == 0, drained.stderr


def terminate(cluster, environment):
    """Send SIGTERM to the command that has started the second node; it lets Ray drain the node by itself."""
    cluster.second.terminate()


@pytest.mark.parametrize("give_notice", [drain, terminate])
def test_a_node_with_notice_hands_its_trial_over_at_a_checkpoint(search, cluster, environment, give_notice):
    study = search(
        {"RAY_ADDRESS": cluster.address},
        pause=0.4,
        trial={"epochs": 20},
        search={"trials": 2},
        resources={"retries": 0},
    )
    driver = study.start()
    study.wait_for_training()
    worker = study.wait_for_worker(list_descendants(cluster.second.pid))
    give_notice(cluster, environment)
    wait_until(lambda: not psutil.pid_exists(worker), "the worker to leave", 30)
    cluster.kill_second_node()
    study.hurry()
    assert driver.wait() == 0, driver.output
    assert set(study.check_promise()["outcome"]) == {"trained"}
    saved = [(key, int(attempt), int(epoch)) for key, attempt, epoch in study.read_notes("saved")]
    (moved,) = {key for key, attempt, _ in saved if attempt == 2}
    last_epoch = max(epoch for key, attempt, epoch in saved if (key, attempt) == (moved, 1))
    assert min(epoch for key, attempt, epoch in saved if (key, attempt) == (moved, 2)) == last_epoch + 1
    assert study.count_attempts("lost") + study.count_attempts("lost_nodes") == 0
    cluster.replace_second_node()


def test_a_study_waits_for_a_node_says_for_what_and_goes_on(search, cluster):
    study = search(
        {"RAY_ADDRESS": cluster.address},
        pause=0.1,
        trial={"epochs": 60},
        search={"trials": 2},
        resources={"gpus": 1, "retries": 0},
    )
    driver = study.start()
    study.wait_for_training()
    cluster.kill_second_node()
    message = "waiting: a trial asks for 1 cpus and 1 gpus, and no node has them; Ray has 1 cpus and 0 gpus on 1 nodes"
    wait_until(lambda: message in driver.output, "the search to say that it waits")
    assert driver.process.poll() is None
    cluster.replace_second_node()
    study.hurry()
    assert driver.wait() == 0, driver.output
    assert driver.output.count("waiting: ") == 1
    assert set(study.check_promise()["outcome"]) == {"trained"}

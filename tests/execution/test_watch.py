"""The cause of an ended attempt at a trial: a lost worker, a lost node, or too little memory."""

import os
import pickle
import socket
import sys
import uuid
from types import SimpleNamespace

import pytest

from forcetune.execution import environment

environment.prepare()  # Ray reads these variables while it is imported

import ray  # noqa: E402

from forcetune.execution import actors, cluster  # noqa: E402
from forcetune.ledger.messages import LostError  # noqa: E402

NODE_ID = uuid.uuid4().hex


@pytest.fixture
def lose(tmp_path):
    """Return a function that ends a trial with an error, as Tune does, and returns the reported causes."""

    def lose(error):
        causes = []
        searcher = SimpleNamespace(
            mark_placed=lambda trial: None, report_loss=lambda trial, cause, reason: causes.append(cause)
        )
        path = tmp_path / "error.pkl"
        path.write_bytes(pickle.dumps(error))
        actor = SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: "a"))
        trial = SimpleNamespace(
            trial_id="t",
            temporary_state=SimpleNamespace(ray_actor=actor),
            pickled_error_file=str(path),
            get_pickled_error=lambda: None,  # Tune looks where the error is not copied yet
        )
        watch = cluster.Watch(searcher, None, lambda: "")
        watch.on_trial_start(0, [], trial)
        watch.on_trial_error(0, [], trial)
        return causes

    return lose


@pytest.fixture
def set_node(monkeypatch):
    """Return a function that sets the state of the only node, on which the actor is."""
    monkeypatch.setattr(actors, "NODE_DEATH_PATIENCE_S", 0.0)
    monkeypatch.setattr(actors, "_ray_state", SimpleNamespace(actors=lambda actor: {"Address": {"NodeID": NODE_ID}}))

    def describe(alive, port):
        node_info = {"NodeID": NODE_ID, "Alive": alive, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
        monkeypatch.setattr(ray, "nodes", lambda: [node_info])

    return describe


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.parametrize("error", [ray.exceptions.ActorDiedError(), ray.exceptions.ActorUnavailableError("gone", None)])
def test_a_worker_that_dies_alone_is_distinguished_from_a_lost_node(lose, set_node, server, error):
    port = server.getsockname()[1]
    set_node(True, port)
    assert lose(error) == ["lost"]
    set_node(False, port)
    assert lose(error) == ["node"]
    server.close()
    set_node(True, port)
    assert lose(error) == ["node"], "Ray has not noticed yet"


def test_the_cause_that_a_worker_reports_is_kept(lose):
    for cause in ("memory", "lost"):
        error = LostError(cause, "why")
        assert lose(ray.exceptions.RayTaskError("step", "trace", error)) == [cause]


def test_the_settings_of_a_search_end_with_it():
    before = sys.getswitchinterval(), dict(os.environ)
    with cluster._tune_settings():
        assert sys.getswitchinterval() < before[0]
        assert "TUNE_MAX_PENDING_TRIALS_PG" in os.environ
    assert (sys.getswitchinterval(), dict(os.environ)) == before

"""Why an attempt at a trial ended: its worker or its whole node was lost, or it was out of memory."""

import pickle
import socket
import uuid
from types import SimpleNamespace

import pytest

from forcetune.execution import environment

environment.prepare()  # what Ray reads while it is imported

import ray  # noqa: E402

from forcetune.execution import cluster  # noqa: E402
from forcetune.ledger.messages import LostError  # noqa: E402

NODE = uuid.uuid4().hex


@pytest.fixture
def lose(tmp_path):
    """Return a function that loses a trial by an error, as Tune does; it returns the cause and the reason."""

    def lose(error):
        told = []
        searcher = SimpleNamespace(
            mark_placed=lambda trial: None, report_loss=lambda trial, cause, reason: told.append(cause)
        )
        path = tmp_path / "error.pkl"
        path.write_bytes(pickle.dumps(error))
        actor = SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: "a"))
        trial = SimpleNamespace(
            trial_id="t",
            temporary_state=SimpleNamespace(ray_actor=actor),
            pickled_error_file=str(path),
            get_pickled_error=lambda: None,  # Tune looks where it has not copied the error to yet
        )
        watch = cluster.Watch(searcher, None)
        watch.on_trial_start(0, [], trial)
        watch.on_trial_error(0, [], trial)
        return told

    return lose


@pytest.fixture
def node(monkeypatch):
    """Return a function that lets Ray know one node, on which the actor is."""
    monkeypatch.setattr(cluster, "NODE_DEATH_PATIENCE_S", 0.0)
    monkeypatch.setattr(cluster, "_ray_state", SimpleNamespace(actors=lambda actor: {"Address": {"NodeID": NODE}}))

    def describe(alive, port):
        known = {"NodeID": NODE, "Alive": alive, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
        monkeypatch.setattr(ray, "nodes", lambda: [known])

    return describe


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.parametrize("error", [ray.exceptions.ActorDiedError(), ray.exceptions.ActorUnavailableError("gone", None)])
def test_a_worker_that_dies_alone_is_told_from_a_lost_node(lose, node, server, error):
    port = server.getsockname()[1]
    node(True, port)
    assert lose(error) == ["lost"]
    node(False, port)
    assert lose(error) == ["node"]
    server.close()
    node(True, port)
    assert lose(error) == ["node"], "Ray has not noticed yet"


def test_what_a_worker_says_itself_is_believed(lose):
    for cause in ("memory", "lost"):
        error = LostError(cause, "why")
        assert lose(ray.exceptions.RayTaskError("step", "trace", error)) == [cause]

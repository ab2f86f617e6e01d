"""Trials of a network whose last layer has the weight of its embedding."""

import pytest
from small_trials import make_trial

from forcetune import trial

TIED_MODEL_CODE = """
from torch import nn

class Tied(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embedding, self.body = nn.Embedding(classes, 16), nn.Linear(64, 16)
        self.head = nn.Linear(16, classes)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        nearest = self.head(self.body(x.flatten(1)).relu()).argmax(1)
        return self.head((self.body(x.flatten(1)) + self.embedding(nearest)).relu())

def tied(input_shape, classes):
    return Tied(classes)
"""


@pytest.mark.parametrize("method", ["snip", "synflow", "gradual_magnitude", "rigl"])
def test_a_network_with_a_tied_embedding_is_trained(method, tmp_path, monkeypatch):
    (tmp_path / "own_tied.py").write_text(TIED_MODEL_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    prepared = trial.prepare(
        make_trial(
            model="own_tied:tied",
            width=None,
            method=method,
            density=0.5,
            epochs=2,
            **({"iterations": 2} if method in ("synflow", "gradual_magnitude") else {}),
            **({"update_interval": 2} if method == "rigl" else {}),
        )
    )
    assert len(list(trial.TrialRun(prepared))) == 2
    assert [*prepared.masks] == ["body.weight", "embedding.weight"]
    parameters = dict(prepared.model.named_parameters())
    assert all((parameters[name][~mask] == 0).all() for name, mask in prepared.masks.items())

"""Studies whose trials have several processes: what does not go with them is refused before anything runs."""

import pytest

from forcetune.errors import InputError
from forcetune.study import Study

SYNTHETIC_TRIAL = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1}


def parse_study(resources, trial=None, **top):
    return Study.from_dict({"study": "s", "trial": {**SYNTHETIC_TRIAL, **(trial or {})}, "resources": resources, **top})


@pytest.mark.parametrize(
    ("resources", "trial", "message"),
    [
        ({"processes": 0}, {}, "resources.processes: 0 should be greater than or equal to 1"),
        ({"gpus": 1}, {}, "resources.gpus: is 1.0, but each of the 4 `processes` .*; allowed: 4 or 0"),
        ({"gpus": "auto"}, {}, "resources.gpus: is 'auto', but each of the 4 `processes`"),
        ({"compile": True}, {}, "resources.compile: a network that 4 `processes` train is not compiled"),
        ({}, {"method": ["snip", "rigl", "dpf"]}, r"trial.method: masks that change .* \(rigl, dpf\) need one process"),
        ({}, {"batch_size": [64, 7]}, "trial.batch_size: 7 gives 4 `processes` less than 2 images .*: 8 or more"),
        ({"processes": 1, "spread": True}, {}, "resources.spread: a trial has one process"),
        ({"processes": 1}, {"sync_batch_norm": [True, False]}, "trial.sync_batch_norm: false has no meaning"),
    ],
)
def test_what_does_not_go_with_the_processes_is_refused(resources, trial, message):
    with pytest.raises(InputError, match=message):
        parse_study({"processes": 4, **resources}, trial)


def test_a_loop_of_the_users_is_refused(tmp_path, monkeypatch):
    (tmp_path / "sharing_loop.py").write_text("def train(model, masks, training, validation, trial):\n    yield {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        InputError, match="train: sharing_loop:train does not know how to share a batch among 2 `processes`"
    ):
        parse_study({"processes": 2}, train="sharing_loop:train")
    assert parse_study({"gpus": 4}, train="sharing_loop:train").resources.processes == 1, "the loop has all four"


def test_what_goes_with_them_is_accepted():
    study = parse_study({"processes": 4, "gpus": 4, "cpus": 8, "spread": True}, {"sync_batch_norm": [True, False]})
    assert (study.resources.processes, study.resources.threads) == (4, 2)
    assert parse_study({"gpus": 4}).resources.processes == 1, "as before there were processes"

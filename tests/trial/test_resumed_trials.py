"""Trials that are stopped and resumed: they go on bit for bit."""

import pytest
import torch
from small_trials import USER_MODEL_CODE, drop_run_dependent, make_trial

from forcetune import trial

STREAMED_DATA_CODE = """
import torch
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from forcetune.data import Streamed

def streamed(data_root):
    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
    return Streamed(
        train=FakeData(80, (1, 8, 8), num_classes=4), test=FakeData(20, (1, 8, 8), num_classes=4),
        train_transform=v2.Compose([v2.RandomCrop(8, padding=2), *last]), eval_transform=v2.Compose(last),
        classes=4, input_shape=(1, 8, 8), workers=0,
    )
"""
RESUMED_TRIALS = {
    "plain": {},
    "dropout, and a bound on the gradient": {"model": "my_net:with_dropout", "width": None, "clip_norm": 1.0},
    "batch norm": {"dataset": "digits", "model": "convnet", "train_samples": 200},
    "small dense": {"model": "mlp", "width": 24, "small_dense": "parameters"},
    "weights drawn anew": {"reinit": True},
    "streamed and augmented": {"dataset": "my_data:streamed"},
}


@pytest.mark.parametrize("fields", RESUMED_TRIALS.values(), ids=RESUMED_TRIALS.keys())
@pytest.mark.parametrize("epochs_before_stop", [1, 3])
def test_a_resumed_trial_goes_on_bit_for_bit(fields, epochs_before_stop, tmp_path, monkeypatch):
    (tmp_path / "my_net.py").write_text(USER_MODEL_CODE)
    (tmp_path / "my_data.py").write_text(STREAMED_DATA_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    resumed_trial = make_trial(epochs=4, batch_size=32, **fields)
    uninterrupted = trial.TrialRun(trial.prepare(resumed_trial))
    curve = drop_run_dependent(uninterrupted)

    interrupted = trial.TrialRun(trial.prepare(resumed_trial))
    first_epochs = [next(iter(interrupted)) for _ in range(epochs_before_stop)]
    torch.save(interrupted.state_dict(), tmp_path / "checkpoint.pt")
    torch.manual_seed(99)  # another process has another random state
    resumed = trial.resume(resumed_trial, torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert drop_run_dependent([*first_epochs, *resumed]) == curve
    for name, tensor in uninterrupted.prepared.model.state_dict().items():
        assert torch.equal(tensor, resumed.prepared.model.state_dict()[name]), name

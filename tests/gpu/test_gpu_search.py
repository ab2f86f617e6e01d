"""Trials on the device through Ray, Optuna and MLflow: sharing it, too little memory, and a GPU error of one of them.

There are two searches in all, since each starts Ray and its workers: one search serves for all that it can show.
"""

import json
import os
import re
import shutil
import subprocess

import pytest
import torch
import yaml
from shared_constants import FORCETUNE_COMMAND, REPOSITORY

pytestmark = pytest.mark.gpu

# A fault breaks the first attempt that meets it, and writes each attempt's resources to the file with the fault's name
NETWORKS_SOURCE = """
import json
import os

import ray
import torch
from torch import nn


class Fault(nn.Module):
    def __init__(self, strike):
        super().__init__()
        self.strike = strike
        self.noted = False

    def forward(self, x):
        if self.training and torch.is_grad_enabled() and not self.noted:
            self.noted = True
            first = not os.path.exists(self.strike.__name__)
            with open(self.strike.__name__, "a") as file:
                file.write(json.dumps(ray.get_runtime_context().get_assigned_resources()) + "\\n")
            if first:
                self.strike(x)
        return x


def hungry(x):
    if x.is_cuda:
        torch.empty(2**44, device=x.device)
    raise torch.OutOfMemoryError("as a GPU without memory says it")


def poisonous(x):
    if x.is_cuda:
        torch.zeros(4, device=x.device)[torch.tensor([4], device=x.device)].sum()
        torch.cuda.synchronize()
    raise torch.AcceleratorError("as a GPU after a wrong address says it")


def build(*parts):
    def network(shape, classes):
        size = shape[0] * shape[1] * shape[2]
        first = [nn.Flatten(), nn.Linear(size, 24), nn.BatchNorm1d(24), nn.ReLU()]
        return nn.Sequential(*first, *parts, nn.Linear(24, classes))

    return network


good = build()
too_large = build(Fault(hungry))
breaks = build(Fault(poisonous))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return environment variables with a new home, so that neither Ray nor MLflow reads the user's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "FORCETUNE_"))}
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "HOME": str(tmp_path_factory.mktemp("home")), "PYTHONPATH": path}


@pytest.fixture
def folder(tmp_path, empty_mlflow):
    """Return a folder with a copy of an MLflow store, since MLflow takes seconds to make one."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return tmp_path


def search(folder, environment, study):
    (folder / "networks.py").write_text(NETWORKS_SOURCE)
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    completed = subprocess.run(
        [*FORCETUNE_COMMAND, "search", "study.yaml"], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stdout + completed.stderr
    from forcetune import tracking

    uri = f"sqlite:///{folder}/mlflow.db"
    return completed.stdout, tracking.load_table(study["study"], uri).trials, _tags(uri, study["study"])


def _tags(uri, study):
    """Return the tags of each trial's run."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id], "attributes.run_name LIKE 'trial-%'")
    return [run.data.tags for run in runs]


def study(name, resources, **fields):
    trial = {"dataset": "synthetic", "model": "networks:good", "method": "snip", "density": 0.5, "epochs": 20, **fields}
    return {"study": name, "trial": trial, "search": {"sampler": "grid", "stopping": "none"}, "resources": resources}


def resources(path, on_gpu):
    """Return the resources of each attempt, as a multiple of those that the trial asks for."""
    attempts = [json.loads(line) for line in path.read_text().splitlines()]
    return [attempt["GPU"] / 0.25 if on_gpu else attempt["CPU"] for attempt in attempts]


def test_four_trials_share_the_device_and_two_of_them_fail_there(folder, environment, device):
    on_gpu = device.type == "cuda"
    models = ["networks:good", "networks:too_large", "networks:breaks"]
    shown, table, tags = search(
        folder,
        environment,
        study("four", {"gpus": 0.25 if on_gpu else 0, "concurrent": 4}, model=models, lr=[0.05, 0.1, 0.2, 0.4]),
    )
    assert len(table) == 12
    assert set(table["outcome"]) == {"trained"}, shown
    assert set(resources(folder / "poisonous", on_gpu)) == {1}, "the next attempt has as much as the first"
    assert set(resources(folder / "hungry", on_gpu)) == {1, 2}, "the next attempt has twice as much"
    attempts = sorted(int(tag["forcetune.attempt"]) for tag in tags)
    assert attempts[-2:] == [2, 2], "of the network that was too large and of the one that broke the GPU"
    assert sum(attempts) < 24, "most of the others were not run again"
    assert {tag["forcetune.device"] for tag in tags} == {torch.cuda.get_device_name() if on_gpu else "cpu"}
    assert table["val_accuracy"].mean() > 0.5


def test_a_probe_finds_how_many_trials_share_the_gpu(folder, environment, device):
    shown, table, _ = search(
        folder, environment, study("two", {"gpus": "auto", "concurrent": 2}, lr=[0.05, 0.1, 0.2, 0.4], epochs=3)
    )
    assert set(table["outcome"]) == {"trained"}, shown
    if device.type == "cpu":
        assert "no GPU here, trials run on the CPU" in shown
        return
    capacity = int(re.search(r"its memory would hold (\d+)", shown).group(1))
    assert capacity > 10, "of networks of a few thousand weights, each beside a CUDA context"
    assert "2 trials share a GPU" in shown

"""A study and its folder."""

import shutil

import pytest

from forcetune.spec import Study


@pytest.fixture
def folder(tmp_path, monkeypatch, empty_mlflow):
    """The current folder, with an MLflow store in it."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("FORCETUNE_STORAGE", raising=False)
    return tmp_path


@pytest.fixture
def make_study():
    def make(trial=None, **top):
        fixed = {"dataset": "synthetic", "model": "mlp", "width": 12, "epochs": 2}
        sampled = {"method": ["random", "snip", "force"], "density": {"low": 0.05, "high": 0.5, "log": True}}
        return Study.from_dict({"study": "s", "trial": {**fixed, **sampled, **(trial or {})}, **top})

    return make

"""The networks that the tests of exports share."""

import shutil

import exporting
import pytest


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory, empty_mlflow):
    """Make a folder with an MLflow store, which is the current one of a module of tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("searched")
        shutil.copy(empty_mlflow, folder / "mlflow.db")
        patch.chdir(folder)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "FORCETUNE_STORAGE", "FORCETUNE_STATE"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="session")
def trained():
    """Return a trained network with convolutions, batch norm and shortcuts."""
    return exporting.train()


@pytest.fixture(scope="session")
def trained_mlp():
    """Return a trained network without batch norm, which is exported within a second."""
    trial = exporting.CONVOLUTIONAL_TRIAL.model_copy(update={"model": "mlp", "width": 24})
    return exporting.train(trial)

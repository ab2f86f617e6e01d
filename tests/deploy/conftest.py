"""The networks that the tests of exports share."""

import exporting
import pytest


@pytest.fixture(scope="session")
def trained():
    """Return a trained network with convolutions, batch norm and shortcuts."""
    return exporting.train()


@pytest.fixture(scope="session")
def trained_mlp():
    """Return a trained network without batch norm, which is exported within a second."""
    trial = exporting.CONVOLUTIONAL_TRIAL.model_copy(update={"model": "mlp", "width": 24})
    return exporting.train(trial)

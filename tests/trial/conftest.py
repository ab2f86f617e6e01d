"""A fixture that all tests of trials use."""

import pytest

from forcetune import trial


@pytest.fixture(autouse=True)
def _clear_pruning_caches():
    trial.clear_pruning_caches()

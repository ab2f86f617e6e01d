"""A fixture that the tests of data sets share."""

import pytest

from forcetune.data import load


@pytest.fixture
def empty_load_cache():
    """Load every data set anew, and keep none for the tests that follow."""
    load.cache_clear()
    yield
    load.cache_clear()

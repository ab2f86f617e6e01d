"""Fail points are for tests alone."""

import pytest

from forcetune.errors import InputError
from forcetune.ledger import fail_points


def test_a_search_outside_tests_is_refused(monkeypatch):
    monkeypatch.setenv("FORCETUNE_FAULT", "tell before 2")
    fail_points.refuse_outside_tests()
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with pytest.raises(InputError, match="FORCETUNE_FAULT is set.*unset it"):
        fail_points.refuse_outside_tests()
    monkeypatch.delenv("FORCETUNE_FAULT")
    fail_points.refuse_outside_tests()

"""What all tests share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums in one order, so that equal runs are equal bit for bit; and tests that run side by side share the cores."""
    torch.set_num_threads(1)

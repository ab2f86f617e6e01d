"""What all tests share."""

import sqlite3
from contextlib import closing

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums in one order, so that equal runs are equal bit for bit; and tests that run side by side share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory):
    """An MLflow store to copy: MLflow takes seconds to make one."""
    from forcetune.tracking import Tracker

    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    Tracker("template", f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:  # what was written ahead, into the one file that is copied
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path

"""The fixtures and options that all tests share."""

import shutil
import sqlite3
from contextlib import closing, suppress
from functools import partial
from types import ModuleType

import pytest
import torch

with suppress(ImportError):  # a machine with a GPU need not have it
    from hypothesis import settings

    settings.register_profile("any machine", deadline=None)  # a busy one is slow, and no test is about time
    settings.load_profile("any machine")


HEAVY_MODULES = {"subprocess", "multiprocessing", "commands", "ray"}


def pytest_addoption(parser):
    parser.addoption("--device", choices=("cuda", "cpu"), help="where tests/gpu run (cuda where torch sees a GPU)")


def pytest_collection_modifyitems(items):
    """Mark the tests that use a store, a process or Ray, by their fixtures and by what their file imports."""
    for item in items:
        names = {value.__name__ for value in vars(item.module).values() if isinstance(value, ModuleType)}
        imports = {getattr(value, "__module__", None) for value in vars(item.module).values()}
        if "empty_mlflow" in item.fixturenames or HEAVY_MODULES & (names | imports):
            item.add_marker("heavy")


@pytest.hookimpl(tryfirst=True, optionalhook=True)  # pytest-xdist may not be installed
def pytest_xdist_make_scheduler(config, log):
    """Give the files that share a set-up of minutes to one worker."""
    if config.getvalue("dist") != "loadfile":
        return None
    from shared_setups import SharedSetupScheduling

    return SharedSetupScheduling(config, log)


@pytest.fixture(autouse=True, scope="session")
def use_one_thread():
    """Make torch use one thread, so that sums have one order and equal runs are equal bit for bit.

    Tests that run at the same time also share the cores.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory):
    """Return the path of an empty MLflow store to copy, since MLflow takes seconds to make one."""
    from forcetune.tracking import Tracker

    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    Tracker("template", f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:  # only this file is copied, without its log
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch, empty_mlflow):
    """Return a temporary folder, which becomes the current one, with an MLflow store in it."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("FORCETUNE_STORAGE", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def make_study():
    from forcetune.study import Study

    def make(trial=None, **top):
        fixed = {"dataset": "synthetic", "model": "mlp", "width": 12, "epochs": 2}
        sampled = {"method": ["random", "snip", "force"], "density": {"low": 0.05, "high": 0.5, "log": True}}
        return Study.from_dict({"study": "s", "trial": {**fixed, **sampled, **(trial or {})}, **top})

    return make


@pytest.fixture
def search_study(folder, make_study):
    """Return a function that makes a study with ended trials; `made.search` has its arguments."""
    import made

    return partial(made.search, make_study)


@pytest.fixture
def companion_runner():
    """Return a runner of companions that trains nothing."""
    import made

    return made.CompanionRunner()


@pytest.fixture
def table_runner(monkeypatch):
    """Return a runner of companions whose runs are in no store, and from which baselines and nights read them."""
    import made

    from forcetune import tracking

    runner = made.TableRunner()
    monkeypatch.setattr(tracking, "load_companions", runner.load_companions)
    return runner

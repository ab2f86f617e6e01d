"""Parts of forcetune switched off for the ablation, in every process that has this folder in its PYTHONPATH.

Python imports this module when it starts. RACE_WITHOUT names the part; its module is changed once it is imported, also
in the workers of Ray, which inherit the environment. A part that forcetune no longer has fails the import.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def replace(owner: Any, name: str, value: Any) -> None:
    """Put a value in the place of an attribute that is there."""
    if not hasattr(owner, name):
        raise AttributeError(f"{owner} has no {name} to switch off")
    setattr(owner, name, value)


def without_compaction(module: ModuleType) -> None:
    """Train every network whole."""
    replace(module, "_compaction", lambda *arguments: None)


def without_shared_steps(module: ModuleType) -> None:
    """Take every pruning step anew."""
    replace(module, "find_pruning_cache", lambda *arguments: None)


def without_start(module: ModuleType) -> None:
    """Leave the first proposals to Optuna: ten random ones."""
    replace(module.Sampled, "_covering_values", lambda *arguments: {})
    replace(module, "startup_trials", lambda study: 10)


def without_long_lived_workers(module: ModuleType) -> None:
    """Start a process for each trial."""
    run = module.run

    def run_anew(*arguments: Any, **options: Any) -> None:
        run(*arguments, **{**options, "reuse_actors": False})

    replace(module, "run", run_anew)


SWITCHES: dict[str, tuple[str, Callable[[ModuleType], None]]] = {
    "compaction": ("forcetune.training.part", without_compaction),
    "shared_steps": ("forcetune.trial.preparation", without_shared_steps),
    "start": ("forcetune.search.proposals", without_start),
    "long_lived_workers": ("forcetune.search.cluster", without_long_lived_workers),
}


class SwitchingFinder(MetaPathFinder):
    """A finder that lets a module be loaded as it is, and changes it then."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._change = change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and spec.loader:
            spec.loader = SwitchingLoader(spec.loader, self._change)
        return spec


class SwitchingLoader(Loader):
    """A loader that changes the module that another one has loaded."""

    def __init__(self, loader: Loader, change: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._change = change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._change(module)


if part := os.environ.get("RACE_WITHOUT"):
    sys.meta_path.insert(0, SwitchingFinder(*SWITCHES[part]))

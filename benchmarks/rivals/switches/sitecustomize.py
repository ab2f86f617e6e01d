"""Features of forcetune that are switched off for the ablation, in every process with this folder in its PYTHONPATH.

Python imports this module when it starts. RACE_WITHOUT names the feature. Its module is changed right after its import,
also in the workers of Ray, which inherit the environment. The import fails where forcetune no longer has the feature.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def replace(owner: Any, name: str, value: Any) -> None:
    """Replace an attribute that exists by a value."""
    if not hasattr(owner, name):
        raise AttributeError(f"{owner} has no {name} to switch off")
    setattr(owner, name, value)


def without_compaction(module: ModuleType) -> None:
    """Train every network at its full size."""
    replace(module, "_find_worthwhile_compaction", lambda *arguments: None)


def without_shared_steps(module: ModuleType) -> None:
    """Compute every pruning step anew."""
    replace(module, "find_pruning_cache", lambda *arguments: None)


def without_start(module: ModuleType) -> None:
    """Leave the first ten proposals to Optuna, which draws them at random."""
    replace(module.SampledProposals, "_covering_values", lambda *arguments: {})
    for owner in (module, sys.modules["forcetune.search.samplers"]):  # loaded before it, as it imports from it
        replace(owner, "count_start_trials", lambda study: 10)


def without_long_lived_workers(module: ModuleType) -> None:
    """Start a process for each trial."""
    run = module.run

    def run_without_reuse(*arguments: Any, **options: Any) -> None:
        run(*arguments, **{**options, "reuse_actors": False})

    replace(module, "run", run_without_reuse)


SWITCHES: dict[str, tuple[str, Callable[[ModuleType], None]]] = {
    "compaction": ("forcetune.training.part", without_compaction),
    "shared_steps": ("forcetune.trial.preparation", without_shared_steps),
    "start": ("forcetune.search.proposals", without_start),
    "long_lived_workers": ("forcetune.execution.cluster", without_long_lived_workers),
}


class SwitchingFinder(MetaPathFinder):
    """A finder that lets a module be loaded unchanged and then changes it."""

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
    """A loader that changes a module after another loader has loaded it."""

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


if feature := os.environ.get("RACE_WITHOUT"):
    sys.meta_path.insert(0, SwitchingFinder(*SWITCHES[feature]))

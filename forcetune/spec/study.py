"""A study: one file, one Optuna study, one MLflow experiment."""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property, partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forcetune.errors import InputError
from forcetune.names import resolve, suggestion
from forcetune.spec.domains import Domain, Fixed, Problem, Range, describe, parse_domain
from forcetune.spec.reading import read_yaml
from forcetune.spec.start import check_warm_start, parse_start
from forcetune.spec.trial import CONDITIONAL, Trial, applies

METRICS: dict[str, str] = {
    "train_loss": "mean cross-entropy over the epoch's steps",
    "val_loss": "cross-entropy on the validation images",
    "val_accuracy": "share of the validation images put in their class, 0 to 1",
    "density": "fraction of prunable weights kept",
    "sparsity": "1 - density",
    "effective_density": "fraction of prunable weights that lie on a path from input to output",
    "macs": "multiply-adds of one sample after removing channels without such a path",
    "macs_fraction": "macs over the dense network's",
    "layers_emptied": "layers without a weight",
    "channels_emptied": "output channels without a weight, over all layers",
    "collapsed": "1 where no path from input to output is left",
    "saliency_samples": "samples that the mask cost",
    "prune_seconds": "time to find the mask",
    "train_seconds": "time to train, validation included",
}

REQUIRED = [name for name, info in Trial.model_fields.items() if info.is_required()]
DEFAULT_TRIALS = 32


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Search(_Section):
    """How configurations are proposed."""

    trials: int | None = Field(
        None,
        ge=1,
        description=f"trials in all, collapsed and failed ones included ({DEFAULT_TRIALS}; grid: all)",
    )
    sampler: Literal["tpe", "nsga2", "random", "grid"] = Field("tpe", description="`tpe`, `nsga2`, `random` or `grid`")
    seed: int = Field(0, ge=0, description="of the sampler")
    start: list[dict[str, Any]] = Field(
        default=[], description="known configurations to run first; a field left out of one is sampled"
    )
    warm_start: list[str] = Field(
        default=[], description="studies in the same Optuna storage that the sampler learns from; their objectives too"
    )


class Resources(_Section):
    """What one trial occupies, and how many run at once."""

    cpus: float = Field(1, gt=0, description="cores a trial, and its threads")
    gpus: float = Field(0, ge=0, description="GPUs a trial; fractions share one")
    concurrent: int | None = Field(None, ge=1, description="trials at once (as many as fit)")
    max_seconds: float | None = Field(None, gt=0, description="an attempt at a trial that takes longer fails it (none)")
    retries: int = Field(
        3, ge=0, description="further attempts at a trial whose worker or node was lost, or had too little memory"
    )


class Study(_Section):
    """A whole study file; make one with `load(path)` or `Study.from_dict(...)`, which validate it."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="the study's name")
    objectives: dict[str, Literal["max", "min"]] = Field(
        default={"val_accuracy": "max", "density": "min"},
        min_length=1,
        description="metrics, each `max` or `min`",
    )
    trial: dict[str, Any] = Field(description="one configuration's fields: values or domains")
    search: Search = Field(default=Search(), description="how configurations are proposed")
    resources: Resources = Field(default=Resources(), description="what one trial occupies")

    @classmethod
    def from_dict(cls, written: Any) -> "Study":
        """Validate what was written. Raises InputError naming the place, what is there and what is allowed."""
        if not isinstance(written, Mapping):
            kind = "nothing" if written is None else type(written).__name__
            raise InputError(
                f"holds {kind} where a study is expected: the keys study, trial, objectives, search, resources"
            )
        try:
            study = cls.model_validate(dict(written))
        except ValidationError as error:
            raise InputError("; ".join(_explain(e) for e in error.errors())) from None
        try:
            study._check()
        except Problem as problem:
            raise InputError(str(problem)) from None
        return study

    @cached_property
    def _domains(self) -> dict[str, Domain]:
        return {name: parse_domain(name, value) for name, value in self.trial.items()}

    @cached_property
    def space(self) -> dict[str, Domain]:
        """The domain of each field that the file names, parents of a `when:` before their children."""
        try:
            order = list(TopologicalSorter({name: self.parents(name) for name in self._domains}).static_order())
        except CycleError as error:
            raise Problem("trial", f"`when:` goes in a circle: {' -> '.join(error.args[1])}") from None
        return {name: self._domains[name] for name in order}

    def active(self, name: str, chosen: Mapping[str, Any]) -> bool:
        """Whether a field has a value, given the values chosen before it."""
        if not applies(name, chosen):
            return False
        when = self.space[name].when
        return all(parent in chosen and chosen[parent] in values for parent, values in when.items())

    def make_trial(self, sampled: Mapping[str, Any]) -> Trial:
        """The trial with these sampled values and the study's fixed ones."""
        values: dict[str, Any] = {}
        for name, domain in self.space.items():
            if self.active(name, values):
                values[name] = domain.value if isinstance(domain, Fixed) else sampled[name]
        return Trial(**values)

    def grid(self) -> Iterator[Trial]:
        """Every combination of the choices, once each. Raises InputError where a field is a range."""
        if ranges := self.ranges():
            raise InputError(f"trial.{ranges[0]} is a range: it has no finite list of values")
        seen = set()
        for values in self.combinations(list(self.space)):
            trial = Trial(**values)
            if trial.key not in seen:
                seen.add(trial.key)
                yield trial

    def combinations(self, names: Collection[str]) -> Iterator[dict[str, Any]]:
        """What these fields and those they depend on may be together; of a range, its ends."""
        wanted = {*names, *(parent for name in names for parent in self._ancestors(name))}

        def extend(rest: list[str], chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if not rest:
                yield chosen
            elif not self.active(rest[0], chosen):
                yield from extend(rest[1:], chosen)
            else:
                for value in self.space[rest[0]].values:
                    yield from extend(rest[1:], {**chosen, rest[0]: value})

        return extend([name for name in self.space if name in wanted], {})

    def _ancestors(self, name: str) -> Iterator[str]:
        for parent in self.parents(name):
            yield parent
            yield from self._ancestors(parent)

    def parents(self, name: str) -> set[str]:
        """The fields of the file on whose values it depends whether a trial has this one."""
        implied = {"method"} if name in CONDITIONAL else set()
        if name == "saliency_batch_size":
            implied.add("samples_per_class")
        return {*self._domains[name].when, *implied} & set(self._domains)

    def ranges(self) -> list[str]:
        """The fields that are ranges, of which there is no finite list."""
        return [name for name, domain in self.space.items() if isinstance(domain, Range)]

    @cached_property
    def trials(self) -> int:
        """How many trials the study shall have."""
        size = sum(1 for _ in self.grid()) if self.search.sampler == "grid" else None
        wanted = self.search.trials or size or DEFAULT_TRIALS
        return min(wanted, size) if size else wanted

    @cached_property
    def start(self) -> list[dict[str, Any]]:
        """The values that each known configuration gives, parents of a `when:` before their children."""
        return parse_start(self)

    @property
    def identity(self) -> dict[str, Any]:
        """What may not change once the study has trials: all but `search:` and `resources:`."""
        return self.model_dump(exclude={"search", "resources"})

    def _check(self) -> None:
        if self.study.endswith(".companion"):
            raise Problem("study", f"{self.study!r}: names that end in .companion are kept for forcetune's re-runs")
        self._check_keys()
        for name in self.space:
            self._check_when(name)
        self._check_names()
        if self.search.sampler == "grid" and (ranges := self.ranges()):
            raise Problem(f"trial.{ranges[0]}", "a range has no grid; with `sampler: grid` list the values as choices")
        if len(self.start) > self.trials:
            raise Problem("search.start", f"has {len(self.start)} configurations, more than trials, {self.trials}")
        check_warm_start(self)

    def _check_keys(self) -> None:
        for name in self.trial:
            if name not in Trial.model_fields:
                raise Problem(
                    f"trial.{name}",
                    f"unknown key{suggestion(str(name), Trial.model_fields)}; allowed: {', '.join(Trial.model_fields)}",
                )
        for name in REQUIRED:
            if name not in self.trial:
                raise Problem(f"trial.{name}", "is missing; required: " + ", ".join(REQUIRED))
        for name in self.objectives:
            if name not in METRICS:
                raise Problem(
                    f"objectives.{name}",
                    f"no trial reports this metric{suggestion(name, METRICS)}; allowed: {', '.join(METRICS)}",
                )

    def _check_when(self, name: str) -> None:
        when = self.space[name].when
        place = f"trial.{name}.when"
        if when and name in REQUIRED:
            raise Problem(place, f"every trial has a {name}, so it cannot depend on another field")
        for parent, values in when.items():
            if parent not in self.space:
                raise Problem(
                    f"{place}.{parent}",
                    f"the study's trial has no such field{suggestion(str(parent), self.space)}; "
                    f"allowed: {', '.join(n for n in self.space if n != name)}",
                )
            domain = self.space[parent]
            if isinstance(domain, Range):
                raise Problem(f"{place}.{parent}", "is a range; `when:` asks for fixed values or choices")
            for value in values:
                if value not in domain.values:
                    raise Problem(
                        f"{place}.{parent}",
                        f"{value!r} is never chosen; allowed: {', '.join(map(str, domain.values))}",
                    )

    def _check_names(self) -> None:
        from forcetune.data import DATASETS
        from forcetune.models import find_builder
        from forcetune.pruning import LOSSES, SCHEDULES, method_row

        resolvers: dict[str, Callable[[str], Any]] = {
            "dataset": partial(resolve, table=DATASETS, kind="data set"),
            "model": find_builder,
            "method": method_row,
            "schedule": partial(resolve, table=SCHEDULES, kind="schedule"),
            "saliency_loss": partial(resolve, table=LOSSES, kind="loss"),
        }
        for name, find in resolvers.items():
            for value in self.space[name].values if name in self.space else []:
                try:
                    find(value)
                except InputError as error:
                    raise Problem(f"trial.{name}", str(error)) from None


def load(path: str | Path) -> Study:
    """Read and validate a study file. Raises InputError, its message starting with the file's path."""
    written = read_yaml(path)
    try:
        return Study.from_dict(written)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _explain(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    sections: dict[str, type[BaseModel]] = {"search": Search, "resources": Resources}
    owner = sections.get(str(error["loc"][0]), Study) if len(error["loc"]) > 1 else Study
    if error["type"] == "string_pattern_mismatch":
        return f"{place}: {error['input']!r} is no name; allowed: letters, digits, _ . - after a letter or digit"
    return f"{place}: {describe(error, owner)}"

"""A study: one file, one Optuna study, one MLflow experiment."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property, partial
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from forcetune.errors import InputError
from forcetune.names import COMPANION, resolve, suggestion
from forcetune.spec.domains import Domain, Fixed, Range, describe, parse_domain
from forcetune.spec.problems import Problem, collect, show_value, summarize
from forcetune.spec.reading import read_yaml
from forcetune.spec.start import parse_start, start_problems, warm_start_problems
from forcetune.spec.task import Bound, Direction, Objective, Task, make_task, task_problems
from forcetune.spec.trial import CONDITIONAL, Trial, applies

REQUIRED = [name for name, info in Trial.model_fields.items() if info.is_required()]
DEFAULT_TRIALS = 32
GRID_TRIALS = 100_000  # of one study, which lists them all before it starts
NAME_CHARACTERS = 200  # a file system takes 255, what forcetune adds to the name included
LAST_SEED = 2**62  # fresh seeds follow it, below 2^63


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Seeds(_Section):
    """How often a point is run again."""

    front: int = Field(ge=1, description="fresh seeds at most for a front point and what lies within its noise")


class Budget(_Section):
    """What a search may cost."""

    hours: float | None = Field(None, gt=0, description="of searching, restarts included")
    device_hours: float | None = Field(None, gt=0, description="of GPUs, or of cores where a trial has no GPU")


class Patience(_Section):
    """When the front counts as found."""

    trials: int = Field(ge=1, description="trials within which the front must grow")
    gain: float = Field(gt=0, description="by this share of its hypervolume")


def _number_or_share(written: Any) -> Any:
    is_number = isinstance(written, int) and not isinstance(written, bool) and written >= 0
    if written is not None and not is_number and not (isinstance(written, float) and 0 < written < 1):
        raise ValueError("should be a number of trials (0 or more), or a share of them (between 0 and 1)")
    return written


class Search(_Section):
    """How configurations are proposed."""

    trials: int | None = Field(
        None,
        ge=1,
        description=f"trials in all, collapsed and failed ones included ({DEFAULT_TRIALS}; grid: all)",
    )
    sampler: Literal["tpe", "nsga2", "random", "grid"] = Field("tpe", description="`tpe`, `nsga2`, `random` or `grid`")
    seed: int = Field(0, ge=0, lt=2**32, description="of the sampler")
    stopping: Literal["pareto", "safe", "none"] | None = Field(
        None, description="which trials end early: `pareto`, `safe` or `none` (`pareto`; grid: `none`)"
    )
    seeds: Seeds | None = Field(
        None, description="`{front: N}`: front points run again with up to N fresh seeds when the proposals are done"
    )
    budget: Budget | None = Field(
        None, description="`{hours: , device_hours: }`: no trial starts once one of them is used up"
    )
    patience: Patience | None = Field(
        None, description="`{trials: , gain: }`: ends where the hypervolume grew by less than that share"
    )
    max_failures: Annotated[int | float | None, BeforeValidator(_number_or_share)] = Field(
        None,
        description="failed trials that are borne: a number, or a share once ten trials have ended; one more ends the "
        "search (it ends when five in a row fail for the same reason)",
    )
    start: list[dict[str, Any]] = Field(
        default=[], description="known configurations to run first; a field left out of one is sampled"
    )
    warm_start: list[str] = Field(
        default=[], description="studies in the same Optuna storage that the sampler learns from; their objectives too"
    )


AUTO: Literal["auto"] = "auto"
Priority = Literal["normal", "low"]  # of a study among those of its cluster


def _number_or_auto(written: Any) -> Any:
    number = isinstance(written, int | float) and not isinstance(written, bool)
    if written != AUTO and not (number and 0 <= written < float("inf")):
        raise ValueError("should be a number, at least 0, or auto")  # else pydantic says it once a form
    return written


class Resources(_Section):
    """What one trial occupies, and how many run at once."""

    cpus: float = Field(1, gt=0, description="cores a trial, and its threads")
    gpus: Annotated[float | Literal["auto"], BeforeValidator(_number_or_auto)] = Field(
        0.0,
        description="GPUs a trial, fractions share one; `auto`: a probe finds how many trials the memory of one holds, "
        "0 where there is none",
    )
    concurrent: int | None = Field(None, ge=1, description="trials at once (as many as fit)")
    compile: bool = Field(False, description="train through torch.compile, which takes time before the first step")
    max_seconds: float | None = Field(None, gt=0, description="an attempt at a trial that takes longer fails it (none)")
    retries: int = Field(
        3,
        ge=0,
        description="further attempts at a trial whose worker was lost or short of memory (a lost node is free)",
    )


class Placed(Resources):
    """The same with the GPUs of a trial as a number, also where the study leaves it open."""

    gpus: float = 0


class Code(_Section):
    """What goes to a cluster beside the study file."""

    paths: list[str] = Field(default=[], description="files and folders of the user's own code, in the current folder")
    pip: list[str] = Field(default=[], description="requirements that the cluster's machines lack")


SHORT, LONG = "short", "long"  # what stands for a whole section, or the section; in no place that is shown
T = TypeVar("T")
_Short = Annotated[T, Tag(SHORT)]
_Long = Annotated[T, Tag(LONG)]
_BY_FORM = Discriminator(lambda written: LONG if isinstance(written, dict | BaseModel) else SHORT)


class Study(_Section):
    """A whole study file; make one with `load(path)` or `Study.from_dict(...)`, which validate it."""

    study: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=NAME_CHARACTERS, description="the study's name"
    )
    objectives: dict[str, Annotated[_Short[Direction] | _Long[Objective], _BY_FORM]] = Field(
        default={"val_accuracy": "max", "density": "min"},
        min_length=1,
        description="metrics, each `max`, `min`, or `{direction: , reference: }`",
    )
    constraints: dict[str, Annotated[_Short[float] | _Long[Bound], _BY_FORM]] = Field(
        default={},
        description="metrics known before training, each a number (at most) or `{min: , max: }`; what breaks one is "
        "not trained",
    )
    measure: str | None = Field(
        None, description="`package.module:function` that measures the pruned network before training"
    )
    metrics: str | list[str] = Field(
        default=[], description="`package.module:function`, or a list: measured on the validation images, as `val_...`"
    )
    loss: str = Field("cross_entropy", description="`cross_entropy` or `package.module:function`, to train by")
    train: str | None = Field(None, description="`package.module:function`, a training loop of your own")
    code: Annotated[_Short[list[str]] | _Long[Code], _BY_FORM] = Field(
        default=[],
        description="for `submit`: files and folders to ship, or `{paths: , pip: }` (of functions of your own the "
        "current folder's modules)",
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
            messages = [_explain(e) for e in error.errors(include_url=False)]
            trial = written.get("trial")
            if isinstance(trial, Mapping) and all(isinstance(name, str) for name in trial):
                messages += _trial_problems(trial)
            raise InputError(summarize(messages)) from None
        if messages := study._problems():
            raise InputError(summarize(messages))
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
        """What may not change once the study has trials: all but `search:`, `resources:` and what `code:` ships.

        What is at its default is left out, but for the objectives: a new key re-names no study.
        """
        return {
            "objectives": self.model_dump(include={"objectives"})["objectives"],
            **self.model_dump(exclude={"search", "resources", "code"}, exclude_defaults=True),
        }

    @property
    def shipped(self) -> Code:
        """What `code:` says, in its long form."""
        return self.code if isinstance(self.code, Code) else Code(paths=self.code)

    @property
    def modules(self) -> set[str]:
        """The modules and packages, by their first names, of the functions `package.module:function` in the file."""
        named = [self.task.loss, self.task.measure, self.task.train, *self.task.metrics]
        for field in ("dataset", "model", "method", "saliency_loss"):
            named += self.space[field].values if field in self.space else []
        return {name.partition(":")[0].partition(".")[0] for name in named if name and ":" in name}

    @property
    def first_fresh_seed(self) -> int:
        """From here on no seed is one that the study itself can ask for."""
        known = self.space["seed"].values if "seed" in self.space else [Trial.model_fields["seed"].default]
        return 1 + int(max(known))

    @property
    def directions(self) -> dict[str, Direction]:
        """`max` or `min` for each objective."""
        return {n: o.direction if isinstance(o, Objective) else o for n, o in self.objectives.items()}

    @property
    def stopping(self) -> str:
        """The rule by which trials are stopped early; a grid is asked for whole unless it says otherwise."""
        return self.search.stopping or ("none" if self.search.sampler == "grid" else "pareto")

    def references(self, chance: float) -> dict[str, float]:
        """Where the hypervolume of each objective is measured from, as far as it is known; chance: the accuracy of."""
        highest = max(self.space["density"].values)
        known = {"val_accuracy": chance, "density": highest, "sparsity": 1 - highest}
        named = {n: o.reference for n, o in self.objectives.items() if isinstance(o, Objective)}
        return {name: value for name, value in {**known, **named}.items() if name in self.objectives}

    @cached_property
    def task(self) -> Task:
        """What the study asks of every trial beside its fields."""
        return make_task(self)

    def companion(self, search: Search, **changed: Any) -> "Study":
        """The study of this one's companions, which proposes nothing by itself; changed: other sections."""
        written = {**self.model_dump(exclude={"search"}), **changed}
        return Study.model_validate({**written, "study": self.study + COMPANION, "search": search.model_dump()})

    def _problems(self) -> list[str]:
        """Return what is wrong: all that can be told before what it depends on is mended."""
        stages: list[Iterable[Callable[[], object]]] = [
            [lambda: self.space],
            (partial(self._check_when, name) for name in self.trial),
            self._name_checks(),
            [self._check_size],
        ]
        messages = [*map(str, self._section_problems()), *_trial_problems(self.trial)]
        for stage in stages:
            if messages:
                return messages
            messages = collect(stage)
        return messages or [*map(str, self._search_problems())]

    def _section_problems(self) -> Iterator[Problem]:
        """Yield what is wrong outside of `trial:`, whatever stands there."""
        if self.study.endswith(COMPANION):
            yield Problem("study", f"{self.study!r}: names that end in {COMPANION} are kept for forcetune's re-runs")
        if self.search.budget and not self.search.budget.model_dump(exclude_none=True):
            yield Problem("search.budget", "is empty; allowed: hours, device_hours, or both")

    def _check_size(self) -> None:
        if self.first_fresh_seed > LAST_SEED:
            raise Problem("trial.seed", "is beyond 2^62; allowed: less, since fresh seeds follow it")
        if self.search.sampler != "grid":
            return
        if ranges := self.ranges():
            raise Problem(f"trial.{ranges[0]}", "a range has no grid; with `sampler: grid` list the values as choices")
        if sum(1 for _ in islice(self.combinations(list(self.space)), GRID_TRIALS + 1)) > GRID_TRIALS:
            raise Problem("trial", f"the grid has more than {GRID_TRIALS:,} trials; list fewer choices, or use `tpe`")

    def _search_problems(self) -> Iterator[Problem]:
        """Yield what objectives, constraints and `search:` ask for that the trials do not have."""
        yield from task_problems(self)
        yield from start_problems(self)
        if len(self.search.start) > self.trials:
            count = len(self.search.start)
            yield Problem("search.start", f"has {count} configurations, more than trials, {self.trials}")
        yield from warm_start_problems(self)
        unknown = [name for name in self.objectives if name not in self.references(0)]
        for name in unknown if self.search.patience else []:
            yield Problem(
                f"objectives.{name}",
                "`patience` asks for the hypervolume, which needs the worst value that counts: write "
                f"{name}: {{direction: {self.directions[name]}, reference: ...}}",
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
                        f"{show_value(value)} is never chosen; allowed: {', '.join(map(str, domain.values))}",
                    )

    def _name_checks(self) -> Iterator[Callable[[], object]]:
        """Yield a check for each name of a table's row, or of a function of the user's own."""
        from forcetune.data import DATASETS
        from forcetune.models import find_builder
        from forcetune.pruning import LOSSES, SCHEDULES, method_row
        from forcetune.training import find_loss

        resolvers: dict[str, Callable[[str], Any]] = {
            "dataset": partial(resolve, table=DATASETS, kind="data set"),
            "model": find_builder,
            "method": method_row,
            "schedule": partial(resolve, table=SCHEDULES, kind="schedule"),
            "saliency_loss": partial(resolve, table=LOSSES, kind="loss"),
        }
        for name, find in resolvers.items():
            for value in self.space[name].values if name in self.space else []:
                yield partial(_find, f"trial.{name}", find, value)
        yield partial(_find, "loss", find_loss, self.task.loss)
        functions = {"measure": self.task.measure, "train": self.task.train}
        for key, function in [*functions.items(), *(("metrics", metric) for metric in self.task.metrics)]:
            if function is not None:
                yield partial(_find, key, partial(resolve, table={}, kind=key), function)


def _trial_problems(trial: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the keys under `trial:`, and with each domain by itself."""
    messages = []
    for name in trial:
        if name not in Trial.model_fields:
            allowed = ", ".join(Trial.model_fields)
            near = suggestion(str(name), Trial.model_fields)
            messages.append(f"trial.{name}: unknown key{near}; allowed: {allowed}")
    missing = [name for name in REQUIRED if name not in trial]
    messages += [f"trial.{name}: is missing; required: {', '.join(REQUIRED)}" for name in missing]
    fields = (name for name in trial if name in Trial.model_fields)
    return messages + collect(partial(parse_domain, name, trial[name]) for name in fields)


def _find(place: str, find: Callable[[str], Any], name: str) -> None:
    try:
        find(name)
    except InputError as error:
        raise Problem(place, str(error)) from None


def load(path: str | Path) -> Study:
    """Read and validate a study file. Raises InputError, its message starting with the file's path."""
    written = read_yaml(path)
    try:
        return Study.from_dict(written)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _owner(place: list[str]) -> type[BaseModel]:
    """The section that an unknown key at this place stands in."""
    sections: dict[str, type[BaseModel]] = {"search": Search, "resources": Resources, "code": Code}
    inner: dict[str, type[BaseModel]] = {"seeds": Seeds, "budget": Budget, "patience": Patience}
    if not place:  # a key that is no text
        return Study
    if place[0] == "search" and len(place) > 1:
        return inner.get(place[1], Search)
    if place[0] == "objectives":
        return Objective
    if place[0] == "constraints":
        return Bound
    return sections.get(place[0], Study) if len(place) > 1 else Study


def _explain(error: Any) -> str:
    parts = [str(part) for part in error["loc"] if part not in (SHORT, LONG)]
    place, owner = ".".join(parts), _owner(parts)
    if error["type"] == "string_pattern_mismatch":
        return (
            f"{place}: {show_value(error['input'])} is no name; allowed: letters, digits, _ . - after a letter or digit"
        )
    return f"{place}: {describe(error, owner)}"

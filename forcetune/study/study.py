"""The study: one file, one Optuna study, one MLflow experiment."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property, partial
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationError,
)

from forcetune.errors import InputError, locating
from forcetune.names import COMPANION, resolve, suggestion
from forcetune.study.domains import Domain, Fixed, Range, describe_error, parse_domain
from forcetune.study.problems import Problem, collect, show_value, summarize
from forcetune.study.processes import process_problems
from forcetune.study.reading import read_yaml
from forcetune.study.sections import (
    DEFAULT_TRIALS,
    OPTUNA_PREFIX,
    Budget,
    Code,
    Focus,
    Patience,
    Resources,
    Search,
    Section,
    Seeds,
)
from forcetune.study.start import parse_start, start_problems, warm_start_problems
from forcetune.study.task import Bound, Direction, Objective, Task, make_task, task_problems
from forcetune.study.trial import CONDITIONAL_FIELDS, Trial, is_applicable

REQUIRED_TRIAL_FIELDS = [name for name, info in Trial.model_fields.items() if info.is_required()]
GRID_TRIALS = 100_000  # at most, since a study lists all of them before it starts
NAME_CHARACTERS = 200  # a file system takes 255, and forcetune adds to the name
CHANGEABLE_KEYS = ("search", "resources", "code", "on_end")  # that may change once a study has trials
LAST_SEED = 2**62  # of a study; fresh seeds follow it, below 2^63

# The two forms of a section: a value that stands for it, or its keys. They are never shown to the user.
SHORT_FORM, LONG_FORM = "short", "long"
Form = TypeVar("Form")
_Short = Annotated[Form, Tag(SHORT_FORM)]
_Long = Annotated[Form, Tag(LONG_FORM)]
_BY_FORM = Discriminator(lambda written: LONG_FORM if isinstance(written, dict | BaseModel) else SHORT_FORM)


class Study(Section):
    """The content of a study file; `load_study(path)` and `Study.from_dict(...)` make one and validate it."""

    study: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=NAME_CHARACTERS, description="name of the study"
    )
    objectives: dict[str, Annotated[_Short[Direction] | _Long[Objective], _BY_FORM]] = Field(
        default={"val_accuracy": "max", "density": "min"},
        min_length=1,
        description="metrics, each `max`, `min`, or `{direction: , reference: }`",
    )
    constraints: dict[str, Annotated[_Short[float] | _Long[Bound], _BY_FORM]] = Field(
        default={},
        description="bounds on static metrics, each a number (the maximum) or `{min: , max: }`; a network that breaks "
        "one is not trained, or is `infeasible` after it where its masks change",
    )
    measure: str | None = Field(
        None,
        description="`package.module:function` that measures the pruned network, before training or, where its masks "
        "change, after it",
    )
    metrics: str | list[str] = Field(
        default=[],
        description="`package.module:function`, or a list of them: metrics of the validation images, `val_...`",
    )
    loss: str = Field("cross_entropy", description="training loss: `cross_entropy` or `package.module:function`")
    train: str | None = Field(None, description="your own training loop: `package.module:function`")
    code: Annotated[_Short[list[str]] | _Long[Code], _BY_FORM] = Field(
        default=[],
        description="for `submit`: files and folders to send, or `{paths: , pip: }` (with functions of your own: the "
        "modules in the current folder)",
    )
    trial: dict[str, Any] = Field(description="fields of a configuration: values or domains")
    search: Search = Field(default=Search(), description="how configurations are proposed")
    resources: Resources = Field(default=Resources(), description="resources of one trial")
    on_end: list[str] = Field(
        default=[],
        description="program and its arguments, started when the study is complete, ends early or is given up; it "
        "reads the reason as JSON on standard input",
    )

    @classmethod
    def from_dict(cls, written: Any) -> "Study":
        """Validate the content of a study file.

        Args:
            written: The content, as plain data.

        Returns:
            The study.

        Raises:
            InputError: The content is not valid. The message has the position, the value and what is allowed.
        """
        if not isinstance(written, Mapping):
            kind = "nothing" if written is None else type(written).__name__
            raise InputError(
                f"contains {kind}, but a study is expected, with the keys study, trial, objectives, search, resources"
            )
        try:
            study = cls.model_validate(dict(written))
        except ValidationError as error:
            messages = [_explain(details) for details in error.errors(include_url=False)]
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
            circle = " -> ".join(error.args[1])
            raise Problem("trial", f"the `when:` conditions depend on each other in a circle: {circle}") from None
        return {name: self._domains[name] for name in order}

    def is_active(self, name: str, chosen: Mapping[str, Any]) -> bool:
        """Return whether a field has a value.

        Args:
            name: The field.
            chosen: The values of the fields before it in `space`.
        """
        if not is_applicable(name, chosen):
            return False
        when = self.space[name].when
        return all(parent in chosen and chosen[parent] in values for parent, values in when.items())

    def make_trial(self, sampled: Mapping[str, Any]) -> Trial:
        """Return the trial with the study's fixed values and sampled ones.

        Args:
            sampled: The values of the fields that are sampled, by name.
        """
        return Trial(**self._assign(lambda name, domain: sampled[name]))

    def sample(self, choose: Callable[[str, Domain], Any]) -> dict[str, Any]:
        """Return the values of the fields that are sampled and apply, by name.

        Args:
            choose: A function of a field's name and its domain, which returns its value. It is asked for the parents of
                a `when:` before their children.
        """
        assigned = self._assign(choose)
        return {name: value for name, value in assigned.items() if not isinstance(self.space[name], Fixed)}

    def _assign(self, choose: Callable[[str, Domain], Any]) -> dict[str, Any]:
        """Return the values of all fields that apply, fixed ones included."""
        values: dict[str, Any] = {}
        for name, domain in self.space.items():
            if self.is_active(name, values):
                values[name] = domain.value if isinstance(domain, Fixed) else choose(name, domain)
        return values

    def grid(self) -> Iterator[Trial]:
        """Yield a trial for every combination of the choices, each once.

        Yields:
            The trials.

        Raises:
            InputError: A field is a range.
        """
        if ranges := self.ranges():
            raise InputError(f"trial.{ranges[0]} is a range: it has no finite list of values")
        seen = set()
        for values in self.combinations(list(self.space)):
            trial = Trial(**values)
            if trial.key not in seen:
                seen.add(trial.key)
                yield trial

    def combinations(self, names: Collection[str]) -> Iterator[dict[str, Any]]:
        """Return the combinations of the values of some fields and of the fields that they depend on.

        Args:
            names: The fields. A range counts as its two ends.

        Returns:
            The values by field, one dict for each combination.
        """
        included = {*names, *(parent for name in names for parent in self._ancestors(name))}

        def extend(remaining: list[str], chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if not remaining:
                yield chosen
            elif not self.is_active(remaining[0], chosen):
                yield from extend(remaining[1:], chosen)
            else:
                for value in self.space[remaining[0]].values:
                    yield from extend(remaining[1:], {**chosen, remaining[0]: value})

        return extend([name for name in self.space if name in included], {})

    def _ancestors(self, name: str) -> Iterator[str]:
        for parent in self.parents(name):
            yield parent
            yield from self._ancestors(parent)

    def parents(self, name: str) -> set[str]:
        """Return the fields of the file whose values decide whether a trial has a field.

        Args:
            name: The field.
        """
        implied = {"method"} if name in CONDITIONAL_FIELDS else set()
        if name == "saliency_batch_size":
            implied.add("samples_per_class")
        return {*self._domains[name].when, *implied} & set(self._domains)

    def list_values(self, name: str) -> list[Any]:
        """Return the values of a field: its choices, the two ends of its range, or its default.

        Args:
            name: The field.
        """
        return self.space[name].values if name in self.space else [Trial.model_fields[name].default]

    def ranges(self) -> list[str]:
        """Return the fields whose domains are ranges, which have no finite list of values."""
        return [name for name, domain in self.space.items() if isinstance(domain, Range)]

    @cached_property
    def trials(self) -> int:
        """The number of trials that the study is to have."""
        size = sum(1 for _ in self.grid()) if self.search.sampler == "grid" else None
        trials = self.search.trials or size or DEFAULT_TRIALS
        return min(trials, size) if size else trials

    @cached_property
    def start(self) -> list[dict[str, Any]]:
        """The values that each known configuration sets, parents of a `when:` before their children."""
        return parse_start(self)

    @property
    def identity(self) -> dict[str, Any]:
        """The content that may not change once the study has trials.

        That is all but `search:`, `resources:`, `code:` and `on_end:`, which change no trial.

        Values at their defaults are left out, except the objectives, so that a new key does not change the identity of
        a study.
        """
        return {
            "objectives": self.model_dump(include={"objectives"})["objectives"],
            **self.model_dump(exclude={*CHANGEABLE_KEYS}, exclude_defaults=True),
        }

    @property
    def shipped_code(self) -> Code:
        """The section `code:` in its long form."""
        return self.code if isinstance(self.code, Code) else Code(paths=self.code)

    @property
    def modules(self) -> set[str]:
        """The top-level modules and packages of the user's functions `package.module:function` in the file."""
        functions = [self.task.loss, self.task.measure, self.task.train, *self.task.metrics]
        for field in ("dataset", "model", "method", "schedule", "saliency_loss"):
            functions += self.space[field].values if field in self.space else []
        if not self.search.sampler.startswith(OPTUNA_PREFIX):
            functions.append(self.search.sampler)
        modules = {name.partition(":")[0].partition(".")[0] for name in functions if name and ":" in name}
        return modules - {"forcetune"}  # every machine of a cluster has it

    @property
    def first_fresh_seed(self) -> int:
        """The lowest seed above all seeds of the study's own trials."""
        return 1 + int(max(self.list_values("seed")))

    @property
    def directions(self) -> dict[str, Direction]:
        """The direction of each objective, `max` or `min`."""
        return {
            name: objective.direction if isinstance(objective, Objective) else objective
            for name, objective in self.objectives.items()
        }

    @property
    def stopping(self) -> str:
        """The rule by which trials are stopped early; without one in the file, a grid stops none."""
        return self.search.stopping or ("none" if self.search.sampler == "grid" else "pareto")

    def references(self, chance: float) -> dict[str, float]:
        """Return the reference point of the hypervolume.

        Args:
            chance: The accuracy of a random guess, 0 to 1.

        Returns:
            The coordinate of each objective, except those for which neither the file nor forcetune has one.
        """
        highest = max(self.space["density"].values)
        defaults = {"val_accuracy": chance, "density": highest, "sparsity": 1 - highest}
        written = {
            metric: objective.reference
            for metric, objective in self.objectives.items()
            if isinstance(objective, Objective)
        }
        return {name: value for name, value in {**defaults, **written}.items() if name in self.objectives}

    @cached_property
    def task(self) -> Task:
        """The task that all trials of the study share."""
        return make_task(self)

    def make_companion(self, search: Search, **changed: Any) -> "Study":
        """Make the study of this study's companions, which proposes no trials by itself.

        Args:
            search: The section `search:` of the new study.
            changed: The other top-level keys that differ from this study's.

        Returns:
            The study, whose name is this one's with `.companion` after it.
        """
        written = {**self.model_dump(exclude={"search"}), **changed}
        return Study.model_validate({**written, "study": self.study + COMPANION, "search": search.model_dump()})

    def _problems(self) -> list[str]:
        """Return the problems of the study, without those that can be found only after others are corrected."""
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
        """Yield the problems outside of `trial:`, which do not depend on it."""
        if self.study.endswith(COMPANION):
            message = f"{self.study!r}: names that end in {COMPANION} are reserved for forcetune's re-runs"
            yield Problem("study", message)
        if self.search.budget and not self.search.budget.model_dump(exclude_none=True):
            yield Problem("search.budget", "is empty; allowed: hours, device_hours, or both")
        if self.resources.gpu_type and not self.resources.gpus:
            kinds = ", ".join(self.resources.gpu_type)
            yield Problem("resources.gpu_type", f"names {kinds}, but `gpus` is 0; allowed: with `gpus` above 0 or auto")

    def _check_size(self) -> None:
        if self.first_fresh_seed > LAST_SEED:
            raise Problem("trial.seed", "is too large; allowed: less than 2^62, because fresh seeds come after it")
        if self.search.sampler != "grid":
            return
        if ranges := self.ranges():
            raise Problem(f"trial.{ranges[0]}", "a range cannot be used with `sampler: grid`; list values as choices")
        if sum(1 for _ in islice(self.combinations(list(self.space)), GRID_TRIALS + 1)) > GRID_TRIALS:
            raise Problem("trial", f"the grid has more than {GRID_TRIALS:,} trials; list fewer choices, or use `tpe`")

    def _search_problems(self) -> Iterator[Problem]:
        """Yield a problem for what objectives, constraints and `search:` need and the trials do not have."""
        yield from task_problems(self)
        yield from process_problems(self)
        yield from start_problems(self)
        if len(self.search.start) > self.trials:
            count = len(self.search.start)
            yield Problem("search.start", f"has {count} configurations, but the study has only {self.trials} trials")
        yield from warm_start_problems(self)
        yield from self._sampler_problems()
        if "equal_compute" in self.space and any(self.space["equal_compute"].values):
            if self.stopping != "none":
                message = "trials at equal compute have other epochs, at which they cannot be judged; allowed: none"
                yield Problem("search.stopping", message)
            if self.train:
                yield Problem("train", "a loop of your own has the epochs that it has; allowed: no trial.equal_compute")
        unknown = [name for name in self.objectives if name not in self.references(0)]
        for name in unknown if self.search.patience else []:
            yield Problem(
                f"objectives.{name}",
                "`patience` needs the hypervolume, and the hypervolume needs a reference value; write "
                f"{name}: {{direction: {self.directions[name]}, reference: ...}}",
            )

    def _sampler_problems(self) -> Iterator[Problem]:
        search = self.search
        if search.sampler_options and ":" not in search.sampler:
            yield Problem(
                "search.sampler_options",
                f"`sampler: {search.sampler}` takes none; allowed with {OPTUNA_PREFIX}NAME or package.module:function",
            )
        if search.focus is None:
            return
        if search.sampler != "front":
            yield Problem("search.focus", f"`sampler: {search.sampler}` has no focus; allowed: front")
        low, high = search.focus.sparsity
        densities = self.space["density"].values
        sparsest, densest = 1 - min(densities), 1 - max(densities)
        if not densest <= low < high <= sparsest:
            yield Problem(
                "search.focus.sparsity",
                f"is [{low:g}, {high:g}]; allowed: two rising sparsities from {densest:g} to {sparsest:g}",
            )

    def _check_when(self, name: str) -> None:
        when = self.space[name].when
        position = f"trial.{name}.when"
        if when and name in REQUIRED_TRIAL_FIELDS:
            raise Problem(position, f"every trial has a {name}, so it cannot depend on another field")
        for parent, values in when.items():
            if parent not in self.space:
                raise Problem(
                    f"{position}.{parent}",
                    f"the study's trial has no such field{suggestion(str(parent), self.space)}; "
                    f"allowed: {', '.join(field for field in self.space if field != name)}",
                )
            domain = self.space[parent]
            if isinstance(domain, Range):
                raise Problem(f"{position}.{parent}", "is a range; `when:` needs a field with a fixed value or choices")
            for value in values:
                if value not in domain.values:
                    raise Problem(
                        f"{position}.{parent}",
                        f"{show_value(value)} is not a value of {parent}; "
                        f"allowed: {', '.join(map(str, domain.values))}",
                    )

    def _name_checks(self) -> Iterator[Callable[[], object]]:
        """Yield a check for each name of a row of a table, and of a function of the user's own."""
        from forcetune.data import DATASETS
        from forcetune.models import find_builder
        from forcetune.pruning import SALIENCY_LOSSES, SCHEDULES, method_row
        from forcetune.training import find_loss

        finders: dict[str, Callable[[str], Any]] = {
            "dataset": partial(resolve, table=DATASETS, kind="data set"),
            "model": find_builder,
            "method": method_row,
            "schedule": partial(resolve, table=SCHEDULES, kind="schedule"),
            "saliency_loss": partial(resolve, table=SALIENCY_LOSSES, kind="loss"),
        }
        for name, find in finders.items():
            for value in self.space[name].values if name in self.space else []:
                yield partial(_check_name, f"trial.{name}", find, value)
        yield partial(_check_name, "loss", find_loss, self.task.loss)
        if ":" in self.search.sampler and not self.search.sampler.startswith(OPTUNA_PREFIX):
            find_sampler = partial(resolve, table={}, kind="sampler")
            yield partial(_check_name, "search.sampler", find_sampler, self.search.sampler)
        functions = {"measure": self.task.measure, "train": self.task.train}
        for key, function in [*functions.items(), *(("metrics", metric) for metric in self.task.metrics)]:
            if function is not None:
                yield partial(_check_name, key, partial(resolve, table={}, kind=key), function)


def _trial_problems(trial: Mapping[str, Any]) -> list[str]:
    """Return the problems of the keys under `trial:`, and of each domain by itself."""
    messages = []
    for name in trial:
        if name not in Trial.model_fields:
            allowed = ", ".join(Trial.model_fields)
            hint = suggestion(str(name), Trial.model_fields)
            messages.append(f"trial.{name}: unknown key{hint}; allowed: {allowed}")
    missing = [name for name in REQUIRED_TRIAL_FIELDS if name not in trial]
    messages += [f"trial.{name}: is missing; required: {', '.join(REQUIRED_TRIAL_FIELDS)}" for name in missing]
    fields = (name for name in trial if name in Trial.model_fields)
    return messages + collect(partial(parse_domain, name, trial[name]) for name in fields)


def _check_name(position: str, find: Callable[[str], Any], name: str) -> None:
    """Raise a Problem at this position where a name is not found."""
    try:
        find(name)
    except InputError as error:
        raise Problem(position, str(error)) from None


def load_study(path: str | Path) -> Study:
    """Read and validate a study file.

    Args:
        path: The file.

    Returns:
        The study.

    Raises:
        InputError: The file cannot be read, or its content is not valid. The message begins with the path.
    """
    written = read_yaml(path)
    with locating(path):
        return Study.from_dict(written)


def _find_section(keys: list[str]) -> type[BaseModel]:
    """Return the section of a value, from the keys of its position."""
    sections: dict[str, type[BaseModel]] = {"search": Search, "resources": Resources, "code": Code}
    inner: dict[str, type[BaseModel]] = {"seeds": Seeds, "budget": Budget, "patience": Patience, "focus": Focus}
    if not keys:  # the key itself is not text
        return Study
    if keys[0] == "search" and len(keys) > 1:
        return inner.get(keys[1], Search)
    if keys[0] == "objectives":
        return Objective
    if keys[0] == "constraints":
        return Bound
    return sections.get(keys[0], Study) if len(keys) > 1 else Study


def _explain(error: Any) -> str:
    keys = [str(key) for key in error["loc"] if key not in (SHORT_FORM, LONG_FORM)]
    position, section = ".".join(keys), _find_section(keys)
    if error["type"] == "string_pattern_mismatch":
        return (
            f"{position}: {show_value(error['input'])} is not a valid name; "
            "allowed: a letter or digit, then letters, digits, _ . -"
        )
    return f"{position}: {describe_error(error, section)}"

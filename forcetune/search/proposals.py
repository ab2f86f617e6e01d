"""What to try next: Optuna's samplers on a study in memory that shadows the ledger, or a grid."""

import hashlib
import json
import math
import random
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from forcetune.spec import Choice, Companion, Domain, Fixed, Range, Study, Trial, within

optuna.logging.set_verbosity(optuna.logging.WARNING)  # else each study is announced

WINDOW = 400  # trials that TPE looks at, beside the front
BETWEEN = 100  # trials told between two cuts to that number


@dataclass
class Proposal:
    """A configuration with the parameters that were sampled for it."""

    trial: Trial
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    start: str | None = None  # a hash of the known configuration that it was proposed for
    asked: optuna.Trial | None = None  # its trial in the shadow study
    of: str | None = None  # of a companion, as its marks
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """By which the study knows it."""
        return Companion(self.trial, self.of or "", self.marks).key


@dataclass(frozen=True)
class PriorTrial:
    """What another study found out: a trial's fields, its values by this study's objectives, and whether it counts."""

    fields: Mapping[str, Any]
    values: Sequence[float]
    on_front: bool


class Proposals(Protocol):
    def ask(self) -> Proposal | None:
        """The next configuration; None where there is none left."""

    def tell(self, proposal: Proposal, values: Sequence[float] | None, on_front: bool = True) -> None:
        """What became of a proposal: its objectives' values, or None for a failed or repeated one."""


def make_proposals(study: Study, history: Iterable[FrozenTrial], lessons: Iterable[PriorTrial] = ()) -> Proposals:
    """The proposals of a study that already has these trials, and learns from others that fit it."""
    if study.search.sampler == "grid":
        return Grid(study, history)
    return Sampled(study, history, lessons)


class FixedProposals:
    """What is written down beforehand."""

    def __init__(self, proposals: Iterable[Proposal]) -> None:
        self._left = iter(proposals)

    def ask(self) -> Proposal | None:
        return next(self._left, None)

    def tell(self, proposal: Proposal, values: Sequence[float] | None, on_front: bool = True) -> None:
        pass


class Grid:
    """Every combination of the choices that the ledger does not have yet, known configurations first."""

    def __init__(self, study: Study, history: Iterable[FrozenTrial]) -> None:
        known = {trial.user_attrs.get("key") for trial in history}
        self._study = study
        self._left = (trial for trial in sorted(study.grid(), key=self._place) if trial.key not in known)

    def _place(self, trial: Trial) -> int:
        fields = trial.fields()
        meant = (i for i, values in enumerate(self._study.start) if values.items() <= fields.items())
        return next(meant, len(self._study.start))

    def ask(self) -> Proposal | None:
        trial = next(self._left, None)
        if trial is None:
            return None
        params = sampled_of(self._study, trial.fields()) or {}  # not what has its default where `when:` does not hold
        return Proposal(trial, params, {name: distribution(self._study.space[name]) for name in params})

    def tell(self, proposal: Proposal, values: Sequence[float] | None, on_front: bool = True) -> None:
        pass


class Sampled:
    """An Optuna sampler on a shadow of the ledger.

    The shadow is in memory, so that asking writes nothing; in it density counts by its logarithm: on a
    linear axis everything sparser than 99 % would weigh half a percent of the hypervolume. TPE looks at the front
    and the last WINDOW trials: it models the best 25 against the rest, and looking at all costs more with each one.
    """

    def __init__(self, study: Study, history: Iterable[FrozenTrial], lessons: Iterable[PriorTrial] = ()) -> None:
        self._study = study
        self._objectives = list(study.objectives)
        earlier, learned = list(history), [self._learn(lesson) for lesson in lessons]
        done = {trial.user_attrs["start"] for trial in earlier if "start" in trial.user_attrs}
        self._start = deque((name, values) for name, values in _named(study.start) if name not in done)
        self._asked = len(learned) + sum("start" not in trial.user_attrs for trial in earlier)
        self._sampler = _sampler(study, len(earlier))
        self._show([*learned, *(self._recall(trial) for trial in earlier if trial.state.is_finished())])
        self._most = WINDOW

    def ask(self) -> Proposal | None:
        if self._told > self._most and isinstance(self._sampler, TPESampler):
            self._forget()
            self._most = self._told + BETWEEN
        start, given = self._start.popleft() if self._start else (None, self._covering_values(self._asked))
        if start is None:
            self._asked += 1
        if given:
            self._shadow.enqueue_trial(given)
        asked = self._shadow.ask()
        sampled: dict[str, Any] = {}
        chosen: dict[str, Any] = {}
        for name, domain in self._study.space.items():
            if self._study.active(name, chosen):
                chosen[name] = domain.value if isinstance(domain, Fixed) else _suggest(asked, name, domain)
                if not isinstance(domain, Fixed):
                    sampled[name] = chosen[name]
        return Proposal(self._study.make_trial(sampled), sampled, dict(asked.distributions), start, asked)

    def tell(self, proposal: Proposal, values: Sequence[float] | None, on_front: bool = True) -> None:
        asked = proposal.asked
        self._told += 1
        if asked is None or asked.study is not self._shadow:  # of an earlier driver, or from before it forgot
            self._shadow.add_trial(self._remember(proposal.params, proposal.distributions, values, on_front))
        elif values is None:
            self._shadow.tell(asked, state=TrialState.FAIL)
        else:
            if not on_front:
                asked.set_constraint("off_front", 1.0)
            self._shadow.tell(asked, self._scale(values))

    def _show(self, trials: list[FrozenTrial]) -> None:
        """Give the sampler a shadow of these trials."""
        self._shadow = optuna.create_study(directions=directions(self._study), sampler=self._sampler)
        self._shadow.add_trials(trials)
        self._told = len(trials)

    def _forget(self) -> None:
        """Leave the front and the last WINDOW trials in the shadow."""
        told = self._shadow.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        front = {trial.number for trial in self._shadow.best_trials}
        self._show([*(trial for trial in told[:-WINDOW] if trial.number in front), *told[-WINDOW:]])

    def _learn(self, lesson: PriorTrial) -> FrozenTrial:
        params = sampled_of(self._study, lesson.fields)
        assert params is not None
        distributions = {name: distribution(self._study.space[name]) for name in params}
        return self._remember(params, distributions, lesson.values, lesson.on_front)

    def _recall(self, trial: FrozenTrial) -> FrozenTrial:
        values = trial.values if trial.state == TrialState.COMPLETE else None
        return self._remember(
            trial.params, trial.distributions, values, all(c <= 0 for c in trial.constraints.values())
        )

    def _remember(
        self,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        values: Sequence[float] | None,
        on_front: bool,
    ) -> FrozenTrial:
        return create_trial(
            state=TrialState.FAIL if values is None else TrialState.COMPLETE,
            params=params,
            distributions=distributions,
            values=None if values is None else self._scale(values),
            constraints=None if on_front else {"off_front": 1.0},
        )

    def _scale(self, values: Sequence[float]) -> list[float]:
        return [
            math.log10(value) if name == "density" else value
            for name, value in zip(self._objectives, values, strict=True)
        ]

    def _covering_values(self, index: int) -> dict[str, Any]:
        """For the first proposals, values of the unconditional choices such that each comes up equally often.

        Ten random draws would see all of seven methods in one start of ten.
        """
        choices = {n: d.values for n, d in self._study.space.items() if isinstance(d, Choice) and not d.when}
        covered = {}
        for name, values in choices.items():
            if index < startup_trials(self._study):
                lap, place = divmod(index, len(values))
                draw = random.Random(f"{self._study.search.seed} {name} {lap}")
                covered[name] = draw.sample(values, len(values))[place]
        return covered


def fitting(study: Study, lessons: Iterable[PriorTrial]) -> list[PriorTrial]:
    """Those lessons whose trials this study might have proposed itself, but for the seed and where the data lies."""
    found = []
    for lesson in lessons:
        params = sampled_of(study, lesson.fields)
        if params is not None and _alike(study.make_trial(params).fields()) == _alike(lesson.fields):
            found.append(lesson)
    return found


def _alike(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in ("seed", "data_root")}


def sampled_of(study: Study, fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the study would have sampled for a trial with these fields; None where a value is not in its domain."""
    sampled: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for name, domain in study.space.items():
        if study.active(name, chosen):
            chosen[name] = domain.value if isinstance(domain, Fixed) else fields.get(name)
            if not isinstance(domain, Fixed):
                if not within(chosen[name], domain):
                    return None
                sampled[name] = chosen[name]
    return sampled


def _named(start: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each known configuration by a hash of its values, under which the ledger has it once it is proposed."""
    for values in start:
        yield hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16], values


def directions(study: Study) -> list[StudyDirection]:
    """The objectives' directions in Optuna's words."""
    named = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    return [named[way] for way in study.directions.values()]


def startup_trials(study: Study) -> int:
    """Proposals before the sampler learns from results: ten, or enough to see every choice twice."""
    return max([10, *(2 * len(d.values) for d in study.space.values() if isinstance(d, Choice))])


def _sampler(study: Study, already: int) -> BaseSampler:
    """The study's sampler, seeded so that a restart does not propose the first points again."""
    seed = int.from_bytes(hashlib.sha256(f"{study.search.seed} {already}".encode()).digest()[:4], "big")
    if study.search.sampler == "random":
        return RandomSampler(seed)
    if study.search.sampler == "nsga2":
        # Optuna's 50 a generation would leave a search of 50 trials without a second one
        return NSGAIISampler(seed=seed, population_size=min(50, max(4, study.trials // 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # `group` models the parameters of each branch of a conditional space apart
        return TPESampler(multivariate=True, group=True, seed=seed, n_startup_trials=startup_trials(study))


def distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Range) and isinstance(domain.low, int):
        return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step or 1)
    if isinstance(domain, Range):
        return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    return CategoricalDistribution(domain.values)


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Any:
    if isinstance(domain, Range) and isinstance(domain.low, int):
        return trial.suggest_int(name, domain.low, domain.high, log=domain.log, step=domain.step or 1)
    if isinstance(domain, Range):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)
    return trial.suggest_categorical(name, domain.values)

"""What to try next: Optuna's samplers on a study in memory that shadows the ledger, or a grid."""

import hashlib
import math
import random
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from forcetune.spec import Choice, Domain, Fixed, Range, Study, Trial


@dataclass
class Proposal:
    """A configuration with the parameters that were sampled for it."""

    trial: Trial
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    asked: int | None = None  # its number in the shadow study


class Proposals(Protocol):
    def ask(self) -> Proposal | None:
        """The next configuration; None where there is none left."""

    def tell(self, proposal: Proposal, values: Sequence[float] | None, on_front: bool = True) -> None:
        """What became of a proposal: its objectives' values, or None for a failed or repeated one."""


def make_proposals(study: Study, history: Iterable[FrozenTrial]) -> Proposals:
    """The proposals of a study that already has these trials."""
    if study.search.sampler == "grid":
        return Grid(study, history)
    return Sampled(study, history)


class Grid:
    """Every combination of the choices that the ledger does not have yet."""

    def __init__(self, study: Study, history: Iterable[FrozenTrial]) -> None:
        known = {trial.user_attrs.get("key") for trial in history}
        self._study = study
        self._left = (trial for trial in study.grid() if trial.key not in known)

    def ask(self) -> Proposal | None:
        trial = next(self._left, None)
        if trial is None:
            return None
        fields = trial.fields()
        choices = {n: d for n, d in self._study.space.items() if isinstance(d, Choice) and n in fields}
        return Proposal(
            trial,
            params={name: fields[name] for name in choices},
            distributions={name: optuna.distributions.CategoricalDistribution(d.values) for name, d in choices.items()},
        )

    def tell(self, proposal: Proposal, values: Sequence[float] | None, on_front: bool = True) -> None:
        pass


class Sampled:
    """An Optuna sampler on a shadow of the ledger.

    The shadow is in memory, so that asking writes nothing; in it density counts by its logarithm: on a
    linear axis everything sparser than 99 % would weigh half a percent of the hypervolume.
    """

    def __init__(self, study: Study, history: Iterable[FrozenTrial]) -> None:
        self._study = study
        self._objectives = list(study.objectives)
        earlier = list(history)
        self._asked = len(earlier)
        self._shadow = optuna.create_study(directions=directions(study), sampler=_sampler(study, self._asked))
        for trial in earlier:
            if trial.state.is_finished():
                self._shadow.add_trial(self._recall(trial))

    def ask(self) -> Proposal | None:
        covered = self._covering_values(self._asked)
        if covered:
            self._shadow.enqueue_trial(covered)
        self._asked += 1
        asked = self._shadow.ask()
        sampled: dict[str, Any] = {}
        chosen: dict[str, Any] = {}
        for name, domain in self._study.space.items():
            if self._study.active(name, chosen):
                chosen[name] = domain.value if isinstance(domain, Fixed) else _suggest(asked, name, domain)
                if not isinstance(domain, Fixed):
                    sampled[name] = chosen[name]
        trial = self._study.make_trial(sampled)
        return Proposal(trial, sampled, dict(asked.distributions), asked.number)

    def tell(self, proposal: Proposal, values: Sequence[float] | None, on_front: bool = True) -> None:
        if proposal.asked is None:  # taken over from an earlier driver, so the shadow has not asked it
            self._shadow.add_trial(self._remember(proposal.params, proposal.distributions, values, on_front))
        elif values is None:
            self._shadow.tell(proposal.asked, state=TrialState.FAIL)
        else:
            if not on_front:
                optuna.trial.Trial(self._shadow, proposal.asked).set_constraint("off_front", 1.0)
            self._shadow.tell(proposal.asked, self._scale(values))

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


def directions(study: Study) -> list[StudyDirection]:
    """The objectives' directions in Optuna's words."""
    named = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    return [named[way] for way in study.objectives.values()]


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


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Any:
    if isinstance(domain, Range) and isinstance(domain.low, int):
        return trial.suggest_int(name, domain.low, domain.high, log=domain.log, step=domain.step or 1)
    if isinstance(domain, Range):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)
    return trial.suggest_categorical(name, domain.values)

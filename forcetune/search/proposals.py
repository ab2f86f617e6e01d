"""The proposals of a search: Optuna's samplers on an in-memory copy of the ledger, a grid, or a fixed list."""

import hashlib
import json
import math
import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from forcetune.errors import InputError
from forcetune.ledger.messages import PriorTrial, Proposal
from forcetune.ledger.storage import directions
from forcetune.search.front_sampler import FrontSampler
from forcetune.search.samplers import count_start_trials, make_distribution, make_sampler
from forcetune.study import Choice, Domain, Range, Study, Trial, is_in_domain

optuna.logging.set_verbosity(optuna.logging.WARNING)  # since Optuna would log a line for each in-memory study

TPE_WINDOW_TRIALS = 400  # the last trials, which TPE models beside the front
TPE_WINDOW_SLACK_TRIALS = 100  # results between two cuts of the in-memory study to the window


class Proposals:
    """A source of configurations, which may learn from their results."""

    def ask(self) -> Proposal | None:
        """Return the next configuration; None where none is left."""
        raise NotImplementedError

    def tell(self, proposal: Proposal, values: Sequence[float] | None, on_front: bool = True) -> None:
        """Learn the result of a proposal; a source that is fixed takes no notice.

        Args:
            proposal: The proposal.
            values: The values of the study's objectives; None where the trial failed, or the study has it already.
            on_front: Whether the trial may stand on the front.
        """


def make_proposals(study: Study, history: Iterable[FrozenTrial], prior_trials: Iterable[PriorTrial] = ()) -> Proposals:
    """Return the proposals of a study, by its sampler.

    Args:
        study: The study.
        history: The trials that the ledger has of the study.
        prior_trials: Trials of other studies that fit this study; a grid does not use them.
    """
    if study.search.sampler == "grid":
        return GridProposals(study, history)
    return SampledProposals(study, history, prior_trials)


class FixedProposals(Proposals):
    """The proposals of a list that was made beforehand."""

    def __init__(self, proposals: Iterable[Proposal]) -> None:
        self._remaining = iter(proposals)

    def ask(self) -> Proposal | None:
        """Return the next listed proposal; None after the last one."""
        return next(self._remaining, None)


class GridProposals(Proposals):
    """Every combination of the choices that the ledger does not have yet; those of `search.start` come first."""

    def __init__(self, study: Study, history: Iterable[FrozenTrial]) -> None:
        ledger_keys = {trial.user_attrs.get("key") for trial in history}
        self._study = study
        self._remaining = (
            trial for trial in sorted(study.grid(), key=self._find_start_position) if trial.key not in ledger_keys
        )

    def _find_start_position(self, trial: Trial) -> int:
        fields = trial.fields()
        positions = (i for i, values in enumerate(self._study.start) if values.items() <= fields.items())
        return next(positions, len(self._study.start))

    def ask(self) -> Proposal | None:
        """Return the next combination; None after the last one."""
        trial = next(self._remaining, None)
        if trial is None:
            return None
        # without the fields that have their default, since their `when:` does not hold
        params = find_sampled_params(self._study, trial.fields()) or {}
        return Proposal(trial, params, {name: make_distribution(self._study.space[name]) for name in params})


class SampledProposals(Proposals):
    """The proposals of an Optuna sampler on an in-memory study, which copies the ledger.

    Since the study is in memory, asking writes nothing. In it density counts by its logarithm: on a linear axis
    everything sparser than 99 % would weigh half a percent of the hypervolume. TPE sees the front and the last
    TPE_WINDOW_TRIALS trials: it models the best 25 against the others, and with all trials each proposal would cost
    more than the one before.

    Args:
        study: The study.
        history: The trials that the ledger has of the study.
        prior_trials: Trials of other studies that fit this study.
    """

    def __init__(self, study: Study, history: Iterable[FrozenTrial], prior_trials: Iterable[PriorTrial] = ()) -> None:
        self._study = study
        self._objectives = list(study.objectives)
        earlier, prior = list(history), [self._convert_prior_trial(prior_trial) for prior_trial in prior_trials]
        done = {trial.user_attrs["start"] for trial in earlier if "start" in trial.user_attrs}
        self._start_queue = deque(
            (digest, values) for digest, values in _hash_values(study.start) if digest not in done
        )
        self._asked_count = len(prior) + sum("start" not in trial.user_attrs for trial in earlier)
        self._sampler = make_sampler(study, len(earlier))
        self._make_memory_study(
            [*prior, *(self._convert_trial(trial) for trial in earlier if trial.state.is_finished())]
        )
        self._max_told_count = TPE_WINDOW_TRIALS

    def ask(self) -> Proposal | None:
        """Return the next proposal: first those of `search.start`, then those of the sampler."""
        if self._told_count > self._max_told_count and isinstance(self._sampler, TPESampler):
            self._cut_to_window()
            self._max_told_count = self._told_count + TPE_WINDOW_SLACK_TRIALS
        start, preset_values = (
            self._start_queue.popleft() if self._start_queue else (None, self._covering_values(self._asked_count))
        )
        if start is None:
            self._asked_count += 1
        if preset_values:
            self._memory_study.enqueue_trial(preset_values)
        try:
            optuna_trial = self._memory_study.ask()
            sampled = self._sample(optuna_trial)
        except InputError:
            raise
        except Exception as error:
            if ":" not in (name := self._study.search.sampler):
                raise
            raise InputError(
                f"search.sampler {name} raised {type(error).__name__} when it was asked for a trial: {error}; the "
                "study keeps its trials, and goes on with another sampler"
            ) from error
        return Proposal(self._study.make_trial(sampled), sampled, dict(optuna_trial.distributions), start, optuna_trial)

    def _sample(self, optuna_trial: optuna.Trial) -> dict[str, Any]:
        """Return the values of the fields that are sampled.

        Raises:
            InputError: A value is not in its domain.
        """

        def choose(name: str, domain: Domain) -> Any:
            value = _suggest(optuna_trial, name, domain)
            if not is_in_domain(value, domain):
                raise InputError(
                    f"search.sampler {self._study.search.sampler} proposes {name} {value!r}, which is not in the "
                    f"domain of trial.{name}; allowed: values of that domain"
                )
            return value

        return self._study.sample(choose)

    def tell(self, proposal: Proposal, values: Sequence[float] | None, on_front: bool = True) -> None:
        """Tell the sampler how a proposal ended."""
        optuna_trial = proposal.optuna_trial
        self._told_count += 1
        if optuna_trial is None or optuna_trial.study is not self._memory_study:
            # it is of an earlier driver, or was asked for before a cut to the window
            self._memory_study.add_trial(
                self._make_memory_trial(proposal.params, proposal.distributions, values, on_front)
            )
        elif values is None:
            self._memory_study.tell(optuna_trial, state=TrialState.FAIL)
        else:
            if not on_front:
                optuna_trial.set_constraint("off_front", 1.0)
            self._memory_study.tell(optuna_trial, self._scale(values))

    def _make_memory_study(self, trials: list[FrozenTrial]) -> None:
        """Put a new in-memory study with these trials in the place of the old one."""
        self._memory_study = optuna.create_study(directions=directions(self._study), sampler=self._sampler)
        self._memory_study.add_trials(trials)
        self._told_count = len(trials)

    def _cut_to_window(self) -> None:
        """Keep only the front and the last TPE_WINDOW_TRIALS trials in the in-memory study."""
        trials = self._memory_study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        front = {trial.number for trial in self._memory_study.best_trials}
        self._make_memory_study(
            [*(trial for trial in trials[:-TPE_WINDOW_TRIALS] if trial.number in front), *trials[-TPE_WINDOW_TRIALS:]]
        )

    def _convert_prior_trial(self, prior_trial: PriorTrial) -> FrozenTrial:
        params = find_sampled_params(self._study, prior_trial.fields)
        assert params is not None
        distributions = {name: make_distribution(self._study.space[name]) for name in params}
        return self._make_memory_trial(params, distributions, prior_trial.values, prior_trial.on_front)

    def _convert_trial(self, trial: FrozenTrial) -> FrozenTrial:
        values = trial.values if trial.state == TrialState.COMPLETE else None
        return self._make_memory_trial(
            trial.params, trial.distributions, values, all(c <= 0 for c in trial.constraints.values())
        )

    def _make_memory_trial(
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
        """Return values of the unconditional choices for one of the first proposals; none for a later one.

        Over the first proposals each value of a choice comes up equally often. With ten random draws instead, only one
        search in ten would see all of seven methods.
        """
        choices = {n: d.values for n, d in self._study.space.items() if isinstance(d, Choice) and not d.when}
        covered: dict[str, Any] = {}
        if isinstance(self._sampler, FrontSampler):
            return covered  # it covers them itself
        for name, values in choices.items():
            if index < count_start_trials(self._study):
                lap, position = divmod(index, len(values))
                generator = random.Random(f"{self._study.search.seed} {name} {lap}")
                covered[name] = generator.sample(values, len(values))[position]
        return covered


def select_fitting(study: Study, prior_trials: Iterable[PriorTrial]) -> list[PriorTrial]:
    """Return the prior trials that this study might have proposed itself.

    Args:
        study: The study.
        prior_trials: Trials of other studies. They may differ from a trial of this study in the seed and in the folder
            of the data.
    """
    fitting = []
    for prior_trial in prior_trials:
        params = find_sampled_params(study, prior_trial.fields)
        if params is not None and _compared(study.make_trial(params).fields()) == _compared(prior_trial.fields):
            fitting.append(prior_trial)
    return fitting


def _compared(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in ("seed", "data_root")}


def find_sampled_params(study: Study, fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the parameters that the study would have sampled for a trial with these fields.

    Args:
        study: The study.
        fields: The fields of a trial.

    Returns:
        The values by field; None where a value is not in its domain.
    """

    def choose(name: str, domain: Domain) -> Any:
        value = fields.get(name)
        if not is_in_domain(value, domain):
            raise _OutsideSpaceError(name)
        return value

    try:
        return study.sample(choose)
    except _OutsideSpaceError:
        return None


class _OutsideSpaceError(Exception):
    """A field has a value that the study never samples."""


def _hash_values(start: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each configuration with a hash of its values; the ledger keeps the hash once it is proposed."""
    for values in start:
        yield hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16], values


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Any:
    if isinstance(domain, Range) and isinstance(domain.low, int):
        return trial.suggest_int(name, domain.low, domain.high, log=domain.log, step=domain.step or 1)
    if isinstance(domain, Range):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)
    return trial.suggest_categorical(name, domain.values)

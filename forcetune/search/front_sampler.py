"""A sampler for two objectives of which one, the density, is a parameter of the search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from forcetune.analysis import non_dominated
from forcetune.analysis.belief import Belief, Field, Observations, Space, Staircase
from forcetune.analysis.gaussian_process import Array

Conditions = Mapping[str, Mapping[str, Sequence[Any]]]

WINDOW_TRIALS = 400  # the last trials, which the model sees beside the front
DRAWN_CANDIDATES, NEARBY_CANDIDATES = 128, 128
REFINED_CANDIDATES, REFINEMENTS = 48, (0.1, 0.03)  # candidates around the best, and how far they are from it
BEST_COUNT = 6  # candidates that are refined
FIRST_FIT_STEPS, LATER_FIT_STEPS = 40, 8
REFIT_GROWTH = 1.1  # the hyperparameters are fitted again when the number of trials has grown by this factor


class FrontSampler(BaseSampler):
    """A sampler that models the quality at each density, and asks for the trial that adds most to the front.

    One objective is maximized and lies between chance and 1, as an accuracy does; the other is minimized and is known
    before the trial: it is the parameter `cost`, or nearly so. The expected growth of the front's hypervolume is then a
    sum over its steps (`forcetune.analysis.belief`). The first trials are Sobol points in which each value of a choice
    comes up equally often.

    A trial with a constraint above 0 was stopped: its values are lower bounds of its end. Those of a running trial are
    taken for what is expected of it.

    Args:
        cost: The name of the parameter that is the second objective, a range.
        space: The parameters, also those that apply only in some trials; None for the parameters of earlier trials.
        conditions: Name of a parameter to the values of others with which it applies; None to read them from trials.
        chance: The quality of a guess; None for the lowest quality so far.
        focus: The range of the cost in which the front counts; None for all of it.
        start_trials: The number of trials before the model is asked.
        logarithmic: Whether the values of the second objective are the logarithms, to base 10, of the cost.
        seed: The seed; None for one that differs each time.
    """

    def __init__(
        self,
        cost: str = "density",
        *,
        space: Mapping[str, BaseDistribution] | None = None,
        conditions: Conditions | None = None,
        chance: float | None = None,
        focus: tuple[float, float] | None = None,
        start_trials: int = 10,
        logarithmic: bool = False,
        seed: int | None = None,
    ) -> None:
        self._cost = cost
        self._given_space = dict(space) if space else None
        self._given_conditions = conditions
        self._chance = chance
        self._focus = focus
        self._start_trials = start_trials
        self._logarithmic = logarithmic
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._independent = RandomSampler(self._seed)
        self._belief: Belief | None = None
        self._fitted_count = 0

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters, also those that apply only in some trials."""
        if self._given_space is not None:
            return self._given_space
        merged: dict[str, BaseDistribution] = {}
        for earlier in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)):
            merged.update(earlier.distributions)
        return merged

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the values of the parameters that apply together."""
        if self._cost not in search_space:
            return {}
        earlier = [
            other
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
            if other.number != trial.number and {*other.params} <= {*search_space} and self._cost in other.params
        ]
        space = self._make_space(search_space, earlier)
        ended = [other for other in earlier if other.state == TrialState.COMPLETE]
        generator = np.random.default_rng([self._seed, trial.number])
        if len(ended) < 3 or len(earlier) < self._start_trials:
            row = self._draw_start(space, trial.number)
        else:
            running = [other for other in earlier if other.state == TrialState.RUNNING]
            row = self._choose(study, space, self._select_window(study, ended), running, generator)
        values = space.unscale(row)
        return {name: _fit_distribution(value, search_space[name]) for name, value in values.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value of a parameter that no earlier trial has."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Draw another seed, as Optuna asks of each process that works on a study."""
        self._seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._independent.reseed_rng()

    def _make_space(self, search_space: Mapping[str, BaseDistribution], earlier: Sequence[FrozenTrial]) -> Space:
        conditions = self._given_conditions
        if conditions is None:
            conditions = _read_conditions(earlier)
        names = [self._cost, *(name for name in search_space if name != self._cost)]
        return Space([_make_field(name, search_space[name], conditions.get(name)) for name in names])

    def _draw_start(self, space: Space, index: int) -> Array:
        """Return the Sobol point of an index, its choices dealt so that all come up equally often."""
        row = space.draw_sobol_numbers(index + 1, np.random.default_rng(self._seed))[-1]
        for i, field in enumerate(space.fields):
            if field.choices:
                lap, position = divmod(index, len(field.choices))
                order = np.random.default_rng([self._seed, i, lap]).permutation(len(field.choices))
                row[i] = (order[position] + 0.5) / len(field.choices)
        drawn: Array = space.draw(row[None, :])[0]
        return drawn

    def _select_window(self, study: optuna.Study, ended: list[FrozenTrial]) -> list[FrozenTrial]:
        if len(ended) <= WINDOW_TRIALS:
            return ended
        directions = ["max" if direction == StudyDirection.MAXIMIZE else "min" for direction in study.directions]
        candidates = [trial for trial in ended if all(c <= 0 for c in trial.constraints.values())]
        on_front = non_dominated(np.array([trial.values for trial in candidates]).reshape(-1, 2), directions)
        front = {trial.number for trial, is_best in zip(candidates, on_front, strict=True) if is_best}
        return [*(t for t in ended[:-WINDOW_TRIALS] if t.number in front), *ended[-WINDOW_TRIALS:]]

    def _choose(
        self,
        study: optuna.Study,
        space: Space,
        ended: list[FrozenTrial],
        running: list[FrozenTrial],
        generator: np.random.Generator,
    ) -> Array:
        """Return the candidate with the largest expected gain."""
        observations = self._observe(study, space, ended)
        chance = self._chance if self._chance is not None else min(float(observations.qualities.min()), 0.5)
        previous = self._belief.process.hyperparameters if self._belief else None
        if previous is not None and len(previous.log_weights) != len(space.fields):
            previous = None
        belief = self._belief = Belief(space, chance, previous)
        if previous is None or len(ended) >= REFIT_GROWTH * self._fitted_count:
            belief.fit(observations, FIRST_FIT_STEPS if previous is None else LATER_FIT_STEPS)
            self._fitted_count = len(ended)
        running_rows = np.array([space.scale(trial.params) for trial in running]).reshape(-1, len(space.fields))
        belief.condition(observations, running_rows)
        staircase = self._draw_staircase(belief, observations, running_rows)
        drawn = space.draw(space.draw_sobol_numbers(DRAWN_CANDIDATES, generator))
        anchors = self._select_anchors(observations, staircase)
        chosen = anchors[generator.integers(len(anchors), size=NEARBY_CANDIDATES)]
        candidates = np.concatenate([drawn, space.perturb(chosen, 0.15, generator)])
        gains = belief.expect_gain(candidates, belief.expect_costs(candidates, observations), staircase)
        for scale in REFINEMENTS:
            best = candidates[np.argsort(-gains)[:BEST_COUNT]]
            near = space.perturb(np.repeat(best, REFINED_CANDIDATES // BEST_COUNT, 0), scale, generator)
            near_gains = belief.expect_gain(near, belief.expect_costs(near, observations), staircase)
            candidates, gains = np.concatenate([candidates, near]), np.concatenate([gains, near_gains])
        row: Array = candidates[gains.argmax()]
        return row

    def _observe(self, study: optuna.Study, space: Space, ended: Iterable[FrozenTrial]) -> Observations:
        quality_index = study.directions.index(StudyDirection.MAXIMIZE)
        cost_field, rows, qualities, costs, bounds = space.fields[0], [], [], [], []
        for trial in ended:
            quality, cost = trial.values[quality_index], trial.values[1 - quality_index]
            rows.append(space.scale(trial.params))
            qualities.append(quality)
            costs.append(cost_field.scale(10.0**cost if self._logarithmic else cost))
            bounds.append(any(constraint > 0 for constraint in trial.constraints.values()))
        return Observations(np.array(rows), np.array(qualities), np.array(costs), np.array(bounds))

    def _draw_staircase(self, belief: Belief, observations: Observations, running_rows: Array) -> Staircase:
        """Return the front of the trials that ended, with the expected values of those that run."""
        ended = ~observations.is_bound
        costs, qualities = observations.costs[ended], observations.qualities[ended]
        if len(running_rows):
            mean, _ = belief.predict(running_rows)
            costs = np.concatenate([costs, belief.expect_costs(running_rows, observations)])
            qualities = np.concatenate([qualities, belief.to_quality(mean)])
        low, high = 0.0, 1.0
        if self._focus:
            low, high = (belief.space.fields[0].scale(density) for density in sorted(self._focus))
        return Staircase.from_points(costs, qualities, belief.chance, low, high)

    @staticmethod
    def _select_anchors(observations: Observations, staircase: Staircase) -> Array:
        """Return the configurations of the front; where it is empty, those of all trials."""
        is_step = np.isin(observations.costs, staircase.starts) & np.isin(observations.qualities, staircase.heights)
        return observations.rows[is_step] if is_step.any() else observations.rows


def _make_field(name: str, distribution: BaseDistribution, conditions: Mapping[str, Sequence[Any]] | None) -> Field:
    if isinstance(distribution, CategoricalDistribution):
        return Field(name, choices=tuple(distribution.choices), conditions=conditions)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return Field(name, low=distribution.low, high=distribution.high, log=distribution.log, conditions=conditions)


def _fit_distribution(value: Any, distribution: BaseDistribution) -> Any:
    """Return the value of a distribution that is nearest to a number."""
    if isinstance(distribution, CategoricalDistribution):
        return value
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is not None:
        steps = round((value - distribution.low) / distribution.step)
        value = distribution.low + steps * distribution.step
        value = min(value, distribution.high)  # by rounding the sum may be above it
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


def _read_conditions(trials: Sequence[FrozenTrial]) -> dict[str, dict[str, list[Any]]]:
    """Read from trials which parameters apply only with some values of a choice."""
    conditions: dict[str, dict[str, list[Any]]] = {}
    choices = {
        name
        for trial in trials
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, CategoricalDistribution)
    }
    for name in {name for trial in trials for name in trial.params}:
        without = [trial for trial in trials if name not in trial.params]
        for parent in sorted(choices - {name}) if without else []:
            values = {trial.params[parent] for trial in trials if name in trial.params and parent in trial.params}
            if values and all(trial.params.get(parent) not in values for trial in without):
                conditions[name] = {parent: sorted(values, key=str)}
                break
    return conditions

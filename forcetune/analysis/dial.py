"""The density as a dial: what accuracy a study would probably reach at a sparsity that none of its trials had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit

from forcetune.analysis.belief import HIGHEST_SHARE, LOWEST_SHARE, Belief, Observations
from forcetune.analysis.gaussian_process import Array
from forcetune.analysis.trial_space import UNSEEN_SEEDS, TrialSpace, is_absent_value, read_seeds
from forcetune.errors import InputError

DIAL_OBJECTIVES = {"val_accuracy": "max", "density": "min"}
DIAL_OUTCOMES = ("trained", "stopped", "collapsed")
MIN_DIAL_TRIALS = 8
DIAL_WINDOW_TRIALS = 300  # the last trials, which the model sees beside those with fresh seeds, and as many of these
FIT_STEPS = 60
SEED_WEIGHT = 0.05  # the prior median of 1 / (length scale)^2 of the seed
END_TOLERANCE = 0.01  # of the range of densities, which is printed with few digits
DRAWN_CONFIGURATIONS, NEARBY_DEVIATION = 256, 0.1
NEARBY_FACTOR = 1.25  # of a density, within which a trial is near
CENTRAL_QUANTILE = 1.6449  # of the normal distribution, between which and its negative nine of ten values lie
RESIDUAL_BANDWIDTH_DECADES = 0.5  # of density, within which residuals of fresh seeds say how wide an interval has to be
PRIOR_RESIDUALS = 8.0  # residuals of the size that the model expects, which count beside the measured ones
BAND_DENSITIES = 25
FURTHER_TRIALS, FURTHER_DRAWS = 20, 400
FURTHER_SHARE = 0.95  # of the draws in which further trials gain at most `further_gain_high`


@dataclass(frozen=True)
class Prediction:
    """The accuracy that a study would probably reach at a sparsity, and with which configuration.

    Attributes:
        sparsity: The sparsity.
        configuration: The values of the fields that vary, with which it is most likely to be reached.
        accuracy: The median of the validation accuracy of a run with a fresh seed.
        low: The accuracy that 5 % of such runs stay below.
        high: The accuracy that 5 % of such runs exceed.
        mean_low: The lower end of the 90 % interval of the mean over seeds (of logits).
        mean_high: The upper end of that interval.
        trials: The number of trials that the prediction rests on.
        near: The number of them whose density is within a factor of 1.25.
        fresh_runs: The number of runs with fresh seeds that it rests on.
        further_trials: A number of further trials at this sparsity.
        further_gain: The accuracy that they are expected to add.
        further_gain_high: The accuracy that they add at most in 19 of 20 cases.
    """

    sparsity: float
    configuration: dict[str, Any]
    accuracy: float
    low: float
    high: float
    mean_low: float
    mean_high: float
    trials: int
    near: int
    fresh_runs: int
    further_trials: int
    further_gain: float
    further_gain_high: float


@dataclass(frozen=True)
class Interval:
    """The accuracies that are expected of a configuration; the attributes are those of `Prediction`."""

    accuracy: float
    low: float
    high: float
    mean_low: float
    mean_high: float


class Dial:
    """The model of a study, which answers for any sparsity between those of its trials.

    It is the model of the sampler `front` with the seed as a further field, so that the runs with fresh seeds say how
    far seeds lie apart. All trials of a search share a seed, that is a split and initial weights, and lie nearer to
    one another than to runs with fresh seeds. The width of an interval is corrected by the runs with fresh seeds near
    its density: if they lie farther from their predictions than the model expects, the interval is wider by the same
    factor, and narrower if they lie nearer. The prediction of such a run uses no other run of its configuration or of
    its seed.

    Args:
        trials: The trials of one study, as `Results.trials` has them.
        reruns: The runs of these trials with fresh seeds, as `Results.reruns` has them.
        fields: The fields of the trials.
        objectives: Objective to `max` or `min`.

    Raises:
        InputError: The study has other objectives, too few trials, or trials that do not differ.
    """

    def __init__(
        self, trials: pd.DataFrame, reruns: pd.DataFrame, fields: Sequence[str], objectives: Mapping[str, str]
    ) -> None:
        if dict(objectives) != DIAL_OBJECTIVES:
            raise InputError(
                "--at needs a study with the objectives val_accuracy and density, which are maximised and minimised; "
                f"this one has {', '.join(objectives)}"
            )
        self._trials = _select_counted(trials)
        _check_trials(self._trials)
        fresh = _select_fresh(reruns, self._trials).tail(DIAL_WINDOW_TRIALS)
        self._seen = _select_window(self._trials, fresh)
        seeds = [*read_seeds(self._seen), *read_seeds(fresh)]
        self._trial_space = TrialSpace(self._trials, fields, seeds, SEED_WEIGHT)
        self._rows = self._trial_space.encode(self._seen)
        observations = self._observe(fresh)
        self._belief = Belief(self._trial_space.space, min(float(observations.qualities.min()), 0.5))
        self._belief.fit(observations, FIT_STEPS)
        self._belief.condition(observations)
        self._search_seed = max(read_seeds(self._seen), key=read_seeds(self._seen).count)
        self._fresh_numbers = observations.rows[len(self._seen) :, 0]
        keys = np.array([*self._seen["trial"].map(str), *fresh["of"].map(str)]) if len(fresh) else np.array([])
        self._residuals = self._measure_residuals(keys, np.array(seeds))

    def predict(self, sparsity: float, selected: pd.Index[Any] | None = None) -> Prediction:
        """Predict the accuracy of the best configuration at a sparsity.

        The best configuration has the highest cautious prediction, the mean minus one deviation. It is chosen among the
        configurations of the trials, others near them, and random ones within the ranges of the trials.

        Args:
            sparsity: The sparsity, 0 to 1.
            selected: The index of the trials to whose choices and ranges the configuration keeps; None for all.

        Raises:
            InputError: No trial was as sparse or as dense, or too few are selected.
        """
        density = 1 - sparsity
        number = self._scale_density(sparsity)
        examples = self._rows if selected is None else self._rows[self._seen.index.isin(selected)]
        if len(examples) < MIN_DIAL_TRIALS:
            raise InputError(
                f"--at {_format_sparsity(sparsity)}: {len(examples)} trials with an accuracy meet these conditions; "
                f"required: at least {MIN_DIAL_TRIALS}"
            )
        candidates = self._list_candidates(examples, number)
        best = self._choose(candidates)
        gains = self._draw_further_gains(candidates, best)
        near = self._trials["density"].between(density / NEARBY_FACTOR, density * NEARBY_FACTOR)
        return Prediction(
            sparsity=sparsity,
            configuration=self._trial_space.decode(candidates[best]),
            **vars(self._describe(candidates[best])),
            trials=len(self._trials),
            near=int(near.sum()),
            fresh_runs=len(self._fresh_numbers),
            further_trials=FURTHER_TRIALS,
            further_gain=max(float(gains.mean()), 0.0),
            further_gain_high=max(float(np.quantile(gains, FURTHER_SHARE)), 0.0),
        )

    def predict_configuration(self, sparsity: float, configuration: Mapping[str, Any], runs: int = 1) -> Interval:
        """Predict the accuracy of a configuration at a sparsity.

        Args:
            sparsity: The sparsity, 0 to 1.
            configuration: The values of the fields that vary, as `Prediction.configuration` has them.
            runs: The number of runs with different fresh seeds; `low` and `high` enclose their mean (of logits).

        Raises:
            InputError: No trial was as sparse or as dense.
        """
        number = self._scale_density(sparsity)
        trial = {**configuration, "density": 1 - sparsity, "seed": int(self._search_seed)}
        row = self._trial_space.encode(pd.DataFrame([trial]))
        row[:, 0] = number
        return self._describe(self._trial_space.set_seed(row, UNSEEN_SEEDS[0])[0], runs)

    def predict_band(self) -> pd.DataFrame:
        """Predict the accuracy of the best configuration at densities from the lowest to the highest of the trials.

        Returns:
            A row for each density: density, accuracy, low and high, which `Prediction` describes.
        """
        rows = []
        for number in np.linspace(0, 1, BAND_DENSITIES):
            candidates = self._list_candidates(self._rows, float(number))
            interval = self._describe(candidates[self._choose(candidates)])
            density = self._trial_space.space.fields[0].unscale(float(number))
            rows.append((density, interval.accuracy, interval.low, interval.high))
        return pd.DataFrame(rows, columns=["density", "accuracy", "low", "high"])

    def _observe(self, fresh: pd.DataFrame) -> Observations:
        rows = np.concatenate([self._rows, self._trial_space.encode(fresh)])
        qualities = np.concatenate([table["val_accuracy"].to_numpy(float) for table in (self._seen, fresh)])
        is_bound = np.concatenate([(table["outcome"] == "stopped").to_numpy(bool) for table in (self._seen, fresh)])
        return Observations(rows, qualities, rows[:, 0], is_bound)

    def _measure_residuals(self, keys: np.ndarray, seeds: np.ndarray) -> Array:
        """Return how far each run with a fresh seed lies from its prediction, in the deviations that are expected.

        Args:
            keys: The configuration of each run.
            seeds: The seed of each run.
        """
        left_out = []
        for i in range(len(self._seen), len(keys)):
            related = np.flatnonzero((keys == keys[i]) | (seeds == seeds[i]))
            left_out.append([i, *related[related != i].tolist()])
        return self._belief.posterior.measure_residuals(left_out)

    def _scale_density(self, sparsity: float) -> float:
        density, field = 1 - sparsity, self._trial_space.space.fields[0]
        number = field.scale(density)
        if not -END_TOLERANCE <= number <= 1 + END_TOLERANCE:
            raise InputError(
                f"--at {_format_sparsity(sparsity)}: no trial was so {'sparse' if number < 0 else 'dense'}; allowed: "
                f"{_format_sparsity(1 - field.high)} to {_format_sparsity(1 - field.low)}, which the trials cover"
            )
        return min(max(number, 0.0), 1.0)

    def _list_candidates(self, examples: Array, number: float) -> Array:
        """Return configurations at a density for an unseen seed, which keep to the choices and ranges of examples."""
        generator, space = np.random.default_rng(0), self._trial_space.space
        drawn = space.draw(space.draw_sobol_numbers(DRAWN_CONFIGURATIONS, generator))
        near = space.perturb(examples, NEARBY_DEVIATION, generator)
        rows = np.concatenate([examples, self._trial_space.select_like(np.concatenate([near, drawn]), examples)])
        rows[:, 0] = number
        return self._trial_space.set_seed(rows, UNSEEN_SEEDS[0])

    def _choose(self, candidates: Array) -> int:
        mean, deviation = self._belief.predict(candidates)
        return int((mean - deviation).argmax())

    def _describe(self, row: Array, runs: int = 1) -> Interval:
        """Return what is expected of a configuration with unseen seeds."""
        rows, another = row[None], self._trial_space.set_seed(row[None], UNSEEN_SEEDS[1])
        posterior = self._belief.posterior
        mean, deviation = posterior.predict(rows)
        # Two unseen seeds have in common what is not known of the mean over seeds
        mean_variance = max(float(posterior.measure_covariance(rows, another)[0, 0]), 0.0)
        run_variance = float(deviation[0] ** 2 + posterior.noise_deviation(rows)[0] ** 2) - mean_variance
        widening = self._widen(row[0])
        low, high = self._to_qualities(mean[0], widening * (mean_variance + run_variance / runs) ** 0.5)
        mean_low, mean_high = self._to_qualities(mean[0], widening * mean_variance**0.5)
        return Interval(float(self._belief.to_quality(mean)[0]), low, high, mean_low, mean_high)

    def _to_qualities(self, mean: float, spread: float) -> tuple[float, float]:
        """Return the ends of the interval of nine of ten values; an end beyond the modelled logits is 0 or 1."""
        low, high = mean - CENTRAL_QUANTILE * spread, mean + CENTRAL_QUANTILE * spread
        return (
            float(self._belief.to_quality(np.array(low))) if low > logit(LOWEST_SHARE) else 0.0,
            float(self._belief.to_quality(np.array(high))) if high < logit(HIGHEST_SHARE) else 1.0,
        )

    def _widen(self, number: float) -> float:
        """Return how many times as wide as the model expects an interval has to be at a density."""
        field = self._trial_space.space.fields[0]
        decades = (self._fresh_numbers - number) * np.log10(field.high / field.low)
        weights = np.exp(-0.5 * (decades / RESIDUAL_BANDWIDTH_DECADES) ** 2)
        squares = PRIOR_RESIDUALS + weights @ self._residuals**2
        return float(np.sqrt(squares / (PRIOR_RESIDUALS + weights.sum())))

    def _draw_further_gains(self, candidates: Array, best: int) -> Array:
        """Draw the accuracy that further trials at a density would add to that of the best configuration.

        The further trials are those of Thompson sampling [1933], all at once; they have the seed of the search. The
        model that has learned from them names its best configuration, whose accuracy with an unseen seed counts.
        """
        generator, posterior = np.random.default_rng(0), self._belief.posterior
        deviations = _draw_normal(posterior.measure_covariance(candidates, candidates), generator)
        draws = posterior.predict(candidates)[0] + deviations
        further = candidates[list(dict.fromkeys(draws.argmax(1).tolist()))[:FURTHER_TRIALS]]
        rows = np.concatenate([self._trial_space.set_seed(further, self._search_seed), candidates[[best]], further])
        count = len(further)
        mean, covariance = posterior.predict(rows)[0], posterior.measure_covariance(rows, rows)
        noise = posterior.noise_deviation(rows[:count])
        values = mean + _draw_normal(covariance, generator)
        observed = values[:, :count] + noise * generator.standard_normal((FURTHER_DRAWS, count))
        learned = np.linalg.solve(covariance[:count, :count] + np.diag(noise**2), covariance[:count, count:])
        expected = mean[count:] + (observed - mean[:count]) @ learned
        reached = np.take_along_axis(values[:, count:], expected.argmax(1)[:, None], 1)[:, 0]
        gains: Array = self._belief.to_quality(reached) - self._belief.to_quality(values[:, count])
        return gains


def _select_counted(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that have ended with a finite accuracy and a density above 0."""
    if not {"outcome", "val_accuracy", "density"} <= {*trials.columns}:
        return trials.iloc[:0].assign(outcome=None, val_accuracy=np.nan, density=np.nan)
    accuracy, density = trials["val_accuracy"].astype(float), trials["density"].astype(float)
    return trials[trials["outcome"].isin(DIAL_OUTCOMES) & np.isfinite(accuracy) & (density > 0)]


def _check_trials(counted: pd.DataFrame) -> None:
    trained = counted[counted["outcome"] == "trained"]
    if len(counted) < MIN_DIAL_TRIALS:
        raise InputError(
            f"--at needs at least {MIN_DIAL_TRIALS} trials that have ended with an accuracy; this study has "
            f"{len(counted)}"
        )
    if trained.empty:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in counted["outcome"].value_counts().items())
        raise InputError(f"--at needs trials that were trained to their end; this study has none ({counts})")
    if counted["density"].nunique() == 1:
        raise InputError(
            f"--at needs trials of several densities; all {len(counted)} trials of this study have the sparsity "
            f"{_format_sparsity(1 - float(counted['density'].iloc[0]))}"
        )
    if counted["val_accuracy"].nunique() == 1:
        raise InputError(
            f"--at needs accuracies that differ; all {len(counted)} trials of this study have the val_accuracy "
            f"{counted['val_accuracy'].iloc[0]:.4g}"
        )


def _select_fresh(reruns: pd.DataFrame, counted: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with fresh seeds of these trials that have ended with a finite accuracy."""
    if "of" not in reruns:
        return counted.iloc[:0]
    ended = _select_counted(reruns)
    return ended[ended["of"].isin(counted["trial"]) & ~ended["of"].map(is_absent_value)]


def _select_window(counted: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """Return the last trials, and those with fresh seeds: with all of many trials the model would take long."""
    is_last = np.arange(len(counted)) >= len(counted) - DIAL_WINDOW_TRIALS
    return counted[is_last | counted["trial"].isin(fresh["of"])] if len(fresh) else counted[is_last]


def _format_sparsity(sparsity: float) -> str:
    return f"{100 * sparsity:.6g}%"


def _draw_normal(covariance: Array, generator: np.random.Generator) -> Array:
    """Draw normal vectors with a mean of 0, (FURTHER_DRAWS, variables)."""
    # The method "eigh" takes a covariance that rounding has made singular.
    return generator.multivariate_normal(
        np.zeros(len(covariance)), covariance, FURTHER_DRAWS, check_valid="ignore", method="eigh"
    )

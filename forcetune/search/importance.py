"""The importance of each field: PED-ANOVA over a study's trials."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from forcetune import analysis, tracking
from forcetune.errors import InputError
from forcetune.search.proposals import find_sampled_params
from forcetune.search.samplers import make_distribution
from forcetune.study import Choice, Domain, Range, Study

GOOD_SHARE = 0.1  # of the trials count as good
MIN_GOOD_TRIALS = 5  # with fewer an estimate is not stable, says Optuna's documentation
MIN_IMPORTANCE_TRIALS = 2 * MIN_GOOD_TRIALS


def importance(table: tracking.TrialTable) -> pd.DataFrame:
    """Return the importance of each sampled field for each target, by conditional PED-ANOVA.

    The targets are each objective, the front (good trials are those that few trials dominate) and the accuracy at
    equal density. The importance says how differently a field is distributed over the best tenth of the trials (at
    least five) and over all trials. Source: https://arxiv.org/abs/2304.10255 and https://arxiv.org/abs/2601.20800.

    Args:
        table: The trials of one study, as `report.results.load` returns them. The domains of the fields are those
            of the study's file in MLflow.

    Returns:
        One row for each sampled field (the index) and one column for each target. Each column sums to 1. The rows are
        sorted by the last column.

    Raises:
        InputError: Fewer than ten trials report all objectives, or the study samples no field.
    """
    name = table.studies[0]
    study = Study.from_dict(tracking.load_study_file(name))
    losses = analysis.objective_losses(table.trials, table.objectives)
    objectives = [objective for objective in table.objectives if objective in losses]
    is_complete = losses[objectives].notna().all(axis=1)
    trials = [
        (index, params)
        for index, row in _read_fields(table.trials[is_complete], table.fields)
        if (params := _read_sampled_params(study, row))
    ]
    if len(trials) < MIN_IMPORTANCE_TRIALS:
        raise InputError(
            f"{name}: importance needs {MIN_IMPORTANCE_TRIALS} trials with sampled fields that report all objectives, "
            f"not {len(trials)}"
        )
    losses = losses.loc[[index for index, _ in trials]]
    memory_study = _make_memory_study([params for _, params in trials], losses[objectives].to_numpy(float))
    shares = {target: _compute_shares(memory_study, losses[target].to_numpy(float)) for target in objectives}
    if len(objectives) > 1:
        shares["front"] = _compute_shares(memory_study)
    shares |= {
        other: _compute_shares(memory_study, losses[other].to_numpy(float))
        for other in map(str, losses)
        if other not in objectives
    }
    importances = pd.DataFrame(shares).fillna(0.0).rename_axis("field")
    return importances.sort_values(importances.columns[-1], ascending=False)


SampledParams = tuple[dict[str, Any], dict[str, Any]]  # values and distributions by field


def _read_fields(trials: pd.DataFrame, fields: Sequence[str]) -> list[tuple[Any, dict[str, Any]]]:
    rows = trials[[name for name in fields if name in trials]].astype(object).to_dict("records")
    plain_rows = [{str(n): _to_plain(v) for n, v in row.items() if not pd.isna(v)} for row in rows]
    return list(zip(trials.index, plain_rows, strict=True))


def _to_plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _read_sampled_params(study: Study, fields: Mapping[str, Any]) -> SampledParams | None:
    proposed = (
        {**fields, "density": _find_proposed_density(study.space["density"], fields["density"])}
        if "density" in fields
        else fields
    )
    values = {
        name: value
        for name, value in (find_sampled_params(study, proposed) or {}).items()
        if len(study.space[name].values) > 1  # a field with one choice explains nothing
    }
    if not values:
        return None
    return values, {name: make_distribution(study.space[name]) for name in values}


def _find_proposed_density(domain: Domain, density: float) -> float:
    """Return the proposed density for a measured one, which is a little less: masks keep a whole number of weights."""
    if isinstance(domain, Range):
        return float(min(max(density, domain.low), domain.high))
    values: list[float] = list(domain.values) if isinstance(domain, Choice) else [density]
    return min(values, key=lambda value: abs(value - density))


def _make_memory_study(trials: list[SampledParams], losses: np.ndarray) -> optuna.Study:
    """Return an in-memory study that has these trials in this order, with losses of shape (trials, objectives)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    memory_study = optuna.create_study(directions=["minimize"] * losses.shape[1])
    memory_study.add_trials(
        create_trial(params=values, distributions=distributions, values=row)
        for (values, distributions), row in zip(trials, losses.tolist(), strict=True)
    )
    return memory_study


def _compute_shares(memory_study: optuna.Study, losses: np.ndarray | None = None) -> dict[str, float]:
    """Return the importance of each field.

    Args:
        memory_study: The trials, in memory.
        losses: The loss of each trial, by which the trial is good, NaN where it has none; None for all objectives of
            the study.
    """
    count = len(memory_study.trials) if losses is None else int(np.isfinite(losses).sum())
    evaluator = PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(GOOD_SHARE, MIN_GOOD_TRIALS / count)))
    target = None if losses is None else lambda trial: float(losses[trial.number])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns of parts of a conditional space that have one trial
        return get_param_importances(memory_study, evaluator=evaluator, target=target)

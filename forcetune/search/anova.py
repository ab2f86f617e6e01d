"""How much each field has to do with being good: PED-ANOVA over a study's trials."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from forcetune import analysis, tracking
from forcetune.errors import InputError
from forcetune.search.proposals import distribution, sampled_of
from forcetune.spec import Choice, Domain, Range, Study

BEST = 0.1  # of the trials count as good
LEAST = 5  # of them, for an estimate to be stable, as Optuna's documentation has it
FEWEST = 2 * LEAST


def importance(table: pd.DataFrame) -> pd.DataFrame:
    """One row a sampled field (the index), one column a target, each summing to 1; sorted by the last column.

    Targets: each objective; the front (good are those that few dominate); accuracy at equal density. A share says how
    differently the field is spread over the best tenth of the trials (five of them at least) and over all of them.
    table: of one study, as `results.load` gives it; the domains are those of its study file in MLflow.
    Conditional PED-ANOVA: https://arxiv.org/abs/2304.10255 and https://arxiv.org/abs/2601.20800.
    Raises InputError where fewer than ten trials tell their objectives, or the study samples nothing.
    """
    name = table.attrs["study"]
    study = Study.from_dict(tracking.study_file(name))
    losses = analysis.losses(table)
    objectives = [objective for objective in table.attrs["objectives"] if objective in losses]
    told = losses[objectives].notna().all(axis=1)
    known = [(place, each) for place, row in _fields(table[told]) if (each := _sampled(study, row))]
    if len(known) < FEWEST:
        raise InputError(
            f"{name}: importance needs {FEWEST} trials with sampled fields that tell all objectives, not {len(known)}"
        )
    losses = losses.loc[[place for place, _ in known]]
    shadow = _shadow([each for _, each in known], losses[objectives].to_numpy(float))
    shares = {target: _shares(shadow, losses[target].to_numpy(float)) for target in objectives}
    if len(objectives) > 1:
        shares["front"] = _shares(shadow)
    shares |= {other: _shares(shadow, losses[other].to_numpy(float)) for other in losses if other not in objectives}
    found = pd.DataFrame(shares).fillna(0.0).rename_axis("field")
    return found.sort_values(found.columns[-1], ascending=False)


Sampled = tuple[dict[str, Any], dict[str, Any]]  # values and distributions by field


def _fields(table: pd.DataFrame) -> list[tuple[Any, dict[str, Any]]]:
    names = [name for name in table.attrs["fields"] if name in table]
    rows = table[names].astype(object).to_dict("records")
    plain = [{str(n): _plain(v) for n, v in row.items() if not pd.isna(v)} for row in rows]
    return list(zip(table.index, plain, strict=True))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _sampled(study: Study, fields: Mapping[str, Any]) -> Sampled | None:
    near = {**fields, "density": _nearest(study.space["density"], fields["density"])} if "density" in fields else fields
    values = sampled_of(study, near)
    if not values:
        return None
    return values, {name: distribution(study.space[name]) for name in values}


def _nearest(domain: Domain, density: float) -> float:
    """The value that was asked for: masks keep a whole number of weights, so that what is measured is a bit less."""
    if isinstance(domain, Range):
        return min(max(density, domain.low), domain.high)
    values: list[float] = list(domain.values) if isinstance(domain, Choice) else [density]
    return min(values, key=lambda value: abs(value - density))


def _shadow(trials: list[Sampled], losses: np.ndarray) -> optuna.Study:
    """A study in memory that has these trials in this order."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shadow = optuna.create_study(directions=["minimize"] * losses.shape[1])
    shadow.add_trials(
        create_trial(params=values, distributions=distributions, values=row)
        for (values, distributions), row in zip(trials, losses.tolist(), strict=True)
    )
    return shadow


def _shares(shadow: optuna.Study, losses: np.ndarray | None = None) -> dict[str, float]:
    """Of being good by these losses, one a trial, NaN where a trial tells none; else by all objectives of the study."""
    known = len(shadow.trials) if losses is None else int(np.isfinite(losses).sum())
    evaluator = PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(BEST, LEAST / known)))
    target = None if losses is None else lambda trial: float(losses[trial.number])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts of a conditional space with one trial
        return get_param_importances(shadow, evaluator=evaluator, target=target)

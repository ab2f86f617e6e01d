"""The samplers that propose configurations: forcetune's own, Optuna's, and those of the user."""

import hashlib
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from forcetune.errors import InputError
from forcetune.names import resolve, suggestion
from forcetune.search.front_sampler import FrontSampler
from forcetune.study import OPTUNA_PREFIX, Choice, Domain, Fixed, Range, Study, is_applicable


def make_sampler(study: Study, trial_count: int) -> BaseSampler:
    """Return the study's sampler.

    Args:
        study: The study.
        trial_count: The number of its trials; samplers that draw are seeded by it, so that a restart does not repeat
            proposals.

    Raises:
        InputError: A sampler of the user's own, or its options, cannot be used.
    """
    name = study.search.sampler
    seed = int.from_bytes(hashlib.sha256(f"{study.search.seed} {trial_count}".encode()).digest()[:4], "big")
    if ":" in name:
        return _make_named_sampler(name, study.search.sampler_options, seed)
    if name == "random":
        return RandomSampler(seed)
    if name == "nsga2":
        # a generation of Optuna has 50 trials by default: a search of 50 trials would have one generation only
        return NSGAIISampler(seed=seed, population_size=min(50, max(4, study.trials // 4)))
    if name == "front" and find_front_obstacle(study) is None:
        return _make_front_sampler(study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # `group` models the parameters of each branch of a conditional space separately
        return TPESampler(multivariate=True, group=True, seed=seed, n_startup_trials=count_start_trials(study))


def find_front_obstacle(study: Study) -> str | None:
    """Return why `sampler: front` cannot model a study; None where it can."""
    if study.directions != {"val_accuracy": "max", "density": "min"}:
        return "it needs the objectives val_accuracy and density"
    density = study.space["density"]
    if not isinstance(density, Range) or density.low == density.high:
        return "it needs a range of densities"
    return None


def describe_sampler(study: Study) -> str:
    """Return the name of the sampler that proposes, with the reason where it is not the one that the file asks for."""
    if study.search.sampler == "front" and (obstacle := find_front_obstacle(study)):
        return f"tpe, in place of front: {obstacle}"
    return study.search.sampler


def count_start_trials(study: Study) -> int:
    """Return how many proposals come before the sampler learns: ten, or enough to see every choice twice."""
    return max([10, *(2 * len(d.values) for d in study.space.values() if isinstance(d, Choice))])


def make_distribution(domain: Domain) -> BaseDistribution:
    """Return the Optuna distribution of a domain."""
    if isinstance(domain, Range) and isinstance(domain.low, int):
        return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step or 1)
    if isinstance(domain, Range):
        return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    return CategoricalDistribution(domain.values)


def _make_front_sampler(study: Study) -> FrontSampler:
    sampled = {name: domain for name, domain in study.space.items() if not isinstance(domain, Fixed)}
    focus = study.search.focus
    return FrontSampler(
        "density",
        space={name: make_distribution(domain) for name, domain in sampled.items()},
        conditions=_find_conditions(study, sampled),
        focus=None if focus is None else (1 - focus.sparsity[1], 1 - focus.sparsity[0]),
        start_trials=count_start_trials(study),
        logarithmic=True,
        seed=study.search.seed,
    )


def _find_conditions(study: Study, sampled: Mapping[str, Domain]) -> dict[str, dict[str, list[Any]]]:
    """Return, for each field that does not always apply, the values of sampled choices with which it does."""
    conditions: dict[str, dict[str, list[Any]]] = {}
    for name, domain in sampled.items():
        for parent in sorted(study.parents(name) & {*sampled}):
            values = [
                value
                for value in domain.when.get(parent, sampled[parent].values)
                if parent != "method" or is_applicable(name, {"method": value})
            ]
            conditions.setdefault(name, {})[parent] = values
    return conditions


def _make_named_sampler(name: str, options: dict[str, Any], seed: int) -> BaseSampler:
    """Return a sampler of Optuna's or of the user's own."""
    position = f"search.sampler {name}"
    if name.startswith(OPTUNA_PREFIX):
        maker = _find_optuna_sampler(name.removeprefix(OPTUNA_PREFIX))
    else:
        maker = resolve(name, {}, "sampler")
    try:
        parameters = inspect.signature(maker).parameters
        seeded = {"seed": seed, **options} if "seed" in parameters else options
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = maker(**seeded)
    except Exception as error:  # it is the user's code, or has the user's options
        raise InputError(
            f"{position}: with search.sampler_options {options or 'empty'} it raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(sampler, BaseSampler):
        raise InputError(
            f"{position} returns a {type(sampler).__name__}; allowed: an optuna.samplers.BaseSampler, or a function "
            "that returns one"
        )
    return sampler


def _find_optuna_sampler(name: str) -> Any:
    allowed = [
        member
        for member, value in vars(optuna.samplers).items()
        if isinstance(value, type) and issubclass(value, BaseSampler) and value is not BaseSampler
    ]
    if name not in allowed:
        raise InputError(
            f"search.sampler: Optuna has no sampler {name!r}{suggestion(name, allowed)}; "
            f"allowed: {', '.join(sorted(allowed))}"
        )
    return getattr(optuna.samplers, name)

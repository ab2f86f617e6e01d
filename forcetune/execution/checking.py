"""The check of a study before it runs: data sets are loaded, networks built, and functions of the user called."""

from collections.abc import Iterator
from typing import Any

from forcetune import trial
from forcetune.containment import contained
from forcetune.errors import InputError, locating
from forcetune.search.samplers import make_sampler
from forcetune.study import CONTROLS, RULE_OPTIONS, Study, Trial, check_reported, method_label


@contained()
def check_study(study: Study) -> list[dict[str, Any]]:
    """Load every data set and build every network that the study can propose.

    Args:
        study: The study.

    Returns:
        The description of each network on each data set, as `trial.check` returns it; each one once.

    Raises:
        InputError: A data set does not load; a network does not fit the data, or keeps no weight at the lowest density;
            a saliency batch cannot be drawn (too few samples of a class) or scored (a single sample); whole channels
            cannot be cut out of a network, or a density keeps less than one in a layer; a training is too short for the
            rule that changes its masks; a function of the user fails; or an objective or a constraint is a metric that
            no trial reports.
    """
    lowest_density = min(study.space["density"].values)
    network_fields = ["dataset", "data_root", "train_samples", "model", "width"]
    descriptions: dict[Trial, dict[str, Any]] = {}
    for candidate in _list_candidates(study, [*network_fields, "small_dense", "layers_from"]):
        sparsest = candidate.model_copy(update={"method": "random", "density": lowest_density})
        with locating("trial"):
            if sparsest not in descriptions:
                descriptions[sparsest] = trial.check(sparsest)
    batch_fields = ["saliency_batch_size", "samples_per_class"]
    for candidate in _list_candidates(study, [*network_fields, "method", *batch_fields, "seed"]):
        if candidate.saliency_samples_per_class or candidate.saliency_batch_size == 1:
            with locating(f"trial.method {candidate.method}"):
                trial.check_saliency(candidate)
    _check_channels(study, network_fields)
    steps: dict[tuple[object, ...], int] = {}

    def count_steps(candidate: Trial) -> int:
        setting = candidate.dataset, candidate.data_root, candidate.train_samples, candidate.batch_size
        return steps.get(setting) or steps.setdefault(setting, trial.count_epoch_steps(candidate))

    length_fields = ["epochs", "batch_size", "iterations", "schedule", *RULE_OPTIONS]
    rule_fields = [*network_fields, "method", *CONTROLS, "density", *length_fields]
    for candidate in _list_candidates(study, rule_fields):
        with locating(f"trial.method {candidate.method}"):
            trial.check_rule(candidate, study.task, count_steps)
    if ":" in study.search.sampler:
        make_sampler(study, 0)
    check_reported(study, *trial.find_reported_metrics(next(iter(descriptions)), study.task))
    return list({tuple(description.items()): description for description in descriptions.values()}.values())


def _check_channels(study: Study, network_fields: list[str]) -> None:
    """Raise InputError where whole channels are pruned in a network without any, or a layer keeps less than one."""
    lowest_densities: dict[tuple[object, ...], tuple[float, float]] = {}
    for candidate in _list_candidates(study, [*network_fields, "method", "granularity", "density"]):
        if not candidate.prunes_channels:
            continue
        network = tuple(getattr(candidate, name) for name in network_fields)
        with locating(f"trial.method {candidate.method}"):
            if network not in lowest_densities:
                lowest_densities[network] = trial.check_channels(candidate)
        lowest, rounded_lowest = lowest_densities[network]
        if candidate.density < lowest:
            raise InputError(
                f"trial.density {candidate.density:g} leaves less than one channel in a layer of {candidate.model}, of "
                f"which {method_label(candidate.fields())} prunes whole channels; allowed: at least "
                f"{rounded_lowest:g}, or a `when:` that keeps lower densities to other methods"
            )


def _list_candidates(study: Study, names: list[str]) -> Iterator[Trial]:
    """Yield a trial for each combination of the values of these fields; other fields have a value that is valid."""
    required = {"dataset": "", "model": "", "method": "random", "density": 1.0}
    for fields in study.combinations([name for name in names if name in study.space]):
        yield Trial(**{**required, **{name: fields[name] for name in names if name in fields}})

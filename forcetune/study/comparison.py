"""The grid study of a comparison, which runs methods and the random controls at every density and seed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from forcetune.errors import InputError, locating
from forcetune.study.domains import Range
from forcetune.study.problems import summarize
from forcetune.study.reading import read_yaml
from forcetune.study.study import Study

COMPARED_CONTROLS = ("random", "random_uniform", "random_erk")
COMPARED_FIELDS = ("method", "density", "seed")
COMPARED_SEEDS = 5  # of a comparison for which no seeds are requested
# The keys of `search:` that a comparison may have: those with one allowed value, and those with any value.
GRID_SEARCH_VALUES = {"sampler": "grid", "stopping": "none"}
GRID_SEARCH_KEYS = ("seed", "budget", "max_failures", "start")


def make_grid(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the study file of a comparison, which runs methods and the random controls at every density and seed.

    Args:
        written: The content of a study file, whose trials vary only in method, density and seed; without a seed, the
            seeds are 0 to 4.

    Returns:
        The content of the study file `compare-NAME`, or what is written where that is such a grid already.

    Raises:
        InputError: The content is not valid, another field varies, or not every trial would be trained to its end.
    """
    search = written.get("search", {}) if isinstance(written, Mapping) else {}
    unstopped = {**written, "search": {"stopping": "none", **search}} if isinstance(search, Mapping) else written
    study = Study.from_dict(unstopped)
    if problems := [*_find_misfits(study)]:
        raise InputError(summarize(problems))
    trial = written["trial"]
    grid = {
        **written,
        "trial": {
            **{name: value for name, value in trial.items() if name not in COMPARED_FIELDS},
            **_choose_granularity(study),
            "method": list(dict.fromkeys([*study.space["method"].values, *COMPARED_CONTROLS])),
            "seed": trial.get("seed", list(range(COMPARED_SEEDS))),
            "density": trial["density"],  # last, so that its trials, which share pruning steps, are near
        },
        "search": {**written.get("search", {}), "sampler": "grid"},
    }
    return grid if grid == written else {**grid, "study": f"compare-{study.study}"}


def _find_misfits(study: Study) -> Iterator[str]:
    """Yield a problem for each part of a study that is more than a grid over methods, densities and seeds."""
    for name, domain in study.space.items():
        if name not in COMPARED_FIELDS and len(domain.values) > 1:
            yield f"trial.{name}: varies ({domain}); a comparison varies only {', '.join(COMPARED_FIELDS)}"
        elif isinstance(domain, Range):
            yield f"trial.{name}: is a range ({domain}); list the values to compare, or set them with an option"
    written = study.search.model_dump(exclude_unset=True).items()
    misfits = [key for key, value in written if key not in GRID_SEARCH_KEYS and value != GRID_SEARCH_VALUES.get(key)]
    if misfits:
        allowed = [*(f"{key}: {value}" for key, value in GRID_SEARCH_VALUES.items()), *GRID_SEARCH_KEYS]
        yield (
            f"search: a comparison trains every combination to its end, without {', '.join(misfits)}; allowed: "
            f"{', '.join(allowed)}"
        )
    channel_methods = _list_channel_methods(study)
    weight_methods = [
        name for name in study.space["method"].values if name not in (*COMPARED_CONTROLS, *channel_methods)
    ]
    if channel_methods and weight_methods and "granularity" not in study.space:
        yield (
            f"trial.method: {channel_methods[0]} prunes whole channels and {weight_methods[0]} single weights, and the "
            "random controls can do one of both; write `granularity: channel` or `granularity: weight`"
        )
    if study.constraints:
        yield "constraints: a comparison trains every network, without constraints; remove them"


def _choose_granularity(study: Study) -> dict[str, str]:
    """Return the granularity of the random controls, where methods that prune channels are compared and none is set."""
    return {"granularity": "channel"} if _list_channel_methods(study) and "granularity" not in study.space else {}


def _list_channel_methods(study: Study) -> list[str]:
    from forcetune.pruning import method_row

    return [name for name in study.space["method"].values if method_row(name).always_prunes_channels]


def list_configurations(study: Study) -> list[dict[str, Any]]:
    """Return the key, the method and the density of each trial of a grid study, as `analysis.compare` takes them.

    Args:
        study: The study of a comparison.

    Returns:
        A record for each trial: trial (its key), method and density (the fraction of weights kept that is requested).
    """
    return [{"trial": trial.key, "method": trial.method, "density": trial.density} for trial in study.grid()]


def write_study(path: Path, study: Mapping[str, Any]) -> Path:
    """Write a study file and return its path; a file that exists may differ only in what a study may change.

    Args:
        path: The path of the file.
        study: The study as plain data.

    Raises:
        InputError: The path has another study, or the file cannot be written.
    """
    with locating(f"--out: {path} cannot be overwritten"):
        before = read_yaml(path) if path.exists() else study
    try:
        if _drop_changeable(before) != _drop_changeable(study):
            raise InputError(
                f"{path} already has another study; choose another folder (--out), or another name (`study:` in FILE)"
            )
        if before == study and path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True), "utf-8")
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"--out: {path} cannot be written: {error}") from error
    return path


def _drop_changeable(study: Any) -> Any:
    """Return the content of a study file that must stay the same under one name."""
    return {**study, "search": None, "resources": None, "code": None} if isinstance(study, Mapping) else study

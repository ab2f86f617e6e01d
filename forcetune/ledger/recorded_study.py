"""The study as the ledger records it: which changes of its file are refused, and what another study learns from it."""

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from forcetune.errors import InputError, locating
from forcetune.ledger.messages import PriorTrial
from forcetune.ledger.storage import STUDY_ATTR, directions, is_missing, load_optuna_study, open_storage
from forcetune.ledger.trials import is_on_front
from forcetune.names import suggestion
from forcetune.stores import hide_password
from forcetune.study import Study


def refuse_changes(study: Study, uri: str) -> None:
    """Check that the study file has not changed since the study's trials were made, but for what may change.

    Raises:
        InputError: The trials were made by a study file that differs in more than `search`, `resources`, `code` and
            `on_end`, or another program made the study.
    """
    optuna_study = load_optuna_study(study.study, uri)
    if optuna_study is None:
        return
    trials = optuna_study.get_trials(deepcopy=False)
    before = optuna_study.user_attrs.get(STUDY_ATTR)
    now = json.loads(json.dumps(study.identity))
    if before is None and not trials and optuna_study.directions == directions(study):
        return  # a driver was killed while it made the study
    if before is None:
        raise InputError(
            f"study: another program has an Optuna study {study.study!r} in {hide_password(uri)}; give your study "
            "another name"
        )
    names = [list(identity["objectives"]) for identity in (before, now)]
    if not trials and (names[0] != names[1] or optuna_study.directions != directions(study)):
        raise InputError(
            f"study: {study.study!r} has no trial yet, but it was made with other objectives, or in another order "
            f"(then {', '.join(names[0])}, now {', '.join(names[1])}): give the study another name, or use --fresh"
        )
    if before != now and trials:
        raise InputError(
            f"study: the trials of {study.study!r} were made by a different study file "
            f"({'; '.join(_differences(before, now))}). Only search, resources, code and on_end may change: give the "
            "study another name, or use --fresh, which archives the existing study and starts a new one"
        )


def load_recorded_study(name: str, uri: str) -> Study:
    """Return a study as its trials were made.

    `search` and `resources` have their defaults. The names in it, such as those of the user's functions, are not looked
    up.

    Raises:
        InputError: The ledger has no such study.
    """
    optuna_study = load_optuna_study(name, uri)
    if optuna_study is None or STUDY_ATTR not in optuna_study.user_attrs:
        studies = {} if is_missing(uri) else {study.study_name: study for study in open_storage(uri).get_all_studies()}
        near = suggestion(name, {*studies} - {name})  # another program may have a study of this name
        raise InputError(
            f"the ledger {hide_password(uri)} has no study {name!r} of forcetune{near}; "
            f"its studies: {', '.join(sorted(studies)) or 'none yet'}"
        )
    return Study.model_validate(optuna_study.user_attrs[STUDY_ATTR])


def load_prior_trials(study: Study, uri: str) -> dict[str, list[PriorTrial]]:
    """Return the complete trials of the studies under `search.warm_start`.

    Args:
        study: The study that learns from them.
        uri: The address of the Optuna storage.

    Returns:
        The trials by the name of their study, with the values in the order of this study's objectives.

    Raises:
        InputError: The ledger has no such study, or its objectives differ from this study's.
    """
    prior_trials: dict[str, list[PriorTrial]] = {}
    for i, name in enumerate(study.search.warm_start):
        yaml_path = f"search.warm_start.{i}"
        with locating(yaml_path):
            objectives = list(load_recorded_study(name, uri).directions.items())
        if dict(objectives) != study.directions:
            raise InputError(
                f"{yaml_path}: the objectives of {name!r} are {_format_objectives(dict(objectives))}, those of this "
                f"study {_format_objectives(study.directions)}; they must be the same"
            )
        order = [objectives.index(objective) for objective in study.directions.items()]
        prior_trials[name] = [
            PriorTrial(trial.user_attrs["fields"], [trial.values[i] for i in order], is_on_front(trial))
            for trial in optuna.load_study(study_name=name, storage=open_storage(uri)).get_trials(deepcopy=False)
            if trial.state == TrialState.COMPLETE and "fields" in trial.user_attrs
        ]
    return prior_trials


def _format_objectives(objectives: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {direction}" for name, direction in objectives.items())


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if before == now else [f"{path} was {json.dumps(before)}, is now {json.dumps(now)}"]

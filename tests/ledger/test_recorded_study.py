"""The study that a ledger records: which changes of its file are refused, and what another study learns from it."""

import optuna
import pytest
from drivers import drain, make_driver, optuna_trials

from forcetune.errors import InputError
from forcetune.ledger.ledger import Ledger
from forcetune.ledger.recorded_study import load_prior_trials, refuse_changes
from forcetune.stores import optuna_uri


def test_prior_trials_of_another_study_are_loaded(folder, make_study):
    drain(make_driver(make_study(study="other", search={"trials": 3})))
    learner = make_study(search={"warm_start": ["other"]})
    prior_trials = load_prior_trials(learner, optuna_uri())["other"]
    assert [prior_trial.fields for prior_trial in prior_trials] == [
        trial.user_attrs["fields"] for trial in optuna_trials("other")
    ]
    assert [list(prior_trial.values) for prior_trial in prior_trials] == [
        [0.5, prior_trial.fields["density"]] for prior_trial in prior_trials
    ]
    reordered = make_study(search={"warm_start": ["other"]}, objectives={"density": "min", "val_accuracy": "max"})
    assert list(load_prior_trials(reordered, optuna_uri())["other"][0].values) == prior_trials[0].values[::-1]
    misspelled = make_study(search={"warm_start": ["othr"]})
    with pytest.raises(InputError, match="search.warm_start.0: the ledger .* has no study 'othr' .* 'other'"):
        load_prior_trials(misspelled, optuna_uri())
    different = make_study(search={"warm_start": ["other"]}, objectives={"val_loss": "min", "density": "min"})
    with pytest.raises(InputError, match="'other' .* val_accuracy max, density min, .* val_loss min"):
        load_prior_trials(different, optuna_uri())


def test_a_changed_file_is_refused_with_the_difference(folder, make_study):
    refuse_changes(make_study(), optuna_uri())
    assert not (folder / "optuna.db").exists(), "the check makes no store"
    drain(make_driver(make_study(search={"trials": 1})))
    refuse_changes(make_study(search={"trials": 9, "sampler": "random"}, resources={"cpus": 2}), optuna_uri())
    with pytest.raises(InputError, match="trial.epochs was 2, is now 3"):
        refuse_changes(make_study({"epochs": 3}), optuna_uri())


def test_a_study_without_trials_takes_a_changed_file(folder, make_study):
    Ledger(make_study(), optuna_uri())
    changed = make_study({"epochs": 3}, search={"trials": 1})
    refuse_changes(changed, optuna_uri())
    drain(make_driver(changed))
    refuse_changes(changed, optuna_uri())
    with pytest.raises(InputError, match="trial.epochs was 3, is now 2"):
        refuse_changes(make_study(), optuna_uri())


def test_a_study_without_trials_keeps_its_objectives(folder, make_study):
    Ledger(make_study(), optuna_uri())
    for objectives in ({"val_accuracy": "max"}, {"density": "min", "val_accuracy": "max"}):
        with pytest.raises(InputError, match=f"then val_accuracy, density, now {', '.join(objectives)}"):
            refuse_changes(make_study(objectives=objectives), optuna_uri())


def test_another_programs_study_is_refused(folder, make_study):
    optuna.create_study(study_name="s", storage=optuna_uri()).add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(InputError, match="another program"):
        refuse_changes(make_study(), optuna_uri())


def test_a_ledger_that_cannot_be_opened_is_named(folder, make_study):
    with pytest.raises(InputError, match="cannot be used") as refused:
        Ledger(make_study(), "sqlite:////nowhere/at/all/optuna.db")
    assert "/nowhere" in str(refused.value)

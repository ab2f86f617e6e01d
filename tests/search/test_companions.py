"""The re-runs of front points with fresh seeds, and when they end."""

import copy
import io
from collections import Counter

import numpy as np
import optuna
import pytest
from made import QUIET_CONSOLE
from mlflow import MlflowClient
from rich.console import Console

from forcetune import run
from forcetune.errors import HeldError, InputError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.ledger.ledger import Ledger
from forcetune.ledger.messages import Proposal, Report
from forcetune.ledger.study_attributes import pending_archive
from forcetune.ledger.trials import load_trials
from forcetune.names import COMPANION
from forcetune.report import results
from forcetune.search import companions
from forcetune.search.archive import archive
from forcetune.search.companions import (
    FIRST_FRESH_SEEDS,
    count_wanted_seeds,
    propose_reruns,
    rerun,
    run_listed_companions,
)
from forcetune.search.driver import open_driver
from forcetune.search.proposals import FixedProposals
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.study import Budget, Companion, CompanionRuns, Trial
from forcetune.tracking import FRONT_TAG, Epoch, load_reruns, load_table


def end(driver, assignment, accuracy, outcome="trained"):
    metrics = {"val_accuracy": accuracy, "density": assignment.trial.density}
    report = Report(metrics, Epoch(2, 1000, {"val_accuracy": accuracy}), outcome=outcome, reason=None)
    driver.end(assignment.number, assignment.attempt, report)


# The accuracies of a study's trials: a clear front of three, and one trial far behind.
ACCURACY_BY_DENSITY = {0.4: 0.9, 0.2: 0.8, 0.1: 0.6, 0.3: 0.5}


@pytest.fixture
def search_densities(folder, make_study):
    def make(front=5, points=ACCURACY_BY_DENSITY, outcomes=None):
        study = make_study(search={"seeds": {"front": front}, "trials": len(points)})
        fixed_fields = {
            **{name: study.trial[name] for name in ("dataset", "model", "width", "epochs")},
            "method": "random",
        }
        proposals = [Proposal(Trial(**fixed_fields, density=density)) for density in points]
        driver = open_driver(study, lambda: None, QUIET_CONSOLE, propose=lambda history: FixedProposals(proposals))
        while assignment := driver.issue():
            density = assignment.trial.density
            end(driver, assignment, points[density], (outcomes or {}).get(density, "trained"))
        driver.close()
        return study

    return make


def drive_with(compute_accuracy, issued):
    """Return a function that runs a driver; `compute_accuracy(density, seed)` is the accuracy of a trial."""

    def drive(driver):
        while assignment := driver.issue():
            issued.append((assignment.trial.density, assignment.trial.seed))
            end(driver, assignment, compute_accuracy(*issued[-1]))
        driver.close()

    return drive


def test_each_front_point_has_three_fresh_seeds_first(search_densities):
    study = search_densities()
    proposals = propose_reruns(study, load_trials("s", optuna_uri()), [])
    assert Counter(proposal.trial.density for proposal in proposals) == {
        0.4: FIRST_FRESH_SEEDS,
        0.2: FIRST_FRESH_SEEDS,
        0.1: FIRST_FRESH_SEEDS,
    }
    assert {proposal.trial.seed for proposal in proposals} == {1, 2, 3}, "the study has used none of them"
    keys = {t.user_attrs["fields"]["density"]: t.user_attrs["key"] for t in load_trials("s", optuna_uri())}
    assert all(proposal.parent_key == keys[proposal.trial.density] for proposal in proposals)


def test_a_clear_front_takes_no_more_seeds(search_densities):
    study, issued = search_densities(), []
    noise = {1: 0.001, 2: -0.001, 3: 0.0}
    assert (
        rerun(
            study, lambda: None, QUIET_CONSOLE, drive_with(lambda d, seed: ACCURACY_BY_DENSITY[d] + noise[seed], issued)
        )
        is None
    )
    assert Counter(density for density, _ in issued) == {0.4: 3, 0.2: 3, 0.1: 3}
    assert propose_reruns(study, load_trials("s", optuna_uri()), load_trials("s" + COMPANION, optuna_uri())) == []


def test_points_in_doubt_are_run_until_the_seeds_are_spent(search_densities):
    # The trial at 0.2 was lucky: with fresh seeds it is as good as the one at 0.21, which it seemed to dominate.
    points = {0.4: 0.9, 0.2: 0.80, 0.21: 0.79, 0.1: 0.6}
    study, issued = search_densities(4, points), []
    noise = {1: 0.02, 2: -0.02, 3: 0.02, 4: -0.02}
    means = {**points, 0.2: 0.79}
    rerun(study, lambda: None, QUIET_CONSOLE, drive_with(lambda d, seed: means[d] + noise[seed], issued))
    seeds = Counter(density for density, _ in issued)
    assert seeds[0.21] == 4, "only its first seed puts it off the front"
    assert seeds[0.2] == 3, "it is on the front whether it is better or not"
    assert len(set(issued)) == len(issued)


def test_a_seed_that_collapses_is_replaced_by_another_one(search_densities):
    study, issued = search_densities(), []

    def drive(driver):
        while assignment := driver.issue():
            density, seed = assignment.trial.density, assignment.trial.seed
            issued.append((density, seed))
            collapses = density == 0.2 and seed == 1
            accuracy = 0.1 if collapses else ACCURACY_BY_DENSITY[density] + 0.001 * seed
            end(driver, assignment, accuracy, "collapsed" if collapses else "trained")
        driver.close()

    rerun(study, lambda: None, QUIET_CONSOLE, drive)
    assert Counter(density for density, _ in issued) == {0.4: 3, 0.2: 4, 0.1: 3}
    row = results.load("s").trials.set_index("density").loc[0.2]
    assert (row["seeds"], row["collapsed_seeds"]) == (4, 1)
    assert row["val_accuracy_mean"] == pytest.approx(0.803), "over the seeds that live"


@pytest.mark.parametrize(
    ("on_front", "probability", "tried", "collapsed", "wanted"),
    [
        (True, np.nan, 0, 0, 3),
        (False, np.nan, 0, 0, 0),
        (False, 0.5, 0, 0, 3),  # whatever may belong to the front has three before it is judged
        (False, 0.01, 0, 0, 0),
        (False, 0.01, 1, 0, 3),  # its search of seeds was interrupted
        (True, 0.99, 3, 0, 3),
        (True, 0.5, 3, 0, 4),
        (True, 0.99, 3, 1, 4),  # three that live
        (True, 0.01, 3, 3, 3),
        (True, 0.5, 5, 0, 5),
        (True, 0.5, 6, 0, 6),  # of an earlier, higher limit
    ],
)
def test_wanted_seeds(on_front, probability, tried, collapsed, wanted):
    columns = [np.array([value]) for value in (on_front, probability, tried, collapsed)]
    assert count_wanted_seeds(*columns, limit=5).tolist() == [wanted]


def test_the_tags_of_the_front_follow_the_means_over_fresh_seeds(search_densities):
    study, issued = search_densities(2), []
    assert "0.3" not in load_front_densities()
    means = {**ACCURACY_BY_DENSITY, 0.4: 0.3, 0.3: 0.5}  # the densest point was lucky
    rerun(study, lambda: None, QUIET_CONSOLE, drive_with(lambda d, seed: means[d], issued))
    front = results.load("s").front
    assert load_front_densities() == set(front["density"].map(str))
    assert "0.4" not in load_front_densities()


def load_front_densities():
    """Return the densities of the runs that MLflow finds by the tag of the front."""
    client = MlflowClient(mlflow_uri())
    experiment = client.get_experiment_by_name("s").experiment_id
    runs = client.search_runs([experiment], f"tags.`{FRONT_TAG}` = 'true'")
    return {run.data.params["density"] for run in runs}


def test_stopped_trials_are_never_run_again(search_densities):
    study = search_densities(points={0.4: 0.9, 0.1: 0.95}, outcomes={0.1: "stopped"})
    proposals = propose_reruns(study, load_trials("s", optuna_uri()), [])
    assert {proposal.trial.density for proposal in proposals} == {0.4}


def test_an_interrupted_round_goes_on(search_densities):
    study, issued = search_densities(2), []

    def drive_and_interrupt(driver):
        first = driver.issue()
        end(driver, first, ACCURACY_BY_DENSITY[first.trial.density])
        driver.issue()
        driver.hand_back()
        driver.close()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rerun(study, lambda: None, QUIET_CONSOLE, drive_and_interrupt)
    rerun(study, lambda: None, QUIET_CONSOLE, drive_with(lambda d, seed: ACCURACY_BY_DENSITY[d], issued))
    trials = optuna.load_study(study_name="s" + COMPANION, storage=optuna_uri()).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
    assert len(issued) == 5, "the one that was handed back is run, and none is run twice"


def test_companions_have_an_experiment_of_their_own(search_densities):
    study = search_densities(2)
    rerun(study, lambda: None, QUIET_CONSOLE, drive_with(lambda d, seed: ACCURACY_BY_DENSITY[d], []))
    rows, reruns = load_table("s").trials, load_reruns("s")
    assert len(rows) == 4, "no companion counts as a trial of the study"
    assert "of" not in rows
    assert len(reruns) == 6
    assert set(reruns["of"]) == set(rows[rows["density"] != 0.3]["trial"])
    assert load_reruns("other") is None


def test_nothing_is_run_again_once_the_budget_is_used_up(search_densities):
    study = search_densities(3)
    search = study.search.model_copy(update={"budget": Budget(hours=1e-9)})
    study = study.model_copy(update={"search": search})
    issued = []
    end_reason = rerun(study, lambda: None, QUIET_CONSOLE, drive_with(lambda d, seed: 0.5, issued))
    assert end_reason == "there are no further re-runs with fresh seeds, because the search has used up the budget"
    assert issued == []


def run_night(study, night, device_hours, drive):
    """Run one comparison of a night, and return why it ended early."""
    champion = load_trials("s", optuna_uri())[0].user_attrs
    trial = Trial(**{**champion["fields"], "shuffle": True, "seed": int(night)})
    companion = Companion(trial, parent_key=champion["key"], tags={"night": night})
    companion_runs = CompanionRuns(study, [companion], night, device_hours)
    return run_listed_companions(companion_runs, lambda: None, QUIET_CONSOLE, drive)


def drive_for(hours, issued):
    """Return a function that runs a driver, each of whose attempts takes these device hours."""

    def drive(driver):
        while assignment := driver.issue():
            issued.append((assignment.trial.density, assignment.trial.seed))
            driver.spending.device_hours += hours
            end(driver, assignment, ACCURACY_BY_DENSITY[assignment.trial.density])
        driver.close()

    return drive


def test_nights_take_nothing_from_the_budget_of_fresh_seeds(search_densities):
    study, issued = search_densities(3), []
    search = study.search.model_copy(update={"budget": Budget(device_hours=4.0)})
    study = study.model_copy(update={"search": search})
    assert run_night(study, "1", None, drive_for(50.0, [])) is None
    end_reason = rerun(study, lambda: None, QUIET_CONSOLE, drive_for(1.0, issued))
    assert end_reason == "the re-runs with fresh seeds ended early: the budget of 4 device hours is used up"
    assert len(issued) == 4, "fresh seeds count against the budget themselves"
    assert run_night(study, "2", None, drive_for(50.0, [])) is None
    assert rerun(study, lambda: None, QUIET_CONSOLE, drive_for(1.0, issued)) == end_reason
    assert len(issued) == 4


def test_a_trial_of_a_night_that_was_killed_takes_nothing_from_the_budget_of_fresh_seeds(search_densities):
    study, issued = search_densities(3), []
    study = study.model_copy(update={"search": study.search.model_copy(update={"budget": Budget(device_hours=4.0)})})

    def die(driver):
        driver.issue()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_night(study, "1", None, die)

    def drive(driver):
        while assignment := driver.issue():
            issued.append(assignment.trial.shuffle)
            driver.spending.device_hours += 50.0 if assignment.trial.shuffle else 1.0
            end(driver, assignment, ACCURACY_BY_DENSITY[assignment.trial.density])
        driver.close()

    end_reason = rerun(study, lambda: None, QUIET_CONSOLE, drive)
    assert end_reason == "the re-runs with fresh seeds ended early: the budget of 4 device hours is used up"
    assert sorted(issued) == [False] * 4 + [True]


def test_fresh_seeds_between_two_attempts_at_a_night_give_it_no_second_budget(search_densities):
    study, issued = search_densities(3), []
    assert run_night(study, "1", 3.0, drive_for(3.0, issued)) is None
    assert rerun(study, lambda: None, QUIET_CONSOLE, drive_for(1.0, [])) is None
    champion = load_trials("s", optuna_uri())[1].user_attrs
    companion = Companion(
        Trial(**{**champion["fields"], "shuffle": True}), parent_key=champion["key"], tags={"night": "1"}
    )
    companion_runs = CompanionRuns(study, [companion], "1", 3.0)
    end_reason = run_listed_companions(companion_runs, lambda: None, QUIET_CONSOLE, drive_for(3.0, issued))
    assert end_reason == "the comparisons ended early: the budget of 3 device hours is used up"
    assert len(issued) == 1


def test_points_that_differ_in_their_seed_alone_have_fresh_seeds_of_their_own(search_densities):
    study = search_densities()
    trials = load_trials("s", optuna_uri())
    twin = copy.deepcopy(trials[0])
    twin.set_user_attr("key", "another")
    proposals = propose_reruns(study, [*trials, twin], [])
    assert len({proposal.trial.key for proposal in proposals}) == len(proposals)
    assert sorted(proposal.trial.seed for proposal in proposals if proposal.parent_key == "another") == [4, 5, 6]


def test_an_mlflow_that_is_away_after_a_round_ends_nothing(search_densities, monkeypatch):
    def fail(tracker):
        raise InputError("MLflow is away")

    monkeypatch.setattr(companions, "mark_front", fail)
    console = Console(file=io.StringIO(), width=400)
    issued = []
    drive = drive_with(lambda d, seed: ACCURACY_BY_DENSITY[d], issued)
    assert rerun(search_densities(), lambda: None, console, drive) is None
    assert len(issued) == 9
    assert "the front of s is not marked anew (MLflow is away)" in console.file.getvalue()


def test_fresh_archives_companions_with_their_study(search_densities):
    study = search_densities(2)
    rerun(study, lambda: None, QUIET_CONSOLE, drive_with(lambda d, seed: ACCURACY_BY_DENSITY[d], []))
    name = archive("s", lambda: None, QUIET_CONSOLE, True)
    assert len(load_trials(name, optuna_uri())) == 4
    assert len(load_trials(name + COMPANION, optuna_uri())) == 6
    assert load_trials("s" + COMPANION, optuna_uri()) == []
    assert len(load_reruns(name)) == 6
    assert load_reruns("s") is None


def test_fresh_is_refused_while_companions_run(search_densities):
    study = search_densities(2)
    rerun(study, lambda: None, QUIET_CONSOLE, drive_with(lambda d, seed: ACCURACY_BY_DENSITY[d], []))
    with driver_lock("s" + COMPANION, optuna_uri()):
        with pytest.raises(HeldError, match="another driver has the study 's.companion'"):
            archive("s", lambda: None, QUIET_CONSOLE, True)
        assert len(load_trials("s", optuna_uri())) == 4, "nothing is archived"
        assert pending_archive("s", optuna_uri()) is None
    assert archive("s", lambda: None, QUIET_CONSOLE, True)


def test_companions_of_a_study_that_is_being_archived_are_not_run(search_densities, monkeypatch):
    study = search_densities(2)
    monkeypatch.setattr(run.RaySession, "drive", lambda cluster, driver: pytest.fail("a companion is run"))
    champion = load_trials("s", optuna_uri())[0].user_attrs
    companion_runs = CompanionRuns(
        study, [Companion(Trial(**{**champion["fields"], "shuffle": True}), parent_key=champion["key"])]
    )
    Ledger(study, optuna_uri()).begin_archive("s.old")
    with pytest.raises(InputError, match="'s' .* as s.old .*forcetune doctor s --repair"):
        run.run_companions(companion_runs, QUIET_CONSOLE)
    archive("s", lambda: None, QUIET_CONSOLE, False)
    with pytest.raises(InputError, match="'s' is no longer in MLflow"):
        run.run_companions(companion_runs, QUIET_CONSOLE)
    assert load_trials("s" + COMPANION, optuna_uri()) == []

"""The twins of a champion."""

import pandas as pd
import pytest

from forcetune import tracking
from forcetune.baseline.champion_study import ChampionStudy
from forcetune.baseline.champions import Champion
from forcetune.baseline.twins import (
    COMPARISON_SEED_OFFSET,
    FIXED_TWIN_FIELDS,
    find_best_random,
    get_comparison_seed,
    make_fixed_comparisons,
    make_tuned_comparison,
    plan_tuning,
    replace_fields,
)
from forcetune.study import Trial


@pytest.fixture
def champion_study(search_study):
    search_study()
    return ChampionStudy("s", 1, (0.7, 0.9, 1.0))


def test_a_fixed_twin_differs_in_its_mask_alone(champion_study):
    force = champion_study.champions[-1]
    twins = {comparison.against: comparison.twin.fields() for comparison in make_fixed_comparisons(force)}
    assert twins.keys() == FIXED_TWIN_FIELDS.keys()
    force_fields = force.trial.fields()
    pruning = {
        "iterations",
        "schedule",
        "batches_per_step",
        "saliency_batch_size",
        "samples_per_class",
        "saliency_loss",
    }
    for name in ("random_uniform", "random_erk"):
        assert twins[name] == {
            **{field: force_fields[field] for field in force_fields.keys() - pruning},
            "method": name,
        }
    assert twins["shuffled"] == {**force_fields, "shuffle": True}
    assert twins["small_dense"] == {**force_fields, "small_dense": "macs"}


@pytest.mark.parametrize("method", ["gradual_magnitude", "rigl"])
def test_the_twins_of_a_champion_that_is_pruned_in_training_have_the_layers_of_its_last_masks(method):
    fields = {"dataset": "digits", "model": "mlp", "method": method, "density": 0.1, "settle_at": 0.5, "epochs": 9}
    champion = Champion("s", "trial-0001", Trial(**fields), 0.9, (0.9, 1.0), run_id="a" * 32)
    twins = {comparison.against: comparison.twin for comparison in make_fixed_comparisons(champion)}
    assert {(twin.epochs, twin.equal_compute) for twin in twins.values()} == {(9, True)}
    assert {twin.settle_at for twin in twins.values()} == {None}
    masks = {name: (twin.method, twin.layers_from, twin.small_dense, twin.shuffle) for name, twin in twins.items()}
    assert masks == {
        "random_uniform": ("random_uniform", None, None, False),
        "random_erk": ("random_erk", None, None, False),
        "shuffled": ("random", "a" * 32, None, False),
        "small_dense": ("random", "a" * 32, "macs", False),
    }


def test_the_twins_of_a_lottery_ticket_have_the_cost_of_its_levels():
    fields = {"dataset": "digits", "model": "mlp", "method": "lottery", "iterations": 3, "density": 0.1, "epochs": 5}
    champion = Champion("s", "trial-0001", Trial(**fields), 0.9, (0.9, 1.0), run_id="a" * 32)
    twins = [comparison.twin for comparison in make_fixed_comparisons(champion)]
    assert {(twin.epochs, twin.equal_compute, twin.rewind_step) for twin in twins} == {(20, True, None)}


@pytest.mark.parametrize("fields", [{"method": "snip", "granularity": "channel"}, {"method": "snap"}])
def test_the_twins_of_a_champion_of_whole_channels_prune_channels(fields):
    trial = Trial(dataset="digits", model="mlp", density=0.1, **fields)
    champion = Champion("s", "trial-0001", trial, 0.9, (0.9, 1.0), run_id="a" * 32)
    twins = {comparison.against: comparison.twin for comparison in make_fixed_comparisons(champion)}
    assert all(twin.prunes_channels for twin in twins.values())
    assert twins["random_erk"].method == "random_erk"
    assert twins["shuffled"] == trial.model_copy(update={"shuffle": True})


def test_the_twins_of_skeletonization_prune_channels():
    fields = {"dataset": "digits", "model": "mlp", "method": "skeletonization", "density": 0.1, "epochs": 9}
    champion = Champion("s", "trial-0001", Trial(**fields), 0.9, (0.9, 1.0), run_id="a" * 32)
    for comparison in make_fixed_comparisons(champion):
        assert comparison.twin.fields()["granularity"] == "channel"


def test_champion_and_twin_have_the_same_fresh_seed(champion_study):
    seed = get_comparison_seed(champion_study.study, 0)
    assert seed >= champion_study.study.first_fresh_seed + COMPARISON_SEED_OFFSET, (
        "re-runs of the front have the seeds before it"
    )
    for comparison in make_fixed_comparisons(champion_study.champions[0]):
        assert {companion.trial.seed for companion in comparison.make_companions(seed)} == {seed}
    assert replace_fields(champion_study.champions[0].trial, {"seed": 7}).key != champion_study.champions[0].key


def test_random_pruning_is_tried_as_often_as_the_champions_method(search_study):
    search_study(trial={"lr": {"low": 0.01, "high": 0.5}})
    champion_study = ChampionStudy("s", 1, (0.7, 0.9, 1.0))
    snip, force = champion_study.champions
    for champion in (snip, force):
        tuning = plan_tuning(champion_study.study, champion, champion_study.results.trials)
        assert len(tuning) == 2, (
            "as many as trials of the champion's method in its band; weaker random trials do not count"
        )
        assert {companion.trial.method for companion in tuning} == {"random_erk"}
        assert {companion.trial.density for companion in tuning} == {champion.trial.density}
        assert {(companion.tags["arm"], companion.parent_key) for companion in tuning} == {("tuning", champion.key)}
        assert plan_tuning(champion_study.study, champion, champion_study.results.trials) == tuning, (
            "the plan is the same each time"
        )
    erk = champion_study.results.trials.assign(
        method=champion_study.results.trials["method"].replace("random", "random_erk")
    )
    assert plan_tuning(champion_study.study, snip, erk) == [], "the study itself has three trials of random pruning"
    assert len(plan_tuning(champion_study.study, force, erk)) == 1


def test_a_study_without_random_trials_is_given_some(search_study):
    study = search_study([("snip", 0.3, 0.9), ("snip", 0.28, 0.8)], trial={"method": ["snip"]})
    champion_study = ChampionStudy("s", 1, (0.7, 0.9))
    tuning = plan_tuning(study, champion_study.champions[0], champion_study.results.trials)
    assert [companion.trial.method for companion in tuning] == ["random_erk"], "the space has no other configuration"


def test_a_tuned_twin_has_no_controls(search_study):
    small = {"choices": ["macs"], "when": {"method": ["random"]}}
    study = search_study([("snip", 0.3, 0.9), ("random", 0.28, 0.8)], trial={"small_dense": small})
    (companion,) = plan_tuning(
        study, ChampionStudy("s", 1, (0.7, 0.9)).champions[0], ChampionStudy("s", 1, (0.7, 0.9)).results.trials
    )
    assert companion.trial.small_dense is None


def test_the_best_random_trial_is_taken_to_the_champions_density(champion_study):
    snip = champion_study.champions[0]
    best = find_best_random(snip, champion_study.results.trials, pd.DataFrame())
    assert (best["method"], best["density"]) == ("random", 0.29)
    from forcetune.study import Trial

    twin = make_tuned_comparison(snip, Trial(**tracking.load_trial_fields(best["run_id"]))).twin
    assert (twin.method, twin.density) == ("random", snip.trial.density)


def test_a_collapsed_random_trial_counts_and_a_failed_one_does_not(champion_study):
    tuning_runs = champion_study.results.trials[champion_study.results.trials["density"] == 0.07].assign(
        outcome="collapsed"
    )
    force = champion_study.champions[1]
    force_rows = champion_study.results.trials[champion_study.results.trials["method"] == "force"]
    assert find_best_random(force, force_rows, tuning_runs)["trial"] == tuning_runs["trial"].iloc[0]
    assert find_best_random(force, force_rows, tuning_runs.assign(outcome="failed")) is None

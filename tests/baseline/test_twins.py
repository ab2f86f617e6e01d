"""What a champion is held against."""

import pandas as pd
import pytest

from forcetune import tracking
from forcetune.baseline.bench import ChampionStudy
from forcetune.baseline.twins import (
    COMPARISON_SEED_OFFSET,
    FIXED_TWIN_FIELDS,
    find_best_random,
    get_comparison_seed,
    make_fixed_comparisons,
    make_tuned_comparison,
    plan_tuning,
    replace_seed,
)


@pytest.fixture
def bench(searched):
    searched()
    return ChampionStudy("s", 1, (0.7, 0.9, 1.0))


def test_a_fixed_twin_differs_in_its_mask_alone(bench):
    force = bench.champions[-1]
    twins = {one.against: one.twin.fields() for one in make_fixed_comparisons(force)}
    assert twins.keys() == FIXED_TWIN_FIELDS.keys()
    own = force.trial.fields()
    pruning = {
        "iterations",
        "schedule",
        "batches_per_step",
        "saliency_batch_size",
        "samples_per_class",
        "saliency_loss",
    }
    for name in ("random_uniform", "random_erk"):
        assert twins[name] == {**{field: own[field] for field in own.keys() - pruning}, "method": name}
    assert twins["shuffled"] == {**own, "shuffle": True}
    assert twins["small_dense"] == {**own, "small_dense": "macs"}


def test_both_sides_have_a_seed_that_chose_nothing(bench):
    seed = get_comparison_seed(bench.study, 0)
    assert seed >= bench.study.first_fresh_seed + COMPARISON_SEED_OFFSET, "re-runs of the front have those before it"
    for one in make_fixed_comparisons(bench.champions[0]):
        assert {side.trial.seed for side in one.make_companions(seed)} == {seed}
    assert replace_seed(bench.champions[0].trial, 7).key != bench.champions[0].key


def test_random_pruning_is_tried_as_often_as_the_champions_method(searched):
    searched(trial={"lr": {"low": 0.01, "high": 0.5}})
    bench = ChampionStudy("s", 1, (0.7, 0.9, 1.0))
    snip, force = bench.champions
    for champion in (snip, force):
        tried = plan_tuning(bench.study, champion, bench.table)
        assert len(tried) == 2, "as many as of the champion's method in its band, whatever weaker rows were tried"
        assert {one.trial.method for one in tried} == {"random_erk"}
        assert {one.trial.density for one in tried} == {champion.trial.density}
        assert {(one.tags["arm"], one.parent_key) for one in tried} == {("tuning", champion.key)}
        assert plan_tuning(bench.study, champion, bench.table) == tried, "the same each time it is asked"
    erk = bench.table.assign(method=bench.table["method"].replace("random", "random_erk"))
    assert plan_tuning(bench.study, snip, erk) == [], "the study itself has tried three"
    assert len(plan_tuning(bench.study, force, erk)) == 1


def test_a_study_without_random_trials_is_given_some(searched):
    study = searched([("snip", 0.3, 0.9), ("snip", 0.28, 0.8)], trial={"method": ["snip"]})
    bench = ChampionStudy("s", 1, (0.7, 0.9))
    found = plan_tuning(study, bench.champions[0], bench.table)
    assert [one.trial.method for one in found] == ["random_erk"], "the space has no other configuration"


def test_a_tuned_twin_has_no_controls(searched):
    small = {"choices": ["macs"], "when": {"method": ["random"]}}
    study = searched([("snip", 0.3, 0.9), ("random", 0.28, 0.8)], trial={"small_dense": small})
    (tried,) = plan_tuning(
        study, ChampionStudy("s", 1, (0.7, 0.9)).champions[0], ChampionStudy("s", 1, (0.7, 0.9)).table
    )
    assert tried.trial.small_dense is None


def test_the_best_random_trial_is_taken_to_the_champions_density(bench):
    snip = bench.champions[0]
    best = find_best_random(snip, bench.table, pd.DataFrame())
    assert (best["method"], best["density"]) == ("random", 0.29)
    from forcetune.study import Trial

    twin = make_tuned_comparison(snip, Trial(**tracking.load_trial_fields(best["run_id"]))).twin
    assert (twin.method, twin.density) == ("random", snip.trial.density)


def test_one_that_collapsed_is_no_worse_than_none(bench):
    tried = bench.table[bench.table["density"] == 0.07].assign(outcome="collapsed")
    force = bench.champions[1]
    alone = bench.table[bench.table["method"] == "force"]
    assert find_best_random(force, alone, tried)["trial"] == tried["trial"].iloc[0]
    assert find_best_random(force, alone, tried.assign(outcome="failed")) is None

"""The numbers of a report."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from forcetune import analysis
from forcetune.report import figures, numbers, paper
from forcetune.report.looks import Style

TRIAL_ROWS = [
    ("snip", 0.5, 0.9, "trained"),
    ("force", 0.1, 0.8, "trained"),
    ("random", 0.2, 0.7, "trained"),
    ("random", 0.05, 0.4, "trained"),
    ("random", 0.3, 0.6, "trained"),
    ("force", 0.01, 0.1, "collapsed"),
    ("force", np.nan, np.nan, None),
]


@pytest.fixture
def results(make_study):
    return numbers.prepare_trials(make_study(TRIAL_ROWS))


@pytest.fixture
def trials(results):
    return results.trials


def test_the_front_comes_first_by_rising_sparsity(trials):
    assert trials["on_front"].tolist() == [True, True, True, False, False, False, False]
    assert trials["density"].tolist()[:3] == [0.5, 0.1, 0.05]
    assert trials["outcome"].tolist()[-1] == "running"


def test_counts(trials):
    assert numbers.count_outcomes(trials) == {"trained": 5, "collapsed": 1, "running": 1}


def test_the_mean_over_fresh_seeds_counts(make_study):
    seeded = make_study(TRIAL_ROWS[:2], val_accuracy_mean=[0.7, np.nan], val_accuracy_low=[0.6, np.nan])
    assert numbers.prepare_trials(seeded).trials.sort_values("name")["reached"].tolist() == [0.7, 0.8]


def test_labels_name_the_controls(make_study):
    controls = make_study(TRIAL_ROWS[:2], shuffle=[True, False], small_dense=[None, "macs"])
    assert numbers.prepare_trials(controls).trials.sort_values("name")["label"].tolist() == [
        "snip+shuffle",
        "force+small_dense:macs",
    ]


def test_the_front_of_the_controls_alone(results):
    # without the trial of density 0.3, which is denser and worse
    assert numbers.select_control_front(results)["density"].tolist() == [0.2, 0.05]


@pytest.mark.parametrize(
    ("name", "shape", "label"),
    [
        ("layer1.0.conv1.weight", [8, 4, 3, 3], "layer1.0.conv1"),
        ("0.weight", [8, 1, 3, 3], "0: convolution 3x3, 1 to 8"),
        ("3.1.weight", [10, 8], "3.1: linear, 8 to 10"),
        ("weight", [10, 8], "weight"),
    ],
)
def test_layers_whose_names_are_numbers_are_described(name, shape, label):
    assert paper.format_layer_label({"layer": name, "shape": shape}) == label


def test_points_that_a_control_beats_are_marked(make_study):
    trials = numbers.prepare_trials(
        make_study([("force", 0.1, 0.8, "trained"), ("random", 0.2, 0.9, "trained")], macs=[9.0, 7.0])
    ).trials
    assert trials[["label", "beaten_by", "beaten_at"]].to_numpy().tolist() == [
        ["random", None, None],
        ["force", "trial-0001", "macs"],
    ]


@pytest.mark.parametrize(
    ("label", "random"),
    [("random", True), ("random_erk", True), ("random+shuffle", False), ("snip", False), ("random_mine:fn", False)],
)
def test_which_method_is_random_pruning(label, random):
    assert numbers.is_random_label(label) == random


@pytest.mark.parametrize(
    ("objectives", "quality"),
    [
        ({"val_accuracy": "max", "density": "min"}, "val_accuracy"),
        ({"latency_ms": "min", "val_f1": "max"}, "val_f1"),
        ({"val_loss": "min", "density": "min"}, "val_loss"),
        ({"density": "min"}, "val_accuracy"),
    ],
)
def test_the_quality_objective(make_study, objectives, quality):
    assert make_study(TRIAL_ROWS, objectives).quality == quality


def test_dense_runs_with_the_best_settings():
    dense = pd.DataFrame({"model": "mlp", "of": ["a", "a", "b"], "val_accuracy": [0.9, 0.92, 0.5]})
    (line,) = analysis.summarize_dense(dense, "val_accuracy").to_dict("records")
    assert (line["model"], line["seeds"], round(line["mean"], 6)) == ("mlp", 2, 0.91)
    assert line["low"] < 0.9 < 0.92 < line["high"]
    assert not len(analysis.summarize_dense(pd.DataFrame(), "val_accuracy"))


def test_the_seeds_of_a_channel_method_are_one_group():
    runs = pd.DataFrame(
        {
            "arm": "random_uniform",
            "density": [0.081, 0.085, 0.1, 0.1],
            "requested_density": [0.1, 0.1, np.nan, 0.1],
            "seed": [5, 6, 7, 8],
            "val_accuracy": [0.7, 0.8, 0.6, 0.9],
            "outcome": "trained",
        }
    )
    (twins,) = numbers.summarize_twins(runs, "val_accuracy").to_dict("records")
    assert (twins["seeds"], twins["mean"], twins["density"]) == (4, pytest.approx(0.75), pytest.approx(0.0915))
    trials = pd.concat([runs] * 2, ignore_index=True)
    assert paper.has_repeated_densities(trials)
    assert not paper.has_repeated_densities(trials.drop(columns="requested_density"))


def test_random_twins_are_grouped_by_arm_and_density():
    rows = [("random_erk", 0.1, 0.7), ("random_erk", 0.1, 0.8), ("random_erk", 0.01, 0.3), ("tuned_random", 0.1, 0.9)]
    rows += [("champion", 0.1, 0.99), ("tuning", 0.1, 0.99), ("dense", 1.0, 0.99), (None, 0.1, 0.99)]
    runs = pd.DataFrame(rows, columns=["arm", "density", "val_accuracy"]).assign(outcome="trained", seed=range(8))
    runs.loc[3, "outcome"] = "failed"
    twins = numbers.summarize_twins(runs, "val_accuracy")
    assert list(zip(twins["arm"], twins["density"], twins["seeds"], strict=True)) == [
        ("random_erk", 0.01, 1),
        ("random_erk", 0.1, 2),
    ]
    assert twins["mean"].tolist() == pytest.approx([0.3, 0.75])
    assert twins["low"][1] < 0.7
    of_another_champion = runs.assign(val_accuracy=0.9)
    sentinels = runs.assign(again="2026-11-01", val_accuracy=0.1)
    twins = numbers.summarize_twins(pd.concat([runs, of_another_champion, sentinels]), "val_accuracy")
    assert twins["seeds"].tolist() == [1, 2], "seeds, and not runs"
    assert twins["mean"].tolist() == pytest.approx([0.6, 0.825])
    assert not len(numbers.summarize_twins(pd.DataFrame(), "val_accuracy"))
    assert not len(numbers.summarize_twins(runs, "val_f1"))


def test_hypervolume_grows_in_the_order_of_ends(make_study):
    results = make_study([("a", 0.05, 0.6, "trained"), ("a", 0.05, 0.5, "trained"), ("a", 0.005, 0.35, "trained")])
    growth = numbers.trace_hypervolume(numbers.prepare_trials(results))
    assert growth["trials"].tolist() == [1, 3]
    # 0.5 = one decade below 0.5 times 0.5 above chance; 0.25 = another decade times 0.25
    assert growth["hypervolume"].round(9).tolist() == [0.5, 0.75]
    assert growth["device_hours"].round(9).tolist() == [0.01, 0.03]


def test_unknown_references_are_the_worst_values(results):
    assert numbers.find_references(replace(results, references={"density": 0.5})) == (
        {"val_accuracy": 0.1, "density": 0.5},
        ["val_accuracy"],
    )


def test_only_some_curves_are_drawn(trials):
    drawn = numbers.select_curves(trials, limit=4)
    assert drawn["on_front"].sum() == 3
    assert len(drawn) == 4
    assert "collapsed" not in set(drawn["outcome"])


def test_long_curves_keep_their_ends():
    curves = pd.DataFrame({"run_id": "a", "step": range(1000), "value": 0.5})
    steps = numbers.thin_curves(curves, limit=10)["step"].tolist()
    assert (steps[0], steps[-1], len(steps)) == (0, 999, 11)


GRID_POINTS = [(method, density) for method in ("force", "random") for density in (0.1, 0.01) for _ in range(3)]


@pytest.fixture
def grid(make_study):
    rows = [(m, d, 0.5 + d + 0.01 * (n % 3) + 0.1 * (m == "force"), "trained") for n, (m, d) in enumerate(GRID_POINTS)]
    iterations = pd.array(
        [[2, 8, 8][n % 3] if m == "force" else pd.NA for n, (m, _) in enumerate(GRID_POINTS)], "Int64"
    )
    return numbers.prepare_trials(make_study(rows, iterations=iterations, schedule="linear"))


def test_methods_side_by_side_over_seeds(grid):
    methods, repeated = paper.compare_methods(grid)
    assert repeated
    assert methods["label"].tolist() == ["force", "force", "random", "random"]
    assert methods["mean"].round(6).tolist() == [0.71, 0.62, 0.61, 0.52]
    assert methods["trials"].tolist() == [3, 3, 3, 3]
    assert (methods["low"] < methods["mean"]).all()


def test_methods_have_fronts_of_their_own_where_no_density_repeats(searched):
    methods, repeated = paper.compare_methods(numbers.prepare_trials(searched))
    assert not repeated
    assert (methods.groupby("label")["mean"].diff().dropna() < 0).all()


def test_iterations_at_each_density(grid):
    iterations = paper.select_iterations(grid.trials)
    assert paper.has_repeated_densities(iterations)
    averages = paper.average_by_iterations(iterations)
    assert averages[["sparsity", "iterations", "trials"]].to_numpy().tolist() == [
        [0.9, 2, 1],
        [0.9, 8, 2],
        [0.99, 2, 1],
        [0.99, 8, 2],
    ]


def test_iterations_relative_to_the_usual_accuracy_at_a_density(searched):
    trials = numbers.prepare_trials(searched).trials
    iterations = paper.select_iterations(trials)
    assert not paper.has_repeated_densities(iterations)
    relative = paper.compare_at_equal_density(iterations, trials)
    assert relative["points"][relative["name"] != "trial-0007"].abs().max() < 10
    assert relative["points"].min() < -50  # of the collapsed trial, which guesses
    assert set(paper.average_in_bins(relative)["schedule"]) == {"exponential", "linear"}


def test_layers_of_each_network_apart(make_evidence):
    study_evidence = make_evidence()
    (network,) = paper.split_by_network(study_evidence.results.trials, study_evidence.layers)
    assert network[0] == "mlp"
    assert network[1]["layer"].unique().tolist() == ["first", "last"]
    assert list(paper.find_empty_layers(network[1])) == ["last"]


def test_the_trail_of_a_mask_in_densities(make_study):
    rows = [("rigl", 0.2, 0.9, "trained"), ("gradual_magnitude", 0.1, 0.8, "trained")]
    trials = numbers.prepare_trials(make_study(rows)).trials
    rigl, gradual = (f"{index:032x}" for index in range(2))
    trails = {
        gradual: [
            {"step": 5, "kept": [30, 20], "returned": 0, "removed": 50},
            {"step": 10, "kept": [6, 4], "returned": 0, "removed": 40},
        ],
        rigl: [{"step": 7, "kept": [12, 8], "returned": 3, "removed": 3}],
    }
    figure = figures.draw_trails(trials, trails, Style(trials["label"]))
    columns = ["name", "step", "density", "returned", "removed"]
    assert figure.frame[columns].values.tolist() == [
        ["trial-0001", 5, 0.5, 0, 50],
        ["trial-0001", 10, 0.1, 0, 40],
        ["trial-0000", 7, 0.2, 3, 3],
    ]
    assert "3 weights returned" in figure.alt_text
    assert [trace["name"] for trace in figure.traces] == ["gradual_magnitude", "rigl"]
    assert figures.draw_trails(trials, {}, Style(trials["label"])) is None
    layers = {gradual: [{"layer": "first", "weights": 60}, {"layer": "last", "weights": 40}]}
    heat = figures.draw_changing_layers(trials, layers, trails)
    assert heat.frame[["step", "layer", "density"]].values.tolist() == [
        ["5", "first", 0.5],
        ["5", "last", 0.5],
        ["10", "first", 0.1],
        ["10", "last", 0.1],
    ]
    sequential = [{**layer, "layer": f"{i}.weight", "shape": [5, 4]} for i, layer in enumerate(layers[gradual])]
    heat = figures.draw_changing_layers(trials, {gradual: sequential}, trails)
    assert heat.frame["layer"].tolist()[:2] == ["0: linear, 4 to 5", "1: linear, 4 to 5"], "as in the figure of layers"
    long_trail = {gradual: [{"step": step, "kept": [100 - step, 0]} for step in range(100)]}
    heat = figures.draw_changing_layers(trials, layers, long_trail)
    assert heat.frame["step"].unique().tolist()[-2:] == ["96", "99"], "the last change is always shown"
    assert heat.caption.endswith("One change in 3 is shown, the last one included.")
    assert figures.draw_changing_layers(trials, {}, trails) is None


def test_the_band_is_that_of_the_dial_and_missing_where_there_is_nothing_to_go_by(searched, make_study):
    band = numbers.predict_band(searched)
    assert list(band) == ["density", "accuracy", "low", "high"]
    assert (band["low"] <= band["accuracy"]).all()
    assert numbers.predict_band(make_study([("snip", 0.1, 0.9, "trained")])).empty
    assert numbers.predict_band(replace(searched, objectives={"val_accuracy": "max", "macs": "min"})).empty

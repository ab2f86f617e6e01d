"""The density as a dial: predictions from made-up trials whose accuracy, and whose spread over seeds, are known."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from forcetune.analysis import dial as dial_module
from forcetune.analysis.dial import DIAL_OBJECTIVES, Dial
from forcetune.errors import InputError

FIELDS = ["method", "iterations", "density", "seed"]
TRIAL_NOISE = 0.1  # in logits
SEED_DEVIATIONS = {0: 0.2, 1: -0.5, 2: 0.4, 3: 0.1, 4: -0.3, 5: 0.35}  # of a seed's accuracies, in logits


def expect_logit(method, density, iterations):
    cliff = {"random": -1.0, "force": -1.6}[method] - (0.2 * np.log10(iterations) if method == "force" else 0)
    return 4 * (np.log10(density) - cliff)


def make_trials(count=60, seed=0, deviations=SEED_DEVIATIONS, noise=TRIAL_NOISE):
    """Make a search whose trials share the seed 0, and runs of every sixth trial with the other seeds."""
    generator = np.random.default_rng(seed)
    rows, reruns = [], []
    for i in range(count):
        method, density = ("random", "force")[i % 2], float(10 ** generator.uniform(-2.5, -0.3))
        iterations = int(generator.integers(1, 50)) if method == "force" else pd.NA
        for number, deviation in deviations.items():
            logit = expect_logit(method, density, iterations) + deviation + noise * generator.standard_normal()
            row = {"method": method, "density": density, "iterations": iterations, "seed": number, "trial": f"key-{i}"}
            row["val_accuracy"] = 0.1 + 0.85 * expit(logit)
            if number == 0:
                rows.append(row)
            elif i % 6 == 0:
                reruns.append({**row, "trial": f"key-{i}-{number}", "of": f"key-{i}"})
    return [
        pd.DataFrame(table).assign(outcome="trained").astype({"iterations": "Int64"} if table else {})
        for table in (rows, reruns)
    ]


@pytest.fixture(scope="module")
def trials():
    return make_trials()[0]


@pytest.fixture(scope="module")
def reruns():
    return make_trials()[1]


@pytest.fixture(scope="module")
def dial(trials, reruns):
    return Dial(trials, reruns, FIELDS, DIAL_OBJECTIVES)


@pytest.mark.parametrize("sparsity", [0.9, 0.97, 0.99])
def test_the_prediction_is_near_the_best_that_there_is(dial, sparsity):
    prediction = dial.predict(sparsity)
    assert prediction.configuration["method"] == "force"
    iterations = prediction.configuration["iterations"]
    assert isinstance(iterations, int)
    assert 1 <= iterations <= 50
    truth = 0.1 + 0.85 * expit(expect_logit("force", 1 - sparsity, iterations))
    assert prediction.low < prediction.mean_low < truth < prediction.mean_high < prediction.high
    assert prediction.accuracy == pytest.approx(truth, abs=0.06)
    assert truth > 0.1 + 0.85 * expit(expect_logit("force", 1 - sparsity, 50)) - 0.1, "the configuration is a good one"
    assert (prediction.trials, prediction.fresh_runs, prediction.sparsity) == (60, 50, sparsity)


def test_intervals_hold_runs_with_fresh_seeds():
    """All trials of a search share a seed: without fresh seeds the model cannot know how far seeds lie apart."""
    generator, held = np.random.default_rng(1), []
    for number in range(6):
        deviations = dict(enumerate(0.5 * generator.standard_normal(6)))
        dial = Dial(*make_trials(40, number, deviations), FIELDS, DIAL_OBJECTIVES)
        for sparsity in (0.85, 0.94, 0.98):
            configuration = {"method": "force", "iterations": 10}
            interval = dial.predict_configuration(sparsity, configuration)
            logits = expect_logit("force", 1 - sparsity, 10) + np.hypot(0.5, TRIAL_NOISE) * generator.standard_normal(
                50
            )
            accuracies = 0.1 + 0.85 * expit(logits)
            held += [interval.low <= accuracy <= interval.high for accuracy in accuracies]
    assert 0.8 < np.mean(held) < 0.97


def test_the_farther_seeds_lie_apart_the_wider_is_the_interval():
    widths = {}
    for scale in (0.2, 1.0):
        deviations = {number: scale * deviation for number, deviation in SEED_DEVIATIONS.items()}
        interval = Dial(*make_trials(deviations=deviations), FIELDS, DIAL_OBJECTIVES).predict(0.97)
        widths[scale] = interval.high - interval.low
    assert widths[0.2] < 0.6 * widths[1.0]


def test_the_mean_of_several_runs_is_surer_than_one_run(dial):
    configuration = {"method": "force", "iterations": 20}
    intervals = [dial.predict_configuration(0.97, configuration, runs) for runs in (1, 4)]
    widths = [interval.high - interval.low for interval in intervals]
    assert widths[0] > widths[1] > intervals[0].mean_high - intervals[0].mean_low


def test_conditions_keep_to_the_values_of_the_selected_trials(dial, trials):
    prediction = dial.predict(0.9, trials.index[trials["method"] == "random"])
    assert prediction.configuration == {"method": "random"}
    some = dial.predict(0.9, trials.index[trials["iterations"].fillna(0).between(15, 35)])
    assert some.configuration["method"] == "force"
    assert 15 <= some.configuration["iterations"] <= 35
    with pytest.raises(InputError, match=r"--at 90%: 3 trials with an accuracy meet these conditions; required: at l"):
        dial.predict(0.9, trials.index[:3])


def test_the_band_covers_the_densities_of_the_trials(dial, trials):
    band = dial.predict_band()
    assert band["density"].min() == pytest.approx(trials["density"].min())
    assert band["density"].max() == pytest.approx(trials["density"].max())
    assert (band["low"] < band["accuracy"]).all()
    assert (band["accuracy"] < band["high"]).all()
    assert band["accuracy"].iloc[-1] > band["accuracy"].iloc[0] + 0.5


def test_further_trials_bring_less_the_more_there_were():
    gains = {}
    for count in (10, 120):
        prediction = Dial(*make_trials(count), FIELDS, DIAL_OBJECTIVES).predict(0.97)
        assert 0 <= prediction.further_gain <= prediction.further_gain_high < 1
        gains[count] = prediction.further_gain
    assert gains[120] < 0.5 * gains[10]


def test_without_fresh_seeds_the_answer_has_none(trials, reruns):
    prediction = Dial(trials, pd.DataFrame(), FIELDS, DIAL_OBJECTIVES).predict(0.95)
    assert prediction.fresh_runs == 0
    assert prediction.low < prediction.accuracy < prediction.high
    of_others = reruns.assign(of="another study's trial")
    assert Dial(trials, of_others, FIELDS, DIAL_OBJECTIVES).predict(0.95) == prediction


def test_trials_that_were_stopped_or_collapsed_count(trials, reruns):
    mixed = trials.copy()
    mixed.loc[mixed.index[:10], "outcome"] = "stopped"
    mixed.loc[mixed["val_accuracy"] < 0.2, "outcome"] = "collapsed"
    failed = trials.head(3).assign(outcome="failed", val_accuracy=np.nan)
    prediction = Dial(pd.concat([mixed, failed]), reruns, FIELDS, DIAL_OBJECTIVES).predict(0.95)
    assert prediction.trials == 60
    assert 0 < prediction.low < prediction.accuracy < prediction.high < 1


def test_of_many_trials_the_last_and_those_with_fresh_seeds_are_seen(monkeypatch):
    monkeypatch.setattr(dial_module, "DIAL_WINDOW_TRIALS", 50)
    trials, reruns = make_trials(90)
    few = reruns[reruns["of"].isin(["key-0", "key-6"])]
    dial = Dial(trials, few, FIELDS, DIAL_OBJECTIVES)
    assert len(dial._seen) == 50 + 2
    assert dial.predict(0.9).trials == 90
    repeated = pd.concat([few] * 40)
    assert Dial(trials, repeated, FIELDS, DIAL_OBJECTIVES).predict(0.9).fresh_runs == 50


def test_fields_of_all_kinds_are_choices_or_ranges(trials):
    generator = np.random.default_rng(0)
    varied = trials.assign(
        lr=generator.uniform(0.01, 1.0, len(trials)),
        batch_size=[32, 64] * 30,
        nesterov=[True, False, False] * 20,
        shape=[[1, 2], [3, 4], [1, 2]] * 20,
        width=8,
    )
    fields = [*FIELDS, "lr", "batch_size", "nesterov", "shape", "width"]
    configuration = Dial(varied, pd.DataFrame(), fields, DIAL_OBJECTIVES).predict(0.9).configuration
    assert {*configuration} >= {"method", "lr", "batch_size", "nesterov", "shape"}
    assert not {"density", "seed", "width"} & {*configuration}
    assert configuration["batch_size"] in (32, 64)
    assert configuration["nesterov"] in (True, False)
    assert configuration["shape"] in ([1, 2], [3, 4])
    assert configuration["lr"] == float(f"{configuration['lr']:.3g}")


def constant(column, value):
    return lambda trials: trials.assign(**{column: value})


@pytest.mark.parametrize(
    ("change", "objectives", "sparsity", "message"),
    [
        (None, {}, 0.9999, r"--at 99\.99%: no trial was so sparse; allowed: .*% to 99\..*%, which the trials cover"),
        (None, {}, 0.1, r"--at 10%: no trial was so dense; allowed"),
        (lambda trials: trials.head(1), {}, 0.9, r"at least 8 trials that have ended with an accuracy; .* has 1"),
        (lambda trials: trials.iloc[:0], {}, 0.9, r"at least 8 trials .* has 0"),
        (lambda trials: pd.DataFrame(), {}, 0.9, r"at least 8 trials .* has 0"),
        (constant("outcome", "collapsed"), {}, 0.9, r"trained to their end; this study has none \(60 collapsed\)"),
        (constant("density", 0.1), {}, 0.9, r"several densities; all 60 trials of this study have the sparsity 90%"),
        (constant("val_accuracy", 0.5), {}, 0.9, r"accuracies that differ; .* have the val_accuracy 0\.5"),
        (constant("val_accuracy", np.nan), {}, 0.9, r"at least 8 trials .* has 0"),
        (
            None,
            {"val_accuracy": "max", "macs": "min"},
            0.9,
            r"needs a study with the objectives .* has val_accuracy, macs",
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused(trials, change, objectives, sparsity, message):
    table = change(trials) if change else trials
    with pytest.raises(InputError, match=message):
        Dial(table, pd.DataFrame(), FIELDS, objectives or DIAL_OBJECTIVES).predict(sparsity)

"""The numbers of a comparison, worked out by hand."""

import math

import pytest
from comparisons import TRIAL_RESULTS, compare, make_study, make_table


@pytest.fixture
def study():
    return make_study()


def test_the_numbers_agree_with_those_worked_out_by_hand(study):
    compared = compare(study, make_table(study, TRIAL_RESULTS)).set_index(["method", "density"])
    assert len(compared) == 8
    first = compared.loc["snip", 0.1]
    assert (first["seeds"], first["collapsed"], first["failed"]) == (2, 0, 0)
    # The mean is 0.85, the standard deviation 0.1 / sqrt(2). Student's t with 1 degree of freedom is 12.706 at 97.5 %.
    assert first["mean"] == pytest.approx(0.85)
    assert first["std"] == pytest.approx(0.1 / math.sqrt(2))
    assert first["half_width"] == pytest.approx(12.7062 * 0.1 / 2, rel=1e-4)
    assert first["sparsity"] == pytest.approx(0.9)
    assert compared.loc["snip", 0.001]["mean"] == pytest.approx((0.1 + 0.3) / 2), "a collapsed trial counts at chance"
    assert compared.loc["snip", 0.001]["collapsed"] == 1
    row = compared.loc["random", 0.001]
    assert (row["mean"], row["std"], row["collapsed"], row["failed"]) == (pytest.approx(0.1), 0, 1, 1)


def test_a_study_whose_trials_all_failed_has_a_table(study):
    failed = make_table(study, {key: ["failed", "failed"] for key in TRIAL_RESULTS}).drop(columns="val_accuracy")
    compared = compare(study, failed)
    assert set(compared["mean"]) == {0.1}
    assert set(compared["failed"]) == {2}


def test_running_trials_are_not_counted(study):
    unfinished = make_table(study, TRIAL_RESULTS)
    unfinished.loc[0, "outcome"] = None
    assert compare(study, unfinished)["seeds"].sum() == 15

"""The width of the small dense network of equal latency, and its recipe."""

import pytest
from exporting import CONVOLUTIONAL_TRIAL

from forcetune.deploy.rival import choose_width, make_rival_trial
from forcetune.errors import InputError
from forcetune.study import Trial


@pytest.mark.parametrize(
    ("milliseconds_per_width", "width"), [(0.25, 4), (0.26, 4), (0.27, 3), (0.13, 8), (0.05, 8), (0.15, 4), (2.0, 1)]
)
def test_the_widest_network_that_is_as_quick_is_chosen(milliseconds_per_width, width):
    measured = []

    def measure_ratio(candidate):
        measured.append(candidate)
        return milliseconds_per_width * candidate

    assert choose_width(CONVOLUTIONAL_TRIAL, measure_ratio) == (width, milliseconds_per_width * width)
    assert len(measured) == len({*measured}), "each width is measured once"
    assert {*measured} <= {1, 2, 3, 4, 8}


@pytest.mark.parametrize(("full_width", "widths"), [(1, {1}), (3, {1, 2, 3}), (10, {1, 2, 3, 4, 8, 10})])
def test_the_width_of_the_trial_is_the_largest(full_width, widths):
    trial = CONVOLUTIONAL_TRIAL.model_copy(update={"width": full_width})
    assert {choose_width(trial, lambda width, most=most: width / most)[0] for most in (1, 2, 3, 4, 8, 10)} == widths


def test_a_model_without_a_width_has_no_rival():
    trial = CONVOLUTIONAL_TRIAL.model_copy(update={"model": "torchvision:resnet18", "width": None})
    with pytest.raises(InputError, match="the width of model 'torchvision:resnet18' cannot be changed"):
        choose_width(trial, lambda width: 1.0)


def test_controls_and_fields_of_the_method_are_left_out():
    trial = Trial(
        dataset="digits",
        model="mlp",
        method="force",
        density=0.1,
        iterations=7,
        shuffle=True,
        lr=0.3,
        optimizer="adamw",
    )
    fields = make_rival_trial(trial, 12).fields()
    assert fields["width"] == 12
    assert (fields["method"], fields["density"], fields["shuffle"]) == ("random", 1.0, False)
    assert (fields["lr"], fields["optimizer"]) == (0.3, "adamw")
    assert "iterations" not in fields

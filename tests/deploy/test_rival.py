"""The width of the small dense network of equal latency, and its recipe."""

import pytest
from exporting import CONVOLUTIONAL_TRIAL

from forcetune.deploy.rival import choose_width, make_rival_trial
from forcetune.errors import InputError
from forcetune.study import Trial


@pytest.mark.parametrize(
    ("milliseconds_per_width", "width"), [(0.25, 4), (0.3, 3), (0.22, 5), (2.0, 1), (0.05, 8)], ids=str
)
def test_the_width_of_nearest_latency_is_chosen(milliseconds_per_width, width):
    measured = []

    def measure_ratio(candidate):
        measured.append(candidate)
        return milliseconds_per_width * candidate

    assert choose_width(CONVOLUTIONAL_TRIAL, measure_ratio) == (width, milliseconds_per_width * width)
    assert len(measured) == len({*measured}), "each width is measured once"


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

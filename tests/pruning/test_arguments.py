"""The arguments of find_masks: those that are refused, losses by name, and the options of a method."""

import pytest
import torch
from small_networks import add_method, batch, count_kept, equal, make, mlp
from torch import nn
from torch.nn import functional

from forcetune.errors import InputError
from forcetune.pruning import SCHEDULES, find_masks, mask_steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"density": 0}, "density 0 is not a fraction"),
        ({"density": 1.5}, "density 1.5 is not a fraction"),
        ({"density": float("nan")}, "density nan"),
        ({"density": 0.001}, "density 0.001 keeps none of the 282 prunable weights; allowed: at least 0.0035"),
        ({"method": "frce"}, "unknown method 'frce' .did you mean 'force'"),
        ({"method": "force", "schedule": "exponentail"}, "unknown schedule .*did you mean 'exponential'"),
        ({"loss": "mse"}, "unknown loss 'mse'; allowed: cross_entropy, nll_logits"),
        ({"method": "force", "iterations": 0}, "iterations 0 .* at least 1"),
        ({"batches_per_step": 0}, "batches_per_step 0: each must be at least 1"),
        ({"model": nn.Sequential(nn.BatchNorm2d(1), nn.ReLU())}, "Sequential has no prunable layer"),
        ({"loss": lambda logits, targets: logits.sum() * torch.nan}, "snip step 1 of 1: .*'1.weight' are not finite"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        find_masks(**{"model": make(mlp), "batches": [batch()], "method": "snip", "density": 0.1, **changes})


def test_a_schedule_that_rises_is_refused_where_no_weight_returns(monkeypatch):
    shares = {1: 0.2, 2: 0.5}
    monkeypatch.setitem(SCHEDULES, "waves", lambda density, t, iterations: shares.get(t, density))
    arguments = {"iterations": 3, "schedule": "waves"}
    with pytest.raises(InputError, match="'waves' keeps 56 weights and 141 .* 'iter_snip' brings no weight back"):
        find_masks(make(mlp), [batch()], "iter_snip", 0.1, **arguments)
    steps = mask_steps(make(mlp), [batch()], "force", 0.1, **arguments)
    assert [count_kept(masks) for masks in steps] == [56, 141, 28]


def test_the_least_density_that_is_allowed():
    assert count_kept(find_masks(make(mlp), [], "magnitude", 1 / 282)) == 1


def test_a_loss_by_name_is_that_function():
    def force(loss):
        return find_masks(make(mlp), [batch()], "force", 0.1, loss=loss)

    assert equal(force("nll_logits"), force(functional.nll_loss))
    assert equal(force("cross_entropy"), force(functional.cross_entropy))
    assert not equal(force("nll_logits"), force("cross_entropy"))


def test_options_reach_the_score(monkeypatch):
    strengths = []

    def score(net, strength):
        strengths.append(strength)
        return net.weights

    add_method(monkeypatch, score, options={"strength": 2})
    find_masks(make(mlp), [batch()], "mine", 0.1)
    find_masks(make(mlp), [batch()], "mine", 0.1, options={"strength": 5})
    assert strengths == [2, 5]
    with pytest.raises(InputError, match="method 'mine' has no option 'temperature'; allowed: strength"):
        find_masks(make(mlp), [batch()], "mine", 0.1, options={"temperature": 1})
    with pytest.raises(InputError, match="method 'snip' has no option 'temperature'"):
        find_masks(make(mlp), [batch()], "snip", 0.1, options={"temperature": 1})

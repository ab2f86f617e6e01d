"""The model whose masks are sought: it is left as it was, whatever the method, a failure or the caller's own state."""

import pytest
import torch
from small_networks import INITIAL_METHODS, add_method, batch, convnet, equal, make, mlp

from forcetune.pruning import find_masks, mask_steps


def used_model():
    """Return a model in a mixture of modes, with one frozen weight and the gradient of one weight."""
    model = make(convnet).train()
    model[1].eval()
    model[7].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    return model


@pytest.mark.parametrize("method", INITIAL_METHODS)
def test_the_model_is_left_as_it_was(method, snapshot):
    model = used_model()
    before = snapshot(model)
    find_masks(model, [batch()], method, 0.1, iterations=3)
    assert snapshot(model) == before


def test_the_model_is_left_as_it_was_by_a_failure(snapshot):
    def fails(logits, targets):
        raise ArithmeticError

    model = used_model()
    before = snapshot(model)
    with pytest.raises(ArithmeticError):
        find_masks(model, [batch()], "snip", 0.1, loss=fails)
    assert snapshot(model) == before


def test_the_model_is_left_as_it_was_by_steps_broken_off(snapshot):
    model = used_model()
    before = snapshot(model)
    steps = mask_steps(model, [batch()], "force", 0.1)
    next(steps)
    steps.close()
    assert snapshot(model) == before


@pytest.mark.parametrize(("mode", "training"), [("train", True), ("eval", False)])
def test_a_method_scores_in_its_mode(mode, training, monkeypatch):
    modes = []

    def score(net):
        modes.extend(module.training for module in net.model.modules())
        return net.weights

    add_method(monkeypatch, score, mode=mode)
    find_masks(used_model(), [batch()], "mine", 0.1)
    assert set(modes) == {training}


@pytest.mark.parametrize("method", INITIAL_METHODS)
def test_a_callers_no_grad_changes_nothing(method):
    with_grad = find_masks(make(mlp), [batch()], method, 0.1)
    with torch.no_grad():
        assert equal(find_masks(make(mlp), [batch()], method, 0.1), with_grad)
        assert not torch.is_grad_enabled()

"""A model that is given back as it was, also after an error."""

import pytest
import torch

from forcetune.models import build
from forcetune.models.preserving import preserve_model, run_preserved


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_model_is_given_back_as_it_was(error):
    model = build("resnet8", (1, 8, 8), 10, 8)
    next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)).eval()
    modes = [module.training for module in model.modules()]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    try:
        with preserve_model(model, weights=True):
            model.train()(torch.randn(4, 1, 8, 8)).sum().backward()
            torch.optim.SGD(model.parameters(), 0.1).step()
            assert not all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
            if error:
                raise error
    except ValueError:
        assert error
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_weights_that_are_not_copied_keep_their_changes():
    model = build("mlp", (1, 8, 8), 10, 8)
    weight = next(model.parameters())
    with preserve_model(model), torch.no_grad():
        model.eval()
        weight.zero_()
    assert model.training
    assert not weight.any()


@pytest.mark.parametrize("training", [True, False])
def test_a_pass_leaves_the_model_as_it_was(training):
    model = build("resnet8", (1, 8, 8), 10, 8).train(not training)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outputs = run_preserved(model, torch.randn(4, 1, 8, 8), training)
    assert outputs.shape == (4, 10)
    assert not outputs.requires_grad
    assert model.training is not training
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())

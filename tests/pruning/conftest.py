"""Fixtures that the pruning tests share."""

import pytest
import torch
from torch import nn


@pytest.fixture
def snapshot():
    """Return a function that copies, as bytes, all that scoring a model could change.

    These are its parameters, buffers, gradients and modes, which parameters are trainable, and torch's random state.
    """

    def take(model):
        tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        grads = {f"{name}.grad": p.grad for name, p in model.named_parameters()}
        return {
            **{n: None if t is None else t.detach().numpy().tobytes() for n, t in {**tensors, **grads}.items()},
            "trainable": [p.requires_grad for p in model.parameters()],
            "modes": [module.training for module in model.modules()],
            "random": torch.get_rng_state().numpy().tobytes(),
        }

    return take


@pytest.fixture
def build_layers():
    """Return a function that builds the network of a record, in float64, from its list of layers."""

    def build(layers):
        makers = {
            "lin": nn.Linear,
            "bn1": nn.BatchNorm1d,
            "bn2": nn.BatchNorm2d,
            "relu": nn.ReLU,
            "pool": lambda: nn.MaxPool2d(2),
            "conv": lambda inputs, outputs, size: nn.Conv2d(inputs, outputs, size, padding=size // 2),
            "aap": nn.AdaptiveAvgPool2d,
            "flat": nn.Flatten,
        }
        return nn.Sequential(*(makers[kind](*arguments) for kind, *arguments in layers)).double()

    return build

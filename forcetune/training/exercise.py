"""A short training that checks whether a training rule of the user's own does its duties."""

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forcetune import data, models
from forcetune.pruning import Change, RulePlan, RuleState, TrainingRule, dense_masks, find_masks, score_network
from forcetune.training.changes import ChangingMasks
from forcetune.training.ruled import RuledTraining

EPOCHS = 4
BATCH_SIZE = 32


def exercise_rule(
    make_rule: Callable[[RulePlan], TrainingRule],
    density: float = 0.2,
    options: Mapping[str, float] | None = None,
    starts_dense: bool = True,
) -> list[dict[str, Any]]:
    """Train a small network with a rule, and check that the rule keeps to its duties.

    The training has 4 epochs of 9 steps on made-up images. A rule passes where it returns masks of the right shapes and
    type, returns no pruned weight unless it says so, leaves exactly int(N * density) weights after its last change (at
    most as many where it prunes whole channels), writes to nothing that it is shown, decides the same when it is asked
    twice, and ends a training that was interrupted as one that was not.

    Args:
        make_rule: The rule: a subclass of TrainingRule, or another function of a plan.
        density: The density of the plan.
        options: The options of the plan; None takes the `options` of the class.
        starts_dense: Whether the training begins with all weights, or else with a random mask of this density.

    Returns:
        The trail of the changes: `step`, the weights `kept` in each layer, `returned` and `removed`.

    Raises:
        InputError: The rule cannot be followed in so short a training.
        ValueError: The rule does not keep to a duty; the message says which.
    """
    trainings = [_make_training(make_rule, density, options, starts_dense) for _ in range(3)]
    unbroken, interrupted, resumed = trainings
    expected = list(unbroken)
    list(itertools.islice(interrupted, EPOCHS // 2))
    resumed.load_state_dict(copy.deepcopy(interrupted.state_dict()))
    if list(resumed) != expected[EPOCHS // 2 :]:
        raise ValueError(
            "a training that was interrupted ended otherwise: the rule must depend on the step, the state and its plan "
            "alone, and keep nothing between two calls"
        )
    return unbroken.changes.trail


def _make_training(
    make_rule: Callable[[RulePlan], TrainingRule],
    density: float,
    options: Mapping[str, float] | None,
    starts_dense: bool,
) -> RuledTraining:
    dataset = data.load("synthetic")
    training_split, validation_split = dataset.split(0)
    batches = dataset.batches(training_split, BATCH_SIZE, 0)
    model = models.build("mlp", dataset.input_shape, dataset.classes, 12, 0)
    masks = dense_masks(model) if starts_dense else find_masks(model, [], "random", density)
    rule_options = getattr(make_rule, "options", {}) if options is None else options
    rule = make_rule(RulePlan(density, EPOCHS * len(batches), iterations=4, options=rule_options))
    scored_batches = list(itertools.islice(dataset.batches(training_split, BATCH_SIZE, 1), 2))

    def score(network: nn.Module, masks: dict[str, Tensor], step: int, saliency: Any) -> dict[str, Tensor]:
        return score_network(network, masks, scored_batches, saliency, functional.cross_entropy, step)

    torch.manual_seed(0)
    return RuledTraining(
        model,
        masks,
        batches,
        dataset.batches(validation_split, BATCH_SIZE),
        epochs=EPOCHS,
        lr=0.05,
        input_shape=dataset.input_shape,
        changes=ChangingMasks(_watch(rule), score),
    )


def _watch(rule: TrainingRule) -> TrainingRule:
    """Let a rule decide twice after each step, and compare its decisions, and what it was shown before and after."""
    decide = rule.after_step

    def decide_twice(step: int, state: RuleState) -> Change | None:
        shown: list[Mapping[str, Tensor]] = [state.weights, state.masks, state.gradients]
        copies = [{name: tensor.clone() for name, tensor in tensors.items()} for tensors in shown]
        change = decide(step, state)
        if not all(
            tensors.keys() == copied.keys() and all(torch.equal(tensors[name], copied[name]) for name in copied)
            for tensors, copied in zip(shown, copies, strict=True)
        ):
            raise ValueError(
                f"the rule has written to the weights, masks or gradients that it was shown at step {step}"
            )
        second = decide(step, state)
        if (change is None) != (second is None) or (
            change and second and any(not torch.equal(mask, second.masks[name]) for name, mask in change.masks.items())
        ):
            raise ValueError(f"the rule decides otherwise when it is asked a second time at step {step}")
        return change

    rule.after_step = decide_twice  # type: ignore[method-assign]
    return rule

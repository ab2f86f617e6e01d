"""Lottery tickets: the levels of a training, what is rewound, and the numbers of every level."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from forcetune import data, models, pruning, training
from forcetune.errors import InputError
from forcetune.pruning import METHODS, SCHEDULES, RulePlan
from forcetune.training.levels import Levels

LEVEL_EPOCHS, LEVELS = 3, 3
TICKET_DENSITY = 0.3


class TicketRun:
    """A training for a lottery ticket, which notes its learning rates and batches."""

    def __init__(self, rewind_step=0, rewind="weights", optimizer="sgd"):
        dataset = data.load("synthetic")
        training_split, validation_split = dataset.split(0)
        self.batches = Noting(dataset.batches(training_split, 64, 2))
        self.model = models.build("convnet", dataset.input_shape, dataset.classes, 8, seed=1)
        options = {"rewind_step": rewind_step, "rewind": rewind}
        plan = RulePlan(TICKET_DENSITY, LEVEL_EPOCHS * len(self.batches), LEVELS, SCHEDULES["exponential"], options)
        self.changes = training.ChangingMasks(METHODS["lottery"].rule(plan))
        torch.manual_seed(0)
        self.training = training.RuledTraining(
            self.model,
            pruning.dense_masks(self.model),
            self.batches,
            dataset.batches(validation_split, 64),
            epochs=LEVEL_EPOCHS,
            lr=0.05,
            optimizer=optimizer,
            input_shape=dataset.input_shape,
            changes=self.changes,
        )
        self.rates = []
        take_step = self.training._take_step
        self.training._take_step = lambda step, inputs, targets, lr: (
            self.rates.append(lr) or take_step(step, inputs, targets, lr)
        )


class Noting:
    """Batches that note the first number of each."""

    def __init__(self, batches):
        self._batches = batches
        self.seen = []

    def __len__(self):
        return len(self._batches)

    def __iter__(self):
        for inputs, targets in self._batches:
            self.seen.append(float(inputs.flatten(1).sum()))
            yield inputs, targets

    def state(self):
        return self._batches.state()

    def restore(self, state):
        self._batches.restore(state)


@pytest.mark.parametrize("rewind_step", [0, 5, 7])
def test_every_level_has_the_data_and_the_learning_rates_from_the_rewinding_point_on(rewind_step):
    """An epoch has five batches, so that step 7 lies within the second one."""
    run = TicketRun(rewind_step)
    epochs = list(run.training)
    assert len(run.batches) == 5
    later_epochs = LEVEL_EPOCHS - rewind_step // 5
    assert [metrics["epoch"] for metrics in epochs] == list(range(1, LEVEL_EPOCHS + LEVELS * later_epochs + 1))
    assert run.training.total_epochs == len(epochs)
    steps = LEVEL_EPOCHS * 5
    first_rates = run.rates[:steps]
    assert run.rates == first_rates + LEVELS * first_rates[rewind_step:]
    seen, first_seen = run.batches.seen, run.batches.seen[:steps]
    level_seen = first_seen[rewind_step // 5 * 5 :]  # the batches that are left out are read all the same
    assert seen == first_seen + LEVELS * level_seen
    assert [change["step"] for change in run.changes.trail] == run.changes.rule.event_steps
    total = sum(mask.numel() for mask in run.changes.masks.values())
    assert [sum(change["kept"]) for change in run.changes.trail] == [
        int(total * TICKET_DENSITY ** (level / LEVELS)) for level in (1, 2)
    ] + [int(total * TICKET_DENSITY)]
    assert [metrics["settled"] for metrics in epochs] == [0.0] * (len(epochs) - later_epochs) + [1.0] * later_epochs


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("rewind_step", [0, 7])
def test_a_level_begins_with_the_weights_and_statistics_of_its_step(rewind_step, optimizer):
    plain = TicketRun(optimizer=optimizer)
    expected = {name: tensor.clone() for name, tensor in plain.model.state_dict().items()}
    if rewind_step:
        epochs = iter(plain.training)
        take_step = plain.training._take_step

        def stop(step, *arguments):
            loss = take_step(step, *arguments)
            if step == rewind_step:
                expected.update({name: tensor.clone() for name, tensor in plain.model.state_dict().items()})
            return loss

        plain.training._take_step = stop
        list(itertools.islice(epochs, 2))
    run = TicketRun(rewind_step, optimizer=optimizer)
    begin_level = run.training._begin_level
    starts = []

    def note(rewind):
        begin_level(rewind)
        state = {name: tensor.clone() for name, tensor in run.training._compacted.model.state_dict().items()}
        optimizer_tensors = [
            value.clone()
            for weight_state in run.training._step.optimizer.state.values()
            for value in weight_state.values()
            if isinstance(value, torch.Tensor) and value.dim()
        ]
        starts.append((state, dict(run.changes.masks), optimizer_tensors))

    run.training._begin_level = note
    list(run.training)
    assert len(starts) == LEVELS
    for state, masks, optimizer_tensors in starts:
        for name, tensor in state.items():
            assert torch.equal(tensor, expected[name] * masks.get(name, 1)), name
        assert all(float(tensor.abs().max()) == 0 for tensor in optimizer_tensors), "the optimizer begins anew"


def test_the_learning_rate_alone_can_be_rewound():
    run = TicketRun(10, rewind="learning_rate")
    begin_level, weights = run.training._begin_level, []

    def note(rewind):
        before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        begin_level(rewind)
        weights.append((before, {name: tensor.clone() for name, tensor in run.model.state_dict().items()}))

    run.training._begin_level = note
    assert len(list(run.training)) == LEVEL_EPOCHS + LEVELS * 1
    assert run.rates[15:20] == run.rates[10:15]
    for before, after in weights:
        for name, tensor in after.items():
            mask = run.changes.masks.get(name)
            changed = tensor != before[name]
            assert not changed.any() or mask is not None, name
            assert not (tensor[changed] != 0).any(), "weights are pruned, and stay otherwise"


@pytest.mark.parametrize("rewind_step", [0, 7])
@pytest.mark.parametrize("killed_after", [2, 3, 5, 8])
def test_a_kill_in_any_level_goes_on_there(killed_after, rewind_step):
    unkilled = TicketRun(rewind_step)
    expected = list(unkilled.training)
    killed = TicketRun(rewind_step)
    list(itertools.islice(killed.training, killed_after))
    resumed = TicketRun(rewind_step)
    resumed.training.load_state_dict(copy.deepcopy(killed.training.state_dict()))
    assert list(resumed.training) == expected[killed_after:]
    assert resumed.changes.trail == unkilled.changes.trail
    for name, tensor in unkilled.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


@given(
    epochs=some.integers(1, 6),
    steps_per_epoch=some.integers(1, 5),
    count=some.integers(1, 4),
    share=some.floats(0, 0.99),
)
def test_steps_of_levels_add_up(epochs, steps_per_epoch, count, share):
    steps = epochs * steps_per_epoch
    levels = Levels(epochs, steps_per_epoch, count, int(share * steps))
    counted = 0
    for epoch in range(levels.total_epochs):
        assert levels.count_steps(epoch) == counted
        position, skipped = levels.locate(epoch)
        assert position % steps_per_epoch == skipped
        counted += steps_per_epoch - skipped
        if levels.begins_level(epoch):
            assert position == levels.rewind_step
    assert counted == levels.count_steps(levels.total_epochs) == steps + (count - 1) * (steps - levels.rewind_step)


def test_a_rewinding_point_lies_within_the_level():
    options = {"rewind_step": 15, "rewind": "weights"}
    with pytest.raises(InputError, match=r"rewind_step 15.*15 steps.*allowed: less than 15"):
        METHODS["lottery"].rule(RulePlan(0.1, 15, 2, SCHEDULES["exponential"], options))

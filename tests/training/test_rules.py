"""A training whose masks a rule changes: the loop's duties, the trail, compaction, checkpoints and cost."""

import copy
import itertools
from functools import cached_property, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

from forcetune import data, models, pruning, training
from forcetune.errors import InputError
from forcetune.pruning import METHODS, SCHEDULES, Change, RulePlan, RuleState, TrainingRule
from forcetune.training.cost import TrainingCost
from forcetune.training.masked import MaskedDense

DENSITY = 0.2
TRAINED_EPOCHS = 6
INPUT_SHAPE = (1, 8, 8)
RULE_METHODS = [name for name, row in METHODS.items() if row.rule]
ONE_LEVEL_METHODS = [name for name in RULE_METHODS if not METHODS[name].has_levels]
OPTIONS = {"update_interval": 3}


@pytest.fixture(scope="module")
def dataset():
    return data.load("synthetic")


def make_model(dataset, name="mlp", width=12):
    return models.build(name, dataset.input_shape, dataset.classes, width, seed=1)


def make_plan(row, steps, density=DENSITY, iterations=4, **options):
    row_options = {name: value for name, value in {**OPTIONS, **options}.items() if name in row.rule_options}
    return RulePlan(density, steps, iterations, SCHEDULES["cubic"], {**row.rule_options, **row_options})


class Run:
    """A training with the rule of a method, or with another rule."""

    def __init__(self, dataset, method, rule=None, model=None, epochs=TRAINED_EPOCHS, density=DENSITY, **arguments):
        row = METHODS[method]
        training_split, validation_split = dataset.split(0)
        self.batches = dataset.batches(training_split, 64, 2)
        steps = epochs * len(self.batches)
        self.model = model or make_model(dataset)
        self.start = copy.deepcopy(self.model.state_dict())
        scoring = list(itertools.islice(dataset.batches(training_split, 64, 3), 2))

        def score(model, masks, step, saliency):
            return pruning.score_network(model, masks, scoring, saliency, nn.functional.cross_entropy, 0)

        if row.rule is None or row.starts_dense:
            self.masks = pruning.dense_masks(self.model)
        else:
            self.masks = pruning.find_masks(self.model, [], method, density)
        rule = rule or (row.rule and row.rule(make_plan(row, steps, density)))
        self.changes = training.ChangingMasks(rule, score, seed=5) if rule else None
        torch.manual_seed(0)
        make = partial(training.RuledTraining, changes=self.changes) if self.changes else training.Training
        self.training = make(
            self.model,
            dict(self.masks),
            self.batches,
            dataset.batches(validation_split, 256),
            epochs=epochs,
            lr=0.05,
            input_shape=dataset.input_shape,
            **arguments,
        )


def count(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def total(masks):
    return sum(mask.numel() for mask in masks.values())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", RULE_METHODS)
def test_the_loop_leaves_the_density_that_was_asked_for(dataset, method, optimizer):
    run = Run(dataset, method, optimizer=optimizer)
    metrics = list(run.training)
    masks, rule = run.changes.masks, run.changes.rule
    if rule.prunes_channels:
        assert 0.6 * total(masks) * DENSITY < count(masks) <= total(masks) * DENSITY
    else:
        assert count(masks) == int(total(masks) * DENSITY)
    assert [change["step"] for change in run.changes.trail] == rule.event_steps
    assert metrics[-1]["settled"] == 1
    assert metrics[-1]["mask_density"] == pytest.approx(count(masks) / total(masks))
    assert metrics[0]["settled"] == 0
    weights = dict(run.model.named_parameters())
    assert all(float((weights[name].detach() * ~mask).abs().max()) == 0 for name, mask in masks.items())
    if not rule.may_regrow:
        assert all(change["returned"] == 0 for change in run.changes.trail)
    if not METHODS[method].starts_dense:
        kept = [change["kept"] for change in run.changes.trail]
        assert kept == [[int(mask.sum()) for mask in run.masks.values()]] * len(kept), "each layer keeps its count"
        assert any(change["returned"] for change in run.changes.trail)


class NeverChanging(TrainingRule):
    """A rule that is asked at each step and changes nothing."""

    @cached_property
    def event_steps(self):
        return list(range(self.plan.steps + 1))

    def after_step(self, step, state):
        return None


@pytest.mark.parametrize("method", ["random", "force"])
def test_a_rule_that_changes_nothing_is_plain_training_bit_for_bit(dataset, method):
    plain_model, ruled_model = make_model(dataset), make_model(dataset)
    plain = Run(dataset, method, model=plain_model)
    rule = NeverChanging(RulePlan(1.0, TRAINED_EPOCHS * len(plain.batches)))
    ruled = Run(dataset, method, rule, model=ruled_model)
    for expected, metrics in zip(plain.training, ruled.training, strict=True):
        assert {name: metrics[name] for name in expected} == expected
    for name, tensor in plain_model.state_dict().items():
        assert torch.equal(tensor, ruled_model.state_dict()[name]), name


@pytest.mark.parametrize("model_name", ["mlp", "conv"])
@pytest.mark.parametrize("killed_after", [1, 3, 5])
@pytest.mark.parametrize("method", RULE_METHODS)
def test_a_training_that_goes_on_from_a_checkpoint_ends_as_an_unkilled_one(dataset, method, killed_after, model_name):
    def make():
        torch.manual_seed(3)
        return make_model(dataset) if model_name == "mlp" else make_conv()

    unkilled = Run(dataset, method, model=make())
    expected = list(unkilled.training)
    killed = Run(dataset, method, model=make())
    list(itertools.islice(killed.training, killed_after))
    state = copy.deepcopy(killed.training.state_dict())
    resumed = Run(dataset, method, model=make())
    resumed.training.load_state_dict(state)
    assert list(resumed.training) == expected[killed_after:]
    assert resumed.changes.trail == unkilled.changes.trail
    for name, tensor in unkilled.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def make_conv():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


class DeadEnd(TrainingRule):
    """A rule that prunes half of the second layer's outputs, in halves, after steps 4 and 12."""

    ranks_dead_weights = False
    event_steps = (4, 12)  # type: ignore[assignment]

    def after_step(self, step, state):
        masks = {name: mask.clone() for name, mask in state.masks.items()}
        first, second = list(masks)[:2]
        rows = slice(0, len(masks[first]) // (4 if step == 4 else 2))
        masks[first][rows] = False
        masks[second][:, rows] = False
        return Change(masks)


def test_compaction_follows_shrinking_masks_and_changes_nothing(dataset):
    """Channels that a rule has cut off go out of the trained network; losses stay those of the masked one."""

    def run(is_cut):
        model = make_model(dataset).double()
        rule = DeadEnd(RulePlan(1.0, 100))
        rule.plan = RulePlan(count_left(model) / total(pruning.dense_masks(model)), 100)
        made = Run(dataset, "random", rule, model=model, precision="float32", density=1.0)
        made.training._training = Doubled(made.training._training)
        made.training._validation = Doubled(made.training._validation)
        if not is_cut:
            made.training._compact_again = lambda: None
        return [metrics["train_loss"] for metrics in made.training], made.training.macs_fraction

    losses, fraction = run(is_cut=True)
    expected, uncut_fraction = run(is_cut=False)
    assert fraction < 0.8
    assert uncut_fraction == 1
    assert losses == pytest.approx(expected, rel=1e-9)


def count_left(model):
    masks = pruning.dense_masks(model)
    first, second = list(masks)[:2]
    half = len(masks[first]) // 2
    return total(masks) - half * (masks[first].shape[1] + masks[second].shape[0])


class Doubled:
    """Batches in float64."""

    def __init__(self, batches):
        self._batches = batches

    def __len__(self):
        return len(self._batches)

    def __iter__(self):
        return ((inputs.double(), targets) for inputs, targets in self._batches)


def test_a_pruned_weight_has_no_momentum_and_starts_again_at_zero(dataset):
    """A rule prunes all weights of the first layer but one, and gives them back after the next step."""

    class GivingBack(TrainingRule):
        may_regrow = True
        event_steps = (2, 3)  # type: ignore[assignment]

        def after_step(self, step, state):
            masks = {name: mask.clone() for name, mask in state.masks.items()}
            first = next(iter(masks))
            if step == 2:
                masks[first][:] = False
            else:
                assert all(float(value.abs().max()) == 0 for value in state.optimizer_state(first).values())
                assert float(state.weights[first].abs().max()) == 0
                masks[first][:] = True
            return Change(masks)

    run = Run(dataset, "random", GivingBack(RulePlan(1.0, 100)), density=1.0, epochs=1)
    list(run.training)
    assert [(change["returned"] > 0, change["removed"] > 0) for change in run.changes.trail] == [
        (False, True),
        (True, False),
    ]


def test_a_step_that_rigl_takes_for_an_exchange_moves_no_weight(dataset):
    run = Run(dataset, "rigl", epochs=2)
    batches = iter(run.batches)
    for step in (1, 2, 3):
        before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
        run.training._take_step(step, *next(batches), 0.05)
        moved = any(
            not torch.equal(parameter * run.changes.masks.get(name, 1), before[name] * run.changes.masks.get(name, 1))
            for name, parameter in run.model.named_parameters()
        )
        assert moved == (step != 3)


class Disobedient(TrainingRule):
    """A rule that is asked once, and returns what a test gives it."""

    event_steps = (2,)  # type: ignore[assignment]

    def __init__(self, plan, make_masks):
        self.make_masks = make_masks
        super().__init__(plan)

    def after_step(self, step, state):
        return Change(self.make_masks({name: mask.clone() for name, mask in state.masks.items()}))


@pytest.mark.parametrize(
    ("make_masks", "message"),
    [
        (lambda masks: {name: ~mask for name, mask in masks.items()}, "returned .* pruned weights after step 2"),
        (lambda masks: dict(list(masks.items())[1:]), "must return a bool mask of shape"),
        (lambda masks: {name: mask.float() for name, mask in masks.items()}, "must return a bool mask of shape"),
        (lambda masks: {name: mask & False for name, mask in masks.items()}, "keeps 0 of .* weights after its last"),
    ],
)
def test_a_rule_that_breaks_its_word_ends_the_training(dataset, make_masks, message):
    run = Run(dataset, "rigl", Disobedient(RulePlan(0.5, 100), make_masks), density=0.5)
    with pytest.raises(ValueError, match=f"Disobedient {message}"):
        list(run.training)


def test_a_rule_that_fills_the_masks_that_it_is_shown_is_followed(dataset):
    class FillingRule(TrainingRule):
        """A rule that writes its masks into those of the state."""

        event_steps = (2,)  # type: ignore[assignment]

        def after_step(self, step, state):
            masks = pruning.keep_by_count(state.magnitudes, int(state.total * self.plan.density))
            for name, mask in masks.items():
                state.masks[name].copy_(mask)
            return Change(state.masks)

    run = Run(dataset, "random", FillingRule(RulePlan(0.5, 100)), density=1.0, epochs=1)
    list(run.training)
    assert run.changes.density == pytest.approx(0.5, abs=1e-3)
    assert [change["removed"] > 0 for change in run.changes.trail] == [True]
    weights = dict(run.model.named_parameters())
    assert all(int((weights[name][~mask] != 0).sum()) == 0 for name, mask in run.changes.masks.items())


@pytest.mark.parametrize("events", [(30, 10), (2, 2), (3.5,), (-1, 3), (3, 101), ()])
def test_the_steps_of_a_rule_are_whole_numbers_that_rise_within_the_training(events):
    class Scheduled(NeverChanging):
        event_steps = events

    with pytest.raises(InputError, match=r"Scheduled.*allowed: "):
        Scheduled(RulePlan(0.5, 100))


def test_events_of_a_rule_with_levels_are_at_their_ends():
    class Leveled(NeverChanging):
        levels = 3
        rewind_step = 10
        event_steps = (100, 150)

    with pytest.raises(InputError, match=r"100, 150.*the ends of its levels, 100, 190"):
        Leveled(RulePlan(0.5, 100))


def test_a_rule_that_leaves_another_density_is_told_so(dataset):
    rule = NeverChanging(RulePlan(0.5, TRAINED_EPOCHS * 3))
    with pytest.raises(ValueError, match="NeverChanging keeps 832 of 832 weights.*is 416"):
        list(Run(dataset, "random", rule, density=0.5).training)


def test_an_option_without_a_value_is_named():
    class WithoutOptions(TrainingRule):
        event_steps = property(lambda self: [self.plan.last_step])

    with pytest.raises(InputError, match="'settle_at'.*`options`"):
        training.exercise_rule(WithoutOptions)


@pytest.mark.parametrize("method", RULE_METHODS)
def test_a_training_that_diverges_is_not_the_rules_fault(dataset, method):
    run = Run(dataset, method)
    run.training._lr = float("inf")
    with pytest.raises(training.Diverged):
        list(run.training)


def test_dense_weights_are_dropped_after_the_last_change(dataset):
    """One epoch of 5 batches: dynamic feedback settles within it, and later steps count sparse gradients."""
    row = METHODS["dpf"]
    rule = row.rule(make_plan(row, 5, settle_at=0.6, update_interval=1))
    run = Run(dataset, "dpf", rule, epochs=1)
    assert rule.event_steps == [1, 2, 3]
    (metrics,) = run.training
    assert not isinstance(run.training._step.masked, MaskedDense)
    layer_macs = pruning.dense_macs(run.model, dataset.input_shape)
    masks = run.changes.masks
    sparse_macs = sum(macs * int(masks[name].sum()) / masks[name].numel() for name, macs in layer_macs.items())
    samples = [len(targets) for _, targets in run.batches]
    settled_flops = 6 * sparse_macs * sum(samples[3:])
    dense_flops = 2 * sum(layer_macs.values()) * sum(samples[:3])  # of one gradient; the rest is nearly as much
    assert settled_flops + dense_flops < metrics["training_flops_sparse"] < settled_flops + 3 * dense_flops


@pytest.mark.parametrize("method", ONE_LEVEL_METHODS)
def test_a_training_too_short_for_a_rule_is_refused(method):
    row = METHODS[method]
    with pytest.raises(InputError, match="allowed: "):
        row.rule(RulePlan(0.1, 2, 20, SCHEDULES["cubic"], row.rule_options))


@given(
    method=some.sampled_from([name for name in ONE_LEVEL_METHODS if METHODS[name].starts_dense]),
    density=some.floats(0.01, 0.9),
    steps=some.integers(60, 500),
    iterations=some.integers(1, 20),
    schedule=some.sampled_from(list(SCHEDULES)),
)
@settings(deadline=None, max_examples=60)
def test_counts_fall_to_the_density_and_events_stay_within_the_training(method, density, steps, iterations, schedule):
    row = METHODS[method]
    rule = row.rule(RulePlan(density, steps, iterations, SCHEDULES[schedule], row.rule_options))
    counts = [rule.count_after(step, 10_000) for step in rule.event_steps]
    assert counts[-1] == int(10_000 * density)
    assert counts == sorted(counts, reverse=True)
    assert rule.event_steps == sorted({*rule.event_steps})
    assert rule.event_steps[-1] <= steps * row.rule_options["settle_at"]
    assert rule.event_steps[0] >= 1


@pytest.mark.parametrize(
    ("epochs", "fraction", "expected"),
    [(10, 1.0, 10), (10, 0.5, 20), (10, 0.3, 33), (10, 0.1, 40), (4, 6, 1), (3, 0, 12)],
)
def test_epochs_at_equal_compute(epochs, fraction, expected):
    assert training.stretch_epochs(epochs, fraction) == expected


def test_a_network_without_its_dead_channels_has_more_epochs_at_equal_compute(dataset):
    model = make_model(dataset)
    masks = pruning.dense_masks(model)
    first, second = list(masks)[:2]
    masks[first][: len(masks[first]) * 3 // 4] = False
    masks[second][:, : len(masks[first]) * 3 // 4] = False
    training_split, validation_split = dataset.split(0)
    batches = dataset.batches(training_split, 64, 2), dataset.batches(validation_split, 256)
    arguments = {"epochs": 2, "lr": 0.05, "input_shape": dataset.input_shape}
    dense = training.Training(
        make_model(dataset), pruning.dense_masks(model), *batches, equal_compute=True, **arguments
    )
    cut = training.Training(model, masks, *batches, equal_compute=True, **arguments)
    assert dense.total_epochs == 2
    assert cut.total_epochs == min(int(2 / cut.macs_fraction), 8) > 2
    flops = [list(made)[-1]["training_flops"] for made in (dense, cut)]
    assert flops[1] <= flops[0]


def test_a_network_that_is_cut_while_it_trains_computes_as_its_classes_do_at_the_end(dataset):
    """Layers that oneDNN would compute wrongly have another `forward` while they are trained."""
    run = Run(dataset, "gradual_magnitude", model=make_model(dataset, "resnet8", 4), density=0.05)
    epochs = iter(run.training)
    next(epochs)
    assert any("forward" in vars(module) for module in run.model.modules())
    list(epochs)
    assert run.training.macs_fraction < 1
    assert not any("forward" in vars(module) for module in run.model.modules())


def test_uniform_magnitude_gives_no_layer_more_than_it_has():
    """The shares of the layers are rounded, so that a later event could give a layer one weight more than before."""
    shapes = {"first": (32, 1, 3, 3), "second": (64, 32, 3, 3), "third": (64, 64, 3, 3), "last": (10, 64)}
    weights = {name: torch.randn(shape, generator=torch.Generator().manual_seed(0)) for name, shape in shapes.items()}
    rule = METHODS["gradual_magnitude_uniform"].rule(
        make_plan(METHODS["gradual_magnitude_uniform"], 340, 0.26559, iterations=20)
    )
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for step in rule.event_steps:
        state = RuleState(weights, masks, {}, lambda name: {}, score=None, draw=None, channels=None)
        after = rule.after_step(step, state).masks
        assert all(not (mask & ~masks[name]).any() for name, mask in after.items()), f"a weight returns at step {step}"
        masks = after


def test_rigl_takes_a_weight_without_a_gradient_for_one_of_gradient_zero(dataset):
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = make_model(dataset), nn.Linear(6, 5)

        def forward(self, x):
            return self.used(x)

    torch.manual_seed(0)
    *_, metrics = Run(dataset, "rigl", model=Unused()).training
    assert metrics["settled"] == 1.0


def test_the_cost_of_training_by_hand():
    """Two linear layers of 4 x 3 and 2 x 4 weights: 20 multiply-adds, 40 operations forward, 120 for a step."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    masks = pruning.dense_masks(model)
    masks["0.weight"][:2] = False  # 6 of 12 are left, and 14 of 20 multiply-adds
    cost = TrainingCost(model, masks, (3,))
    cost.add_step(5, 1.0, has_dense_gradient=False)
    assert cost.metrics() == {"training_flops": 5 * 120, "training_flops_sparse": 5 * 3 * 2 * 14}
    cost.add_step(1, 0.5, has_dense_gradient=True)
    assert cost.metrics() == {
        "training_flops": 5 * 120 + 60,
        "training_flops_sparse": 5 * 84 + 2 * (2 * 14 + 20),
    }


def test_dynamic_feedback_brings_weights_back_with_their_dense_values(dataset):
    """A pruned weight goes on training underneath, so that one that returns is not 0."""
    run = Run(dataset, "dpf", density=0.05)
    returned_values = []
    change_masks = run.training._change_masks

    def observe(step, gradients):
        before = dict(run.changes.masks)
        change_masks(step, gradients)
        weights = dict(run.model.named_parameters())
        for name, mask in run.changes.masks.items():
            returned_values.append(weights[name].detach()[mask & ~before[name]])

    run.training._change_masks = observe
    list(run.training)
    values = torch.cat(returned_values)
    assert len(values)
    assert float(values.abs().min()) > 0


@pytest.mark.parametrize("method", RULE_METHODS)
def test_the_rules_of_forcetune_do_their_duties(method):
    row = METHODS[method]
    options = make_plan(row, 36).options
    trail = training.exercise_rule(row.rule, DENSITY, options, starts_dense=row.starts_dense)
    assert trail[-1]["step"] == row.rule(make_plan(row, 36)).settled_step


class Forgetful(TrainingRule):
    """A rule that breaks one of its duties."""

    event_steps = (20, 30)  # type: ignore[assignment]

    def __init__(self, plan, offence):
        self.offence = offence
        self.calls = 0
        super().__init__(plan)

    def after_step(self, step, state):
        self.calls += 1
        if self.offence == "writes":
            next(iter(state.weights.values())).zero_()
        shift = self.calls if self.offence == "counts" else 0
        if self.offence == "remembers":
            shift = self.calls // 3  # each decision is asked for twice
        scores = {name: weight.abs().roll(shift, 0) * state.masks[name] for name, weight in state.weights.items()}
        count = int(state.total * self.plan.density)
        return Change(pruning.rules.keep_by_count(scores, count) if step == 20 or shift else state.masks)


@pytest.mark.parametrize(
    ("offence", "message"),
    [
        ("writes", "has written to"),
        ("counts", "decides otherwise when it is asked a second time"),
        ("remembers", "^Forgetful returned|ended otherwise"),
    ],
)
def test_a_rule_of_the_users_own_that_breaks_a_duty_is_told_so(offence, message):
    with pytest.raises(ValueError, match=message):
        training.exercise_rule(lambda plan: Forgetful(plan, offence))


def test_a_rule_of_the_users_own_passes():
    trail = training.exercise_rule(lambda plan: Forgetful(plan, "none"))
    assert [change["removed"] > 0 for change in trail] == [True, False]

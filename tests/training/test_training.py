"""The training of a pruned network: pruned weights stay at zero, and the other weights follow plain SGD."""

import math

import pytest
import torch
from synthetic_data import SYNTHETIC, TRAINING, VALIDATION
from torch import nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook

from forcetune.data import Batches
from forcetune.pruning import find_masks, prunable
from forcetune.training import LR_SCHEDULES, Diverged, Masked, Training, evaluate


def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 4))


def sparse(model, density=0.2):
    return find_masks(model, [], "random", density)


def dense(model):
    return {n: torch.ones_like(w, dtype=torch.bool) for n, w in prunable(model).items()}


def batches(images=TRAINING, seed=0, size=64):
    return Batches(SYNTHETIC, images, size, seed)


def run(model, masks, training=None, **options):
    settings = {"epochs": 2, "lr": 0.1, **options}
    return list(Training(model, masks, training or batches(), Batches(SYNTHETIC, VALIDATION, 100), **settings))


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Watched:
    """Batches that call `look` before each batch and at the end of a pass."""

    def __init__(self, look, watched_batches=None):
        self.look, self.batches = look, watched_batches or batches()

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.look()
            yield batch
        self.look()


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.0, "weight_decay": 0.0},
        {"clip_norm": 0.01},
        {"lr_schedule": "constant", "lr": 1.0},
    ],
)
def test_pruned_weights_are_zero_at_every_step(options):
    model = make()
    masks, looks = sparse(model), []

    def look():
        looks.append(all((weight[~masks[n]] == 0).all() for n, weight in prunable(model).items()))

    run(model, masks, Watched(look), **options)
    assert looks == [True] * 2 * (5 + 1)  # 288 images in batches of 64
    assert all((weight[masks[n]] != 0).all() for n, weight in prunable(model).items())


def test_pruned_weights_are_put_back_whatever_the_optimizer_does():
    model = make()
    masks = sparse(model)

    def move(optimizer, args, kwargs):
        torch._foreach_add_([p.data for p in model.parameters()], 0.01)

    hook = register_optimizer_step_post_hook(move)
    try:
        run(model, masks, epochs=1)
    finally:
        hook.remove()
    assert all((weight[~masks[n]] == 0).all() for n, weight in prunable(model).items())


def test_with_nothing_pruned_it_is_plain_sgd():
    model, plain_model, images = make(), make(), batches()
    run(model, dense(model), lr_schedule="constant", momentum=0.8, weight_decay=0.01)
    optimizer = torch.optim.SGD(plain_model.parameters(), 0.1, momentum=0.8, weight_decay=0.01, fused=True)
    for inputs, targets in [batch for _ in range(2) for batch in images]:
        optimizer.zero_grad()
        functional.cross_entropy(plain_model(inputs), targets).backward()
        optimizer.step()
    assert torch.equal(flat(model), flat(plain_model))


def with_momentum():
    """Return a model and an optimizer after some dense training steps."""
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for inputs, targets in batches():
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def step(model, optimizer, masked):
    inputs, targets = next(iter(batches()))
    optimizer.zero_grad()
    functional.cross_entropy(model(inputs), targets).backward()
    masked.gradients()
    optimizer.step()


def test_momentum_from_before_the_pruning_is_cleared():
    model, optimizer = with_momentum()
    masked, masks = Masked(model, dense(model)), sparse(model)
    masked.set_masks(masks, optimizer)
    for n, weight in prunable(model).items():
        momentum = optimizer.state[weight]["momentum_buffer"]
        assert (momentum[~masks[n]] == 0).all()
        assert (momentum[masks[n]] != 0).any()
    # The step does not call masked.weights(): without gradient and momentum pruned weights do not move
    step(model, optimizer, masked)
    assert all((weight[~masks[n]] == 0).all() for n, weight in prunable(model).items())


def test_momentum_that_is_not_cleared_moves_pruned_weights():
    model, optimizer = with_momentum()
    masks = sparse(model)
    masked = Masked(model, masks)
    step(model, optimizer, masked)
    assert any((weight[~masks[n]] != 0).any() for n, weight in prunable(model).items()), "the momentum moves them"
    masked.weights()
    assert all((weight[~masks[n]] == 0).all() for n, weight in prunable(model).items())


def test_momentum_of_kept_weights_stays():
    model, optimizer = with_momentum()
    before = {n: optimizer.state[w]["momentum_buffer"].clone() for n, w in prunable(model).items()}
    masks = sparse(model)
    Masked(model, masks).set_masks(masks, optimizer)
    for n, weight in prunable(model).items():
        assert torch.equal(optimizer.state[weight]["momentum_buffer"], before[n] * masks[n])


def test_a_weight_that_returns_starts_from_zero():
    model, optimizer = with_momentum()
    masked = Masked(model, sparse(model))
    pruned = (model[1].weight == 0).clone()
    masked.set_masks(dense(model), optimizer)
    assert (model[1].weight[pruned] == 0).all()
    step(model, optimizer, masked)
    assert (model[1].weight[pruned] != 0).any(), "it learns again"


def test_masks_come_in_any_order():
    model = make()
    masks = sparse(model)
    reversed_masks = dict(reversed(masks.items()))
    Masked(model, masks).set_masks(reversed_masks)
    assert all((weight[~masks[n]] == 0).all() for n, weight in prunable(model).items())


def test_pruned_gradients_do_not_count_in_the_clipped_norm():
    # One step of plain SGD moves the parameters by lr * clip_norm, all of it in the kept weights
    model = make()
    masks = sparse(model, density=0.05)
    Masked(model, masks)
    before = flat(model)
    full_batch = Batches(SYNTHETIC, TRAINING, len(TRAINING), seed=0)
    run(model, masks, full_batch, epochs=1, lr=0.5, momentum=0, weight_decay=0, clip_norm=0.01)
    assert float((flat(model) - before).norm()) == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_no_clipping_below_the_bound():
    clipped, unclipped = make(), make()
    run(clipped, sparse(clipped), clip_norm=1e6)
    run(unclipped, sparse(unclipped))
    assert torch.equal(flat(clipped), flat(unclipped))


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("cosine", {0: 1, 1 / 4: (1 + math.sqrt(0.5)) / 2, 1 / 2: 0.5, 1: 0}),
        ("step", {0: 1, 0.499: 1, 0.5: 0.1, 0.749: 0.1, 0.75: 0.01, 0.999: 0.01}),
        ("constant", {0: 1, 0.5: 1, 0.999: 1}),
    ],
)
def test_learning_rate_schedules(name, factors):
    assert {progress: LR_SCHEDULES[name](progress) for progress in factors} == pytest.approx(factors, abs=1e-12)


def test_the_learning_rate_follows_step_by_step(monkeypatch):
    model, progresses = make(), []
    monkeypatch.setitem(LR_SCHEDULES, "watched", lambda progress: progresses.append(progress) or 1.0)
    run(model, dense(model), epochs=2, lr_schedule="watched")
    assert progresses == [step / 10 for step in range(10)]


def test_the_learning_rate_is_used(monkeypatch):
    # One step of plain SGD at half the rate moves half as far
    def moved(schedule):
        model = make()
        before = flat(model)
        full_batch = Batches(SYNTHETIC, TRAINING, len(TRAINING), seed=0)
        run(model, dense(model), full_batch, epochs=1, lr_schedule=schedule, momentum=0, weight_decay=0)
        return flat(model) - before

    monkeypatch.setitem(LR_SCHEDULES, "half", lambda progress: 0.5)
    assert torch.allclose(moved("half"), moved("constant") / 2, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"weight_decay": 0.0}, {"lr": 0.05}, {"lr_schedule": "step"}])
def test_every_setting_changes_the_weights(options):
    default, changed = make(), make()
    run(default, sparse(default))
    run(changed, sparse(changed), **options)
    assert not torch.equal(flat(default), flat(changed))


def test_same_seed_same_result():
    models = [make() for _ in range(3)]
    first, repeated, reseeded = (
        run(model, sparse(model), batches(seed=seed)) for model, seed in zip(models, (1, 1, 2), strict=True)
    )
    assert first == repeated
    assert torch.equal(flat(models[0]), flat(models[1]))
    assert first != reseeded


def test_metrics_of_an_epoch():
    model = make()
    history = run(model, dense(model), epochs=3)
    assert [metrics["epoch"] for metrics in history] == [1, 2, 3]
    assert {*history[-1]} == {"epoch", "train_loss", "val_loss", "val_accuracy"}
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_train_loss_is_the_mean_of_the_steps():
    # With a rate near 0 the weights stay, so each batch's loss can be computed before the training
    model = make()
    inputs = list(batches(seed=3))
    losses = [float(functional.cross_entropy(model(x), y).detach()) for x, y in inputs]
    (metrics,) = run(model, dense(model), batches(seed=3), epochs=1, lr=1e-12)
    assert metrics["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_evaluate_counts_images_not_batches():
    # The inputs are the logits. Of the four images, in batches of 3 and 1, the first two are classified right.
    rows = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    targets = torch.tensor([0, 1, 1, 0])
    uneven_batches = [(rows[:3], targets[:3]), (rows[3:], targets[3:])]
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    metrics = evaluate(nn.Identity(), uneven_batches)
    assert metrics == pytest.approx({"val_accuracy": 0.5, "val_loss": (2 * right + 2 * wrong) / 4})


def test_evaluate_is_in_eval_mode():
    model = make()
    before = model[2].running_mean.clone()
    evaluate(model, batches(VALIDATION))
    assert torch.equal(model[2].running_mean, before)


def test_trains_in_train_mode_in_every_epoch():
    model, modes = make(), []
    run(model.eval(), dense(model), Watched(lambda: modes.append(model.training)))
    assert all(modes)


def test_a_training_that_diverges_is_ended():
    model = make()
    with pytest.raises(Diverged, match=r"the training loss became (nan|inf) in epoch 1"):
        run(model, dense(model), lr=1e30)


def test_a_sparse_network_learns():
    model = make()
    masks = find_masks(model, [next(iter(batches()))], "snip", 0.2)
    assert run(model, masks, epochs=10)[-1]["val_accuracy"] > 0.9

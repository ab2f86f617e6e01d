"""find_masks: exact counts, the model left alone, batches in their order, and refused arguments."""

import itertools

import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as some
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from forcetune.errors import InputError
from forcetune.pruning import METHODS, SCHEDULES, Method, Network, diagnose, find_masks, mask_steps, prunable
from forcetune.pruning.diagnosis import dense_macs
from forcetune.pruning.saliency import synaptic_flow
from forcetune.pruning.schedules import exponential

# of weights: the others prune in training, or whole channels (test_channels.py)
INITIAL_METHODS = [name for name, row in METHODS.items() if not row.starts_dense and not row.scores_gates]
ITERATIVE_METHODS = [name for name in INITIAL_METHODS if METHODS[name].iterative]


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))


def convnet():
    """Return a network with batch norm and dropout, which a forward pass writes to and draws from."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 3),
    )


def make(network):
    torch.manual_seed(0)
    return network()


def batch(seed=0, size=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 4, 4, generator=generator), torch.randint(3, (size,), generator=generator)


def count_kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def count_weights(masks):
    return sum(mask.numel() for mask in masks.values())


def equal(masks, other_masks):
    return masks.keys() == other_masks.keys() and all(torch.equal(masks[name], other_masks[name]) for name in masks)


def add_method(monkeypatch, score, **rule):
    """Add a row `mine` to METHODS."""
    monkeypatch.setitem(METHODS, "mine", Method(score, **rule))


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.starts_dense])
def test_a_method_that_prunes_in_training_has_no_masks_before_it(method):
    with pytest.raises(InputError, match=f"{method}.*while the network trains.*allowed: "):
        find_masks(make(mlp), [], method, 0.1)


@pytest.mark.parametrize("network", [mlp, convnet])
@pytest.mark.parametrize("method", INITIAL_METHODS)
def test_exact_counts(method, network):
    for density in (0.005, 0.01, 0.1, 0.29, 0.7, 1.0):  # int(100 * 0.29) is 28: the product of doubles counts
        masks = find_masks(make(network), [batch()], method, density, iterations=5)
        assert count_kept(masks) == int(count_weights(masks) * density)


def test_masks_are_bool_tensors_in_module_order():
    model = make(convnet)
    masks = find_masks(model, [batch()], "force", 0.1)
    assert [*masks] == ["0.weight", "4.weight", "7.weight"]
    assert all(masks[n].dtype == torch.bool and masks[n].shape == w.shape for n, w in prunable(model).items())


@pytest.mark.parametrize("schedule", ["exponential", "linear"])
@pytest.mark.parametrize("method", ITERATIVE_METHODS)
def test_counts_follow_the_schedule(method, schedule):
    model, density, iterations = make(mlp), 0.1, 5
    n = count_weights(prunable(model))
    share = {"exponential": lambda t: density ** (t / 5), "linear": lambda t: 1 - 0.9 * t / 5}[schedule]
    steps = [
        count_kept(masks)
        for masks in mask_steps(model, [batch()], method, density, iterations=iterations, schedule=schedule)
    ]
    assert steps == [int(n * share(t)) for t in range(1, 5)] + [int(n * density)]


@pytest.mark.parametrize("network", [mlp, convnet])
def test_force_and_iterative_snip_of_one_step_are_snip(network):
    def one_step(method, density):
        torch.manual_seed(1)  # dropout draws from it
        return find_masks(make(network), [batch()], method, density, iterations=1)

    for density in (0.02, 0.3):
        snip = one_step("snip", density)
        assert equal(one_step("iter_snip", density), snip)
        assert equal(one_step("force", density), snip)


def count_returning(method):
    """Return the number of weights that return, summed over the steps."""
    steps = list(mask_steps(make(mlp), [batch()], method, 0.05, iterations=10))
    return sum(int((now[n] & ~before[n]).sum()) for before, now in itertools.pairwise(steps) for n in now)


def test_force_lets_weights_return():
    assert count_returning("force") > 0


@pytest.mark.parametrize("method", [name for name in ITERATIVE_METHODS if not METHODS[name].resurrect])
def test_other_iterative_methods_let_no_weight_return(method):
    assert count_returning(method) == 0


def test_one_shot_methods_ignore_iterations_and_schedule():
    once = find_masks(make(mlp), [batch()], "snip", 0.1)
    assert equal(once, find_masks(make(mlp), [batch()], "snip", 0.1, iterations=7, schedule="linear"))


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


class Passes:
    """Batches that differ in each pass: the first pass gives 0, 1, 2, the next one 10, 11, 12 and so on."""

    def __init__(self):
        self.begun = 0

    def __iter__(self):
        first = 10 * self.begun
        self.begun += 1
        yield from numbered(range(first, first + 3))


def numbered(numbers):
    return [(torch.full((1, 1, 4, 4), float(i)), torch.tensor([0])) for i in numbers]


@pytest.mark.parametrize(
    ("batches", "order"),
    [
        (numbered(range(3)), [[0, 1], [2, 0], [1, 2], [0, 1]]),
        (iter(numbered(range(3))), [[0, 1], [2, 0], [1, 2], [0, 1]]),
        (numbered(range(1)), [[0, 0]] * 4),
        (Passes(), [[0, 1], [2, 10], [11, 12], [20, 21]]),
        (iter(numbered(range(8))), [[0, 1], [2, 3], [4, 5], [6, 7]]),
    ],
    ids=["list", "one pass", "a single batch", "a new order each pass", "as many as are needed"],
)
def test_every_step_takes_the_next_batches(batches, order, monkeypatch):
    batch_numbers = []

    def score(net):
        batch_numbers.append([int(inputs[0, 0, 0, 0]) for inputs, _ in net.batches])
        return net.weights

    add_method(monkeypatch, score, iterative=True)
    find_masks(make(mlp), batches, "mine", 0.1, iterations=4, batches_per_step=2)
    assert batch_numbers == order


def test_a_loader_is_not_started_anew_at_every_step():
    # A pass begins slowly where the loader starts processes; 6 batches of a loader with 4 take 2 passes
    passes = []

    class Loader(DataLoader):
        def __iter__(self):
            passes.append(1)
            return super().__iter__()

    find_masks(make(mlp), Loader(TensorDataset(*batch(size=12)), 3), "force", 0.1, iterations=6)
    assert len(passes) == 2


@pytest.mark.parametrize("method", ["force", "synflow"])
def test_a_loader_that_shuffles_leaves_the_random_state(method):
    loader = DataLoader(TensorDataset(*batch()), 4, shuffle=True)  # it draws a seed from torch as a pass begins
    model, before = make(mlp), torch.get_rng_state()
    find_masks(model, loader, method, 0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_more_is_taken_than_is_scored():
    batches = iter(numbered(range(5)))
    find_masks(make(mlp), batches, "snip", 0.1, batches_per_step=2)
    assert int(next(batches)[0][0, 0, 0, 0]) == 2


@pytest.mark.parametrize("method", ["random", "magnitude"])
def test_no_batches_where_no_data_is_read(method):
    assert equal(find_masks(make(mlp), [], method, 0.1), find_masks(make(mlp), [batch()], method, 0.1))


class SinglePass:
    """An iterable that gives its batches in the first pass alone, and does not say so."""

    def __init__(self):
        self.iterator, self.begun = iter(numbered(range(3))), 0

    def __iter__(self):
        self.begun += 1
        assert self.begun < 9, "begun again and again, to no avail"
        return self.iterator


def test_batches_that_end_too_early_are_refused():
    with pytest.raises(InputError, match="batches"):
        find_masks(make(mlp), SinglePass(), "force", 0.1, iterations=5)


@pytest.mark.parametrize("batches", [[], iter([])])
def test_missing_data_are_refused(batches):
    with pytest.raises(InputError, match="'snip' needs data .*`batches` is empty"):
        find_masks(make(mlp), batches, "snip", 0.1)


def test_synflow_takes_the_shape_of_an_input_from_a_linear_first_layer():
    model = make(mlp)[1:]
    flat = torch.rand(5, 16), torch.zeros(5, dtype=torch.long)
    assert equal(find_masks(model, [], "synflow", 0.1), find_masks(model, [flat], "synflow", 0.1))


def test_synflow_asks_for_a_batch_where_the_first_layer_is_a_convolution():
    with pytest.raises(InputError, match="pass one batch"):
        find_masks(make(convnet), [], "synflow", 0.1)


def test_synflow_reads_no_values():
    nonsense = torch.full((2, 1, 4, 4), torch.nan), torch.tensor([0, 0])
    masks = [find_masks(make(convnet), [data], "synflow", 0.1) for data in (nonsense, batch())]
    assert equal(*masks)


def test_synflow_scores_in_eval_mode():
    # In train mode batch norm would set the flow of one input to zero, and dropout would remove a part of it
    model = make(convnet)
    flat = torch.cat([m.flatten() for m in find_masks(model, [batch()], "synflow", 0.3, iterations=1).values()])
    net = Network(model.eval(), functional.cross_entropy, seed=0)
    net.input_shape = (1, 4, 4)
    scores = torch.cat([score.flatten() for score in synaptic_flow(net).values()])
    assert scores[flat].min() > scores[~flat].max()


def test_ties_go_to_the_lower_index(monkeypatch):
    add_method(monkeypatch, lambda net: {n: torch.ones_like(w) for n, w in net.weights.items()})
    flat = torch.cat([mask.flatten() for mask in find_masks(make(mlp), [batch()], "mine", 0.8).values()])
    count = int(len(flat) * 0.8)  # more than the first layer has
    assert count > 16 * 12
    assert flat[:count].all()
    assert not flat[count:].any()


@pytest.mark.parametrize("method", ["snip", "force", "iter_snip", "grasp_it", "px"])
def test_a_dead_network_keeps_exactly_what_was_asked(method):
    # Negative weights on positive inputs: no ReLU opens, every score is 0, and no threshold tells weights apart
    model = make(mlp)[1:]
    model[0].weight.data.abs_().neg_()
    model[0].bias.data.zero_()
    data = torch.rand(5, 16), torch.zeros(5, dtype=torch.long)
    masks = find_masks(model, [data], method, 0.5, iterations=4)
    assert count_kept(masks) == count_weights(masks) // 2
    assert diagnose(model, masks, (16,))["collapsed"] == 1


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


@pytest.mark.parametrize(
    "spoil",
    [
        lambda scores: {n: s.flatten() for n, s in scores.items()},
        lambda scores: {n: s for n, s in scores.items() if n != "3.weight"},
    ],
    ids=["a wrong shape", "a layer left out"],
)
def test_scores_of_another_shape_are_refused(spoil, monkeypatch):
    add_method(monkeypatch, lambda net: spoil(dict(net.weights)))
    with pytest.raises(InputError, match=r"must have the shape"):
        find_masks(make(mlp), [batch()], "mine", 0.1)


OWN_METHODS_SOURCE = """
from forcetune.pruning import Method

def least(net):
    return {name: -weight.abs() for name, weight in net.weights.items()}

least_without_data = Method(least, data=False)

def indices(net):
    return {name: weight.new_ones(weight.shape).long().cumsum(0) for name, weight in net.weights.items()}
"""


@pytest.fixture
def own_methods(tmp_path, monkeypatch):
    (tmp_path / "own_methods.py").write_text(OWN_METHODS_SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_a_function_of_the_users_own(own_methods):
    least = find_masks(make(mlp), [batch()], "own_methods:least", 0.25)
    most = find_masks(make(mlp), [], "magnitude", 0.75)
    assert count_weights(least) % 4 == 2, "so that the two do not share the weights evenly"
    assert count_kept({n: least[n] & most[n] for n in least}) == 0


def test_a_method_of_the_users_own(own_methods):
    least = find_masks(make(mlp), [batch()], "own_methods:least", 0.25)
    assert equal(find_masks(make(mlp), [], "own_methods:least_without_data", 0.25), least)


def test_scores_may_be_whole_numbers(own_methods):
    masks = find_masks(make(mlp), [batch()], "own_methods:indices", 0.1)
    assert count_kept(masks) == int(count_weights(masks) * 0.1)
    assert masks["1.weight"][-1].all(), "the highest index scores most"


def test_a_loss_by_name_is_that_function():
    def force(loss):
        return find_masks(make(mlp), [batch()], "force", 0.1, loss=loss)

    assert equal(force("nll_logits"), force(functional.nll_loss))
    assert equal(force("cross_entropy"), force(functional.cross_entropy))
    assert not equal(force("nll_logits"), force("cross_entropy"))


class SharedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.out(self.other(self.one(x.flatten(1)).relu()).relu())


@pytest.mark.parametrize("method", [name for name in INITIAL_METHODS if name != "phew"])  # phew refuses it
def test_a_shared_weight_is_pruned_once(method):
    masks = find_masks(make(SharedWeight), [batch()], method, 0.25, iterations=3)
    assert [*masks] == ["one.weight", "out.weight"]
    assert count_kept(masks) == (16 * 16 + 16 * 3) // 4


class TiedEmbedding(nn.Module):
    """A network of grey levels whose last layer has the weight of its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(16, 8), nn.Linear(8, 8), nn.Linear(8, 16, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        levels = (x.flatten(1).clamp(0, 1) * 15).long()
        return self.head(self.body(self.embedding(levels).mean(1)).relu())


class TiedParameter(nn.Module):
    """A network whose last layer has a parameter of the network itself as its weight."""

    def __init__(self):
        super().__init__()
        self.codes = nn.Parameter(torch.randn(3, 8))
        self.body, self.head = nn.Linear(16, 8), nn.Linear(8, 3, bias=False)
        self.head.weight = self.codes

    def forward(self, x):
        return self.head((self.body(x.flatten(1)) + self.codes.mean(0)).relu())


@pytest.mark.parametrize("method", [name for name in INITIAL_METHODS if name != "phew"])  # phew refuses both
@pytest.mark.parametrize(("network", "name"), [(TiedEmbedding, "embedding.weight"), (TiedParameter, "codes")])
def test_a_tied_weight_has_the_name_of_its_parameter(network, name, method):
    model = make(network)
    masks = find_masks(model, [batch()], method, 0.5, iterations=3)
    assert [*masks] == ["body.weight", name]
    assert count_kept(masks) == count_weights(masks) // 2
    weights = prunable(model)
    assert all(dict(model.named_parameters())[name] is weight for name, weight in weights.items())
    assert diagnose(model, masks, (1, 4, 4))["density"] == 0.5


@pytest.mark.parametrize("network", [TiedEmbedding, TiedParameter])
def test_phew_refuses_a_tied_weight(network):
    with pytest.raises(InputError, match="method 'phew' (does not support embedding|cannot follow .* codes)"):
        find_masks(make(network), [batch()], "phew", 0.5)


def test_a_tied_embedding_multiplies_nothing():
    model = make(TiedEmbedding)
    assert dense_macs(model, (1, 4, 4)) == {"body.weight": 64, "embedding.weight": 128}


def test_the_gradient_of_a_shared_weight_is_of_both_its_uses():
    model = make(SharedWeight)
    inputs, targets = batch()
    functional.cross_entropy(model(inputs), targets).backward()
    scores = torch.cat([(p * p.grad).abs().flatten() for p in (model.one.weight, model.out.weight)])
    flat = torch.cat([m.flatten() for m in find_masks(model, [(inputs, targets)], "snip", 0.25).values()])
    assert scores[flat].min() > scores[~flat].max()


@pytest.mark.parametrize("method", INITIAL_METHODS)
def test_a_callers_no_grad_changes_nothing(method):
    with_grad = find_masks(make(mlp), [batch()], method, 0.1)
    with torch.no_grad():
        assert equal(find_masks(make(mlp), [batch()], method, 0.1), with_grad)
        assert not torch.is_grad_enabled()


DRAWING_METHODS = {name for name in INITIAL_METHODS if name.startswith("random")} | {
    "hutchinson",
    "ntk_sap",
    "phew",
    "rigl",
    "set",
}


@pytest.mark.parametrize("method", INITIAL_METHODS)
def test_the_seed_changes_the_masks_of_methods_that_draw(method):
    first, repeated, reseeded = (find_masks(make(mlp), [batch()], method, 0.1, seed=seed) for seed in (3, 3, 4))
    assert equal(first, repeated)
    assert equal(first, reseeded) == (method not in DRAWING_METHODS)


def test_random_is_spread_over_all_layers():
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    masks = find_masks(model, [], "random", 0.5)
    assert all(0.45 < mask.float().mean() < 0.55 for mask in masks.values())  # 4 standard deviations


def test_pooled_methods_see_what_force_sees_in_all_its_steps():
    batches = [batch(seed) for seed in range(6)]
    pooled = find_masks(make(mlp), batches, "snip_mb", 0.1, iterations=3, batches_per_step=2)
    assert equal(pooled, find_masks(make(mlp), batches, "snip", 0.1, batches_per_step=6))
    pooled = find_masks(make(mlp), batches, "grasp_mb", 0.1, iterations=3, batches_per_step=2)
    assert equal(pooled, find_masks(make(mlp), batches, "grasp", 0.1, batches_per_step=6))


def test_each_inner_step_of_prospr_has_its_batches():
    batches = iter(numbered(range(9)))
    find_masks(make(mlp), batches, "prospr", 0.1, batches_per_step=2, options={"inner_steps": 2})
    assert int(next(batches)[0][0, 0, 0, 0]) == 6


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


def test_temperature_changes_grasp():
    default, explicit, lower = (
        find_masks(make(mlp), [batch()], "grasp", 0.3, options=options)
        for options in (None, {"temperature": 200}, {"temperature": 0.1})
    )
    assert equal(default, explicit)
    assert not equal(default, lower)


def test_invert_keeps_the_lowest():
    model = make(mlp)
    weights = torch.cat([weight.detach().flatten().abs() for weight in prunable(model).values()])
    keep = torch.cat([mask.flatten() for mask in find_masks(model, [], "magnitude", 0.2, invert=True).values()])
    assert weights[keep].max() < weights[~keep].min()


def test_invert_of_an_iterative_method_never_lets_a_weight_return():
    steps = list(mask_steps(make(mlp), [batch()], "iter_snip", 0.1, iterations=5, invert=True))
    assert all((now[n] <= before[n]).all() for before, now in itertools.pairwise(steps) for n in now)
    assert count_kept(steps[-1]) == int(count_weights(steps[-1]) * 0.1)


@pytest.mark.parametrize("method", ["random", "snip", "iter_snip", "force"])
def test_layer_densities_of_another_mask(method):
    model = make(mlp)
    other = find_masks(model, [], "random_erk", 0.2, seed=9)
    masks = find_masks(model, [batch()], method, 0.2, iterations=4, layer_masks=other)
    assert {n: int(m.sum()) for n, m in masks.items()} == {n: int(m.sum()) for n, m in other.items()}
    assert not equal(masks, other)
    half = find_masks(model, [batch()], method, 0.1, iterations=4, layer_masks=other)
    assert all(abs(int(m.sum()) - int(other[n].sum()) / 2) <= 1 for n, m in half.items())


def test_layer_densities_of_another_network_are_refused():
    other = find_masks(make(convnet), [], "random", 0.2)
    with pytest.raises(InputError, match="another network: 1.weight has shape"):
        find_masks(make(mlp), [], "random", 0.2, layer_masks=other)


def test_within_layers_the_largest_scores_stay():
    model = make(mlp)
    other = find_masks(model, [], "random_balanced", 0.1)
    masks = find_masks(model, [], "magnitude", 0.1, layer_masks=other)
    for name, weight in prunable(model).items():
        assert weight[masks[name]].abs().min() > weight[~masks[name]].abs().max()


# The tests below hold for all networks of up to three layers of any width


def network(widths):
    torch.manual_seed(sum(widths))
    layers = [
        layer for inputs, outputs in itertools.pairwise(widths) for layer in (nn.Linear(inputs, outputs), nn.ReLU())
    ]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


widths = some.lists(some.integers(1, 12), min_size=1, max_size=2).map(lambda hidden: [16, *hidden, 3])
densities = some.floats(0.06, 1)  # the smallest network has 19 weights
steps = some.integers(1, 7)


@settings(max_examples=60, deadline=None)
@given(widths, densities, steps, some.sampled_from(INITIAL_METHODS), some.sampled_from([*SCHEDULES]), some.booleans())
def test_any_density_network_and_schedule_keeps_the_exact_count(widths, density, iterations, method, schedule, invert):
    model = network(widths)
    step_masks = list(
        mask_steps(model, [batch()], method, density, iterations=iterations, schedule=schedule, invert=invert)
    )
    n = count_weights(step_masks[-1])
    assert count_kept(step_masks[-1]) == int(n * density)
    if METHODS[method].iterative:
        shares = [SCHEDULES[schedule](density, t, iterations) for t in range(1, iterations)]
        assert [count_kept(masks) for masks in step_masks[:-1]] == [int(n * share) for share in shares]
    if not METHODS[method].resurrect:
        assert all((now[name] <= before[name]).all() for before, now in itertools.pairwise(step_masks) for name in now)


@settings(max_examples=30, deadline=None)
@given(widths, densities, some.integers(0, 5))
def test_one_step_is_snip(widths, density, seed):
    model, batches = network(widths), [batch(seed)]
    snip = find_masks(model, batches, "snip", density)
    for method in ("force", "iter_snip"):
        assert equal(snip, find_masks(model, batches, method, density, iterations=1))


@settings(max_examples=30, deadline=None)
@given(widths, densities, densities)
def test_masks_of_snip_are_nested(widths, first_density, second_density):
    model = network(widths)
    sparse, dense = (
        find_masks(model, [batch()], "snip", density) for density in sorted([first_density, second_density])
    )
    assert all((sparse[name] <= dense[name]).all() for name in sparse)


@settings(max_examples=60, deadline=None)
@given(widths, some.floats(0.06, 0.9), some.data(), some.sampled_from(["force", "iter_snip", "grasp_it", "synflow"]))
def test_an_exponential_run_holds_the_shorter_ones(widths, density, data, method):
    # Step t of the run (T, d) equals the run (t, d^(t/T)) wherever the counts agree at every step
    iterations = data.draw(some.integers(2, 6))
    t = data.draw(some.integers(1, iterations - 1))
    model, batches = network(widths).double(), [(x.double(), y) for x, y in map(batch, range(3))]
    long = list(mask_steps(model, batches, method, density, iterations=iterations))[:t]
    assume(int(count_weights(long[0]) * exponential(density, t, iterations)) > 0)
    short = list(mask_steps(model, batches, method, exponential(density, t, iterations), iterations=t))
    if [count_kept(masks) for masks in long] == [count_kept(masks) for masks in short]:
        assert all(equal(long_masks, short_masks) for long_masks, short_masks in zip(long, short, strict=True))
    else:
        event("the counts differ")


@settings(max_examples=30, deadline=None)
@given(widths, densities, some.sampled_from(INITIAL_METHODS), some.sampled_from(["train", "eval"]))
def test_any_method_leaves_the_model_untouched(widths, density, method, mode):
    model = network(widths).train(mode == "train")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_masks(model, [batch()], method, density, iterations=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training == (mode == "train") for module in model.modules())

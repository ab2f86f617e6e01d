"""The batches of a mask: which ones each step takes, in which order, and data that are missing."""

import pytest
import torch
from small_networks import add_method, batch, convnet, equal, make, mlp
from torch.utils.data import DataLoader, TensorDataset

from forcetune.errors import InputError
from forcetune.pruning import find_masks


def numbered(numbers):
    return [(torch.full((1, 1, 4, 4), float(i)), torch.tensor([0])) for i in numbers]


class Passes:
    """Batches that differ in each pass: the first pass gives 0, 1, 2, the next one 10, 11, 12 and so on."""

    def __init__(self):
        self.begun = 0

    def __iter__(self):
        first = 10 * self.begun
        self.begun += 1
        yield from numbered(range(first, first + 3))


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

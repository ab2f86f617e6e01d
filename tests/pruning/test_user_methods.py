"""Methods that a user wrote: functions and rows by name, and scores that are refused."""

import pytest
from small_networks import add_method, batch, count_kept, count_weights, equal, make, mlp

from forcetune.errors import InputError
from forcetune.pruning import find_masks


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

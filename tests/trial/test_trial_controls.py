"""The controls of a trial: shuffled, redrawn, inverted, with copied layer densities, or small and dense."""

import pytest
import torch
from small_trials import USER_MODEL_CODE, flatten_masks, flatten_weights, make_trial, prepare_trial, run_trial

from forcetune import trial
from forcetune.errors import InputError
from forcetune.pruning import layer_table, save_masks


def count_kept(prepared):
    return [row["kept"] for row in layer_table(prepared.masks)]


def test_the_shuffle_moves_the_bits_inside_each_layer():
    plain, mixed = prepare_trial(), prepare_trial(shuffle=True)
    assert count_kept(mixed) == count_kept(plain)
    assert not torch.equal(flatten_masks(mixed), flatten_masks(plain))
    assert torch.equal(flatten_masks(mixed), flatten_masks(prepare_trial(shuffle=True)))
    assert torch.equal(flatten_weights(mixed.model), flatten_weights(plain.model))


def test_reinit_draws_the_weights_anew_after_pruning():
    plain, anew = prepare_trial(), prepare_trial(reinit=True)
    assert torch.equal(flatten_masks(anew), flatten_masks(plain))
    assert not torch.equal(flatten_weights(anew.model), flatten_weights(plain.model))
    assert float(flatten_weights(anew.model).std()) == pytest.approx(float(flatten_weights(plain.model).std()), rel=0.1)


def test_invert_keeps_the_lowest_scores():
    prepared = prepare_trial(method="magnitude", invert=True)
    weights, keep = flatten_weights(prepared.model).abs(), flatten_masks(prepared)
    assert weights[keep].max() < weights[~keep].min()


def test_layers_from_copies_the_layer_densities_of_another_trial(tmp_path):
    other = prepare_trial(method="snip", density=0.1)
    save_masks(tmp_path / "masks.npz", other.masks)
    copied = prepare_trial(method="random", density=0.1, layers_from=str(tmp_path / "masks.npz"))
    assert count_kept(copied) == count_kept(other)
    assert not torch.equal(flatten_masks(copied), flatten_masks(other))


def test_layers_from_is_fetched(tmp_path):
    save_masks(tmp_path / "of-a-run.npz", prepare_trial(method="snip", density=0.1).masks)
    sources = []

    def fetch(source):
        sources.append(source)
        return tmp_path / "of-a-run.npz"

    trial.prepare(make_trial(method="random", layers_from="a" * 32), fetch_masks=fetch)
    assert sources == ["a" * 32]


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_layers_from_a_mask_of_another_network_is_refused_before_anything_runs(tmp_path, suffix):
    save_masks(tmp_path / f"masks.{suffix}", prepare_trial(width=24).masks)
    with pytest.raises(InputError, match="another network"):
        trial.check(make_trial(layers_from=str(tmp_path / f"masks.{suffix}")))
    with pytest.raises(InputError, match=f"gone.{suffix} is not a readable mask file"):
        trial.check(make_trial(layers_from=str(tmp_path / f"gone.{suffix}")))


def test_small_dense_has_about_equal_parameters():
    # A network of width w has 64 w + w * max(1, w / 3) + 4 * max(1, w / 3) weights. The trial keeps 166 of 832; width 2
    # has 134 weights and width 3 has 199.
    dense = prepare_trial(density=0.2, small_dense="parameters")
    assert dense.metrics["dense_width"] == 2
    assert [tuple(mask.shape) for mask in dense.masks.values()] == [(2, 64), (1, 2), (4, 1)]
    assert flatten_masks(dense).all()
    assert dense.metrics["density"] == pytest.approx(134 / 832)
    assert dense.metrics["sparsity"] == pytest.approx(1 - 134 / 832)
    assert dense.metrics["macs"] == 134
    assert dense.metrics["macs_fraction"] == pytest.approx(134 / 832)
    assert dense.metrics["saliency_samples"] == 128


@pytest.mark.parametrize("density", [0.005, 0.05, 0.9])
def test_small_dense_has_about_equal_multiply_adds(density):
    macs = prepare_trial(density=density).metrics["macs"]
    sizes = {width: 64 * width + (width + 4) * max(1, width // 3) for width in range(1, 13)}
    nearest = min(sizes, key=lambda width: abs(sizes[width] - macs))
    metrics = prepare_trial(density=density, small_dense="macs").metrics
    assert (metrics["dense_width"], metrics["macs"]) == (nearest, sizes[nearest])
    assert metrics["density"] == sizes[nearest] / 832


def test_small_dense_is_trained():
    epochs = run_trial(density=0.01, small_dense="parameters")
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert epochs[-1]["collapsed"] == 0


def test_small_dense_needs_a_width(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(USER_MODEL_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="width of model 'own_net:with_dropout' cannot be changed"):
        trial.check(make_trial(model="own_net:with_dropout", width=None, small_dense="macs"))

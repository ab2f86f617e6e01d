"""The seed of a trial: equal trials have equal metrics, and each purpose has a random stream of its own."""

import pytest
import torch
from small_trials import USER_MODEL_CODE, drop_run_dependent, flatten_weights, make_trial, run_trial

from forcetune import trial
from forcetune.data import Dataset


@pytest.mark.parametrize("method", ["random", "force", "synflow"])
def test_equal_trials_have_equal_metrics(method):
    first, same, other = (drop_run_dependent(run_trial(method=method, seed=seed)) for seed in (1, 1, 2))
    trial.clear_pruning_caches()
    repeated = drop_run_dependent(run_trial(method=method, seed=1))
    assert first == same == repeated
    assert first != other


@pytest.mark.parametrize("method", ["magnitude", "snip"])
def test_equal_trials_have_equal_metrics_with_dropout(method, tmp_path, monkeypatch):
    (tmp_path / "own_dropout.py").write_text(USER_MODEL_CODE)
    monkeypatch.syspath_prepend(tmp_path)

    def run_after(state):
        torch.manual_seed(state)  # any code before in this process has moved torch's random state
        prepared = trial.prepare(make_trial(model="own_dropout:with_dropout", width=None, method=method, epochs=2))
        torch.manual_seed(state)
        return drop_run_dependent(trial.TrialRun(prepared))

    assert run_after(1) == run_after(2)


def test_each_purpose_has_a_random_stream_of_its_own():
    purposes = ["split", "weights", "saliency", "mask", "order"]
    streams = [trial.derive_seed(make_trial(seed=seed), purpose) for seed in range(5) for purpose in purposes]
    assert len(set(streams)) == 25
    assert trial.derive_seed(make_trial(seed=3, density=0.1), "split") == trial.derive_seed(
        make_trial(seed=3, lr=0.5), "split"
    )


def test_other_fields_move_neither_the_split_nor_the_weights():
    first = trial.prepare(make_trial())
    other = trial.prepare(make_trial(method="force", density=0.1, batch_size=16, saliency_batch_size=7, epochs=9))
    assert torch.equal(first.training.inputs, other.training.inputs)
    assert torch.equal(first.validation.inputs, other.validation.inputs)
    assert torch.equal(flatten_weights(first.model), flatten_weights(other.model))


def test_the_seed_draws_the_split_and_the_weights():
    first, other = trial.prepare(make_trial(seed=0)), trial.prepare(make_trial(seed=1))
    assert not torch.equal(first.validation.inputs, other.validation.inputs)
    assert not torch.equal(flatten_weights(first.model), flatten_weights(other.model))


def test_validation_images_are_in_no_batch_of_training_or_saliency(monkeypatch):
    # The tests of data check that the split is disjoint. This test checks the use of each set.
    used, seeds = [], []

    def spy(dataset, samples, size, seed=None, per_class=0):
        used.append((len(samples), size, per_class))
        seeds.append(seed)
        return batches(dataset, samples, size, seed, per_class)

    batches = Dataset.batches
    monkeypatch.setattr(Dataset, "batches", spy)
    run_trial(saliency_batch_size=50, batch_size=40)
    assert used == [(288, 50, 0), (32, trial.EVALUATION_BATCH_SIZE, 0), (288, 40, 0)]
    assert seeds[1] is None, "validation keeps the order"
    assert len({*seeds}) == 3

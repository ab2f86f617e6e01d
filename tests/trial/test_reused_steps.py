"""The pruning steps that trials share: equal masks, their cost, and a bound on the memory."""

import itertools

import pytest
from small_trials import drop_run_dependent, run_trial

from forcetune import trial
from forcetune.trial import reuse


def test_trials_of_a_grid_share_pruning_steps(monkeypatch):
    clock = itertools.count(0, 1000)
    monkeypatch.setattr("forcetune.pruning.cache.perf_counter", lambda: next(clock))  # each step takes 1000 s
    fields = {"method": "force", "iterations": 2}
    unshared = drop_run_dependent(run_trial(**fields, density=0.04))
    trial.clear_pruning_caches()
    first = run_trial(**fields, density=0.2)
    second = run_trial(**fields, density=0.04)
    assert drop_run_dependent(second) == unshared
    assert (first[-1]["steps_reused"], second[-1]["steps_reused"]) == (0, 1)
    assert first[-1]["prune_seconds"] < 1000 <= second[-1]["prune_seconds"], (
        "reused steps count in the cost of the mask"
    )


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"saliency_batch_size": 64}, {"invert": True}, {"batches_per_step": 2}]
)
def test_trials_that_score_otherwise_share_nothing(changes):
    run_trial()
    assert run_trial(**changes)[-1]["steps_reused"] == 0
    assert run_trial(lr=0.01, density=0.1)[-1]["steps_reused"] == 1


def test_the_pruning_cache_is_bounded(monkeypatch):
    # This is room for the scores of two networks without their state.
    monkeypatch.setattr(reuse, "PRUNING_CACHE_BYTES", 2 * 832 * 4)
    for seed in range(4):
        run_trial(seed=seed)
    assert len(reuse._pruning_caches) < 4
    assert run_trial(seed=0)[-1]["steps_reused"] == 0

"""The checks of a trial before it runs: fields that are refused, its description, and the seconds of its epochs."""

import pytest
from small_trials import make_trial
from torch.optim.optimizer import register_optimizer_step_post_hook

from forcetune import trial
from forcetune.errors import InputError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"density": 0.001}, "density 0.001 keeps none of the 832 prunable weights"),
        ({"train_samples": 1000}, "train_samples 1000: allowed: 2 to 320"),
        ({"model": "mpl"}, "unknown model 'mpl'"),
        ({"dataset": "fashion_mnist", "data_root": "/nowhere"}, "no train-images-idx3-ubyte"),
    ],
)
def test_bad_fields_are_refused_by_check_and_by_run(fields, message):
    for start in (trial.check, lambda trial_fields: next(trial.run(trial_fields))):
        with pytest.raises(InputError, match=message):
            start(make_trial(**fields))


def test_check_describes_the_trial():
    assert trial.check(make_trial(train_samples=100)) == {
        "dataset": "synthetic",
        "model": "mlp of width 12",
        "training": 90,
        "validation": 10,
        "input_shape": (1, 8, 8),
        "classes": 4,
        "prunable": 832,
        "macs": 832,
    }


def test_too_few_samples_of_a_class_are_refused_before_anything_runs():
    with pytest.raises(InputError, match="100 samples of every class need 100"):
        trial.check_saliency(make_trial(method="grasp", samples_per_class=100))
    trial.check_saliency(make_trial(method="grasp"))


def test_seconds_of_an_epoch_are_estimated_from_a_few_steps(monkeypatch):
    prepared = trial.prepare(make_trial(train_samples=320, batch_size=4))
    clock, steps = [0.0], []

    def count_step(*arguments):
        steps.append(arguments)
        clock[0] += 3.0

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    hook = register_optimizer_step_post_hook(count_step)
    try:
        assert trial.measure_epoch_seconds(prepared, 2) == 72 * 3.0, "288 images in batches of 4 at 3 s a step"
    finally:
        hook.remove()
    assert len(steps) == 2 * 2, "two epochs of two steps; the first epoch warms up"

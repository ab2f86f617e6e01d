"""The command `prune`: the network of a study file, of a run, or of options, and what it refuses."""

import pytest
import yaml
from click.testing import CliRunner
from shared_constants import REPOSITORY

from forcetune.cli import main
from forcetune.pruning import load_masks

DIGITS_STUDY = str(REPOSITORY / "search_spaces" / "digits.yaml")
SAMPLED_STUDY = {
    "study": "pruned",
    "trial": {
        "dataset": "synthetic",
        "model": "mlp",
        "width": 12,
        "method": ["random", "snip", "force"],
        "density": {"low": 0.05, "high": 0.5, "log": True},
        "iterations": {"choices": [2, 5], "when": {"method": "force"}},
        "lr": [0.1, 0.2],
        "optimizer": ["sgd", "adamw"],
        "momentum": {"low": 0.5, "high": 0.9, "when": {"optimizer": "sgd"}},
    },
}


def run_prune(*arguments, code=0):
    result = CliRunner().invoke(main, ["prune", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def measure_density(path):
    masks = load_masks(path).values()
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


@pytest.mark.parametrize("method", ["rigl", "gradual_magnitude", "lottery"])
def test_a_method_that_prunes_in_training_has_no_masks_to_print(folder, method):
    options = ("--model", "mlp", "--dataset", "synthetic", "--density", 0.1)
    output = run_prune(*options, "--method", method, code=2)
    assert all(word in output for word in (f"--method {method}", "while the network trains", "allowed: "))


@pytest.fixture
def write_file(folder):
    """Return a function that writes SAMPLED_STUDY with these fields of a trial, and returns the file's name."""

    def write(**fields):
        (folder / "pruned.yaml").write_text(
            yaml.safe_dump({**SAMPLED_STUDY, "trial": {**SAMPLED_STUDY["trial"], **fields}})
        )
        return "pruned.yaml"

    return write


def test_options_set_the_sampled_fields_of_a_file(write_file):
    run_prune(write_file(), "--method", "snip", "--density", "0.25", "--out", "masks.npz")
    assert measure_density("masks.npz") == 0.25, "without the training fields, which the file samples too"


def test_options_may_leave_the_domain_of_a_field(write_file):
    options = ("--method", "iter_snip", "--density", "0.75", "--iterations", "3", "--schedule", "linear")
    run_prune(write_file(density=0.25), *options, "--out", "masks.npz")
    assert measure_density("masks.npz") == 0.75


def test_a_file_may_lack_what_options_set(folder):
    (folder / "mlp.yaml").write_text("study: mlp\ntrial: {dataset: synthetic, model: mlp, width: 12}\n")
    assert "208 of 832 weights" in run_prune("mlp.yaml", "--method", "random", "--density", "0.25")


def test_a_field_with_a_condition_has_its_value(write_file):
    file = write_file(density=0.25, small_dense={"choices": ["macs"], "when": {"method": "random"}})
    assert "small dense" in run_prune(file, "--method", "random")
    assert "small dense" not in run_prune(file, "--method", "snip")


def test_a_run_is_pruned_again(search_study):
    search_study([("snip", 0.25, 0.9), ("force", 0.125, 0.8)])
    run_prune("s/trial-0000", "--out", "first.npz")
    assert measure_density("first.npz") == 0.25
    run_prune("s/trial-0001", "--density", "0.5", "--iterations", "2", "--out", "changed.npz")
    assert measure_density("changed.npz") == 0.5


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (
            (DIGITS_STUDY,),
            [
                "digits.yaml: trial.method: is sampled (one of random_erk, ",
                "set it with --method; trial.density: is sampled (0.005 to 0.5, log)",
                "set it with --density",
            ],
        ),
        (
            (DIGITS_STUDY, "--method", "force", "--density", "0.1", "--iterations", "3"),
            ["digits.yaml: trial.schedule: is sampled (one of exponential, linear", "set it with --schedule"],
        ),
        (("seeds.yaml",), ["seeds.yaml: trial.seed: is sampled (one of 0, 1)", "write one value into the file"]),
        (("seeds.yaml", "--density", "2"), ["trial.seed: is sampled"]),
        (("gone.yaml",), ["gone.yaml: the file cannot be read"]),
        (("digits",), ["digits: there is no such file", "a study file, the id of a run", "digits/trial-0036"]),
        (("gone/trial-0001",), ["this MLflow store has no study 'gone'"]),
        (("s/trial-0009",), ["the study 's' has no run 'trial-0009' (did you mean 'trial-000"]),
        (("s/trial-0000", "--density", "2"), ["trial.density: 2.0 should be less than or equal to 1"]),
        (("s/trial-0000", "--schedule", "cubik"), ["trial.schedule: unknown schedule 'cubik'"]),
        ((), ["--model is missing; required without FILE and RUN: --model, --dataset, --method, --density"]),
    ],
)
def test_a_refusal_is_one_line(search_study, folder, arguments, messages):
    search_study([("snip", 0.25, 0.9)])
    fields = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1, "seed": [0, 1]}
    (folder / "seeds.yaml").write_text(yaml.safe_dump({"study": "seeds", "trial": fields}))
    output = run_prune(*arguments, code=2)
    assert [message for message in messages if message not in output] == []
    assert output.count("\n") == 1


def test_a_field_of_training_that_decides_a_field_of_the_mask_is_named(write_file):
    file = write_file(width={"choices": [12], "when": {"optimizer": "sgd"}})
    output = run_prune(file, "--method", "snip", "--density", "0.25", code=2)
    assert "trial.width: is sampled (one of 12, when optimizer is sgd)" in output

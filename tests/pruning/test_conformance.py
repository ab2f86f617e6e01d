"""The masks of the METHODS table against those of the authors' own programs, bit for bit."""

import json
import math
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from forcetune.pruning import METHODS, SALIENCY_LOSSES, Network, mask_steps

CONFORMANCE_FOLDER = Path(__file__).parents[1] / "data" / "conformance"

FORCETUNE_METHODS = {  # by the program's name of a method
    "force": "force",
    "itersnip": "iter_snip",
    "graspit": "grasp_it",
    "SNIP": "snip",
    "GraSP": "grasp",
    "SynFlow": "synflow",
    "Mag": "magnitude",
}


def mlp():
    sizes = (64, 100, 40, 20, 20, 10)
    layers = [layer for inputs_outputs in pairwise(sizes) for layer in (nn.Linear(*inputs_outputs), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def convbn():
    layers = []
    for inputs, outputs, pool in (
        (3, 16, nn.MaxPool2d(2)),
        (16, 32, nn.MaxPool2d(2)),
        (32, 20, nn.AdaptiveAvgPool2d(1)),
    ):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), pool]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(20, 10))


class Reference:
    """One network's fixed weights and batches, and the authors' masks for it."""

    def __init__(self, network_name):
        self.network_name = network_name
        self.arrays = np.load(CONFORMANCE_FOLDER / f"{network_name}.npz", allow_pickle=False)
        record = json.loads((CONFORMANCE_FOLDER / f"{network_name}.json").read_text())
        self.cases, self.total = record["cases"], record["prunable_total"]
        self.model = {"mlp": mlp, "convbn": convbn}[network_name]()
        parameters = {n.removeprefix("param/"): self.tensor(n) for n in self.arrays.files if n.startswith("param/")}
        self.model.load_state_dict(parameters)
        self.model.double()

    def tensor(self, name):
        return torch.from_numpy(self.arrays[name])

    def batches(self, case):
        if is_official(case):
            # The program sorts its samples by class and takes the gradient of each half; the samples are stored
            # with one of the two densities.
            stored = f"graspofficial_d0.1_{case['name'][-2:]}"
            inputs, targets = self.tensor(f"X_used/{stored}").double(), self.tensor(f"y_used/{stored}")
            return list(zip(inputs.chunk(2), targets.chunk(2), strict=True))
        is_single = case["num_batches"] == 1 and not case["name"].endswith("stream")
        indices = range(1 if is_single else 4)
        return [(self.tensor(f"batch/{i}/x").double(), self.tensor(f"batch/{i}/y")) for i in indices]

    def arguments(self, case):
        """Return the arguments of mask_steps for a case."""
        kept_by_official = (case["kept_final"] + 0.5) / self.total  # one weight more than for its density
        return {
            "batches": self.batches(case),
            "method": FORCETUNE_METHODS[case["method"]],
            "density": kept_by_official if is_official(case) else case["density"],
            "iterations": case.get("T", 1),
            "schedule": schedule(case),
            "batches_per_step": 2 if is_official(case) else case["num_batches"],
            "loss": "nll_logits" if case["loss"] == "nll_logits" else "cross_entropy",
        }

    def masks(self, case):
        """Map each saved step to the program's mask, in float64 where that differs."""
        name = next(n for n in (f"mask64/{case['name']}", f"mask/{case['name']}") if n in self.arrays.files)
        rows = np.unpackbits(self.arrays[name], axis=1)[:, : self.total].astype(bool)
        return dict(zip(case["iterations_saved"], rows, strict=True))

    def comparable_steps(self, case):
        """Return the number of first steps at which the program's masks must equal forcetune's.

        The case's record alone decides it: at these steps both keep the same number of weights.
        """
        if "k_kept_thr" in case:  # the FORCE program records the requested and the kept weights of each step
            # The masks differ from the step on where the program requests another number (linear at density 0.1 ends
            # one weight short of int(N * density)) or keeps more than it requests (it keeps all ties, most of which
            # are zeros of a collapsed network). Later steps score other networks, so only earlier steps count.
            expected_counts = compute_counts(self.total, case)
            equal_steps = [
                requested == kept == expected
                for (requested, kept, *_), expected in zip(case["k_kept_thr"], expected_counts, strict=True)
            ]
            return [*equal_steps, False].index(False)
        if is_official(case):
            return 1
        # The SynFlow program keeps N - int((1 - d_t) * N), at many steps one weight more than forcetune. After many
        # steps (SNIP with T=20, which is FORCE by another name, and SynFlow with T=100) hundreds of weights differ.
        if case["T"] > 1 or case["kept_final"] != int(self.total * case["density"]):
            return 0
        # Forcetune scores with batch norm in train mode. The mlp has no norm, so both modes compute the same.
        by_gradient = case["method"] in {"SNIP", "GraSP"}
        return 0 if self.network_name == "convbn" and by_gradient and case["model_mode"] == "eval" else 1


def is_official(case):
    return case["source"].startswith("alecwangcq")


def schedule(case):
    return {"exp": "exponential", "exponential": "exponential", "linear": "linear"}[
        case.get("mode") or case.get("schedule", "exponential")
    ]


def compute_counts(total, case):
    """Return int(N * d_t) for each step but the last, and int(N * density) for the last."""
    density, steps = case["density"], case["T"]
    share = {
        "exponential": lambda t: math.exp(math.log(density) * t / steps),
        "linear": lambda t: 1 - t * (1 - density) / steps,
    }[schedule(case)]
    return [int(total * share(t)) for t in range(1, steps)] + [int(total * density)]


def flatten(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).numpy()


@pytest.fixture(params=["mlp", "convbn"])
def reference(request):
    return Reference(request.param)


# Each network has 108 cases. Not compared are 6 of each, which round in another way, and 8 of convbn in eval mode.
# A case is compared whole at every saved step, or in part: 9 linear cases without their last step, others until a tie.
COMPARED_CASE_COUNTS = {"mlp": {"whole": 90, "in part": 12}, "convbn": {"whole": 81, "in part": 13}}


def test_masks_are_the_authors(reference):
    compared = {"whole": [], "in part": []}
    differing = []
    for case in reference.cases:
        program_masks = reference.masks(case)
        compared_steps = [step for step in program_masks if step <= reference.comparable_steps(case)]
        if not compared_steps:
            continue
        forcetune_masks = list(islice(mask_steps(reference.model, **reference.arguments(case)), max(compared_steps)))
        differing += [
            (case["name"], number)
            for number in compared_steps
            if not np.array_equal(flatten(forcetune_masks[number - 1]), program_masks[number])
        ]
        compared["whole" if len(compared_steps) == len(program_masks) else "in part"].append(case["name"])
    assert not differing
    assert {kind: len(names) for kind, names in compared.items()} == COMPARED_CASE_COUNTS[reference.network_name]
    assert len(compared["whole"]) >= 75


def test_first_scores_are_the_authors(reference):
    compared_count = 0
    for case in reference.cases:
        array_names = [
            n for n in (f"{kind}/{case['name']}" for kind in ("saliency0", "scores0")) if n in reference.arrays
        ]
        if not array_names or not reference.comparable_steps(case):
            continue
        program_scores, forcetune_scores = (
            reference.arrays[array_names[0]].astype(np.float64),
            compute_first_scores(reference, case),
        )
        # The SynFlow program divides by the sum, and the programs compute in float32
        program_scores, forcetune_scores = (
            program_scores / np.abs(program_scores).sum(),
            forcetune_scores / np.abs(forcetune_scores).sum(),
        )
        np.testing.assert_allclose(
            forcetune_scores, program_scores, rtol=2e-3, atol=1e-5 * program_scores.max(), err_msg=case["name"]
        )
        compared_count += 1
    assert compared_count == {"mlp": 18, "convbn": 14}[reference.network_name]


def compute_first_scores(reference, case):
    arguments = reference.arguments(case)
    method = METHODS[arguments["method"]]
    net = Network(reference.model.train(method.mode == "train"), SALIENCY_LOSSES[arguments["loss"]], seed=0)
    net.batches = arguments["batches"][: arguments["batches_per_step"]]
    net.input_shape = tuple(net.batches[0][0].shape[1:])
    return flatten(method.score(net))

"""Our masks against those of the authors' own programs, bit for bit."""

import json
import math
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from forcetune.pruning import METHODS, SALIENCY_LOSSES, Network, mask_steps

FOLDER = Path(__file__).parents[1] / "data" / "conformance"

OURS = {
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
    layers = [layer for sides in pairwise(sizes) for layer in (nn.Linear(*sides), nn.ReLU())]
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

    def __init__(self, network):
        self.network = network
        self.arrays = np.load(FOLDER / f"{network}.npz", allow_pickle=False)
        described = json.loads((FOLDER / f"{network}.json").read_text())
        self.cases, self.total = described["cases"], described["prunable_total"]
        self.model = {"mlp": mlp, "convbn": convbn}[network]()
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
        one_only = case["num_batches"] == 1 and not case["name"].endswith("stream")
        chosen = range(1 if one_only else 4)
        return [(self.tensor(f"batch/{i}/x").double(), self.tensor(f"batch/{i}/y")) for i in chosen]

    def arguments(self, case):
        """What to ask of mask_steps."""
        kept_by_official = (case["kept_final"] + 0.5) / self.total  # a weight more than its density asks for
        return {
            "batches": self.batches(case),
            "method": OURS[case["method"]],
            "density": kept_by_official if is_official(case) else case["density"],
            "iterations": case.get("T", 1),
            "schedule": schedule(case),
            "batches_per_step": 2 if is_official(case) else case["num_batches"],
            "loss": "nll_logits" if case["loss"] == "nll_logits" else "cross_entropy",
        }

    def masks(self, case):
        """Saved step -> the program's mask; in float64 where that differs."""
        name = next(n for n in (f"mask64/{case['name']}", f"mask/{case['name']}") if n in self.arrays.files)
        rows = np.unpackbits(self.arrays[name], axis=1)[:, : self.total].astype(bool)
        return dict(zip(case["iterations_saved"], rows, strict=True))

    def comparable_steps(self, case):
        """At how many first steps the program was asked for what we are, judged by the case's record alone."""
        if "k_kept_thr" in case:  # the FORCE program, which records the weights asked for and kept at each step
            # We part where the program asks for another number (linear at density 0.1 ends one weight short of
            # int(N * density)) and where it keeps more than it asks for (ties, most of them of zeros when the
            # network falls apart: it keeps them all). From there on the networks differ, so only earlier steps count.
            asked = our_counts(self.total, case)
            same = [k == kept == ours for (k, kept, *_), ours in zip(case["k_kept_thr"], asked, strict=True)]
            return [*same, False].index(False)
        if is_official(case):
            return 1
        # The SynFlow program keeps N - int((1 - d_t) * N), a weight more than we at many steps: iterated (SNIP with
        # T=20, which is FORCE by another name, and SynFlow with T=100) that changes hundreds at the end.
        if case["T"] > 1 or case["kept_final"] != int(self.total * case["density"]):
            return 0
        # We score with batch norm in train mode. The mlp has no norm: there the modes are one.
        by_gradient = case["method"] in {"SNIP", "GraSP"}
        return 0 if self.network == "convbn" and by_gradient and case["model_mode"] == "eval" else 1


def is_official(case):
    return case["source"].startswith("alecwangcq")


def schedule(case):
    return {"exp": "exponential", "exponential": "exponential", "linear": "linear"}[
        case.get("mode") or case.get("schedule", "exponential")
    ]


def our_counts(total, case):
    """int(N * d_t) after each step, int(N * density) after the last."""
    density, steps = case["density"], case["T"]
    at = {
        "exponential": lambda t: math.exp(math.log(density) * t / steps),
        "linear": lambda t: 1 - t * (1 - density) / steps,
    }[schedule(case)]
    return [int(total * at(t)) for t in range(1, steps)] + [int(total * density)]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).numpy()


@pytest.fixture(params=["mlp", "convbn"])
def reference(request):
    return Reference(request.param)


# 108 cases each. Of mlp 6 are of another rounding; of convbn 6 too, and 8 in eval mode.
# Whole: every saved step, the last among them. In part: 9 linear ones without their last step, the rest until a tie.
COMPARED = {"mlp": {"whole": 90, "in part": 12}, "convbn": {"whole": 81, "in part": 13}}


def test_masks_are_the_authors(reference):
    compared = {"whole": [], "in part": []}
    differing = []
    for case in reference.cases:
        theirs = reference.masks(case)
        saved = [step for step in theirs if step <= reference.comparable_steps(case)]
        if not saved:
            continue
        ours = list(islice(mask_steps(reference.model, **reference.arguments(case)), max(saved)))
        differing += [(case["name"], s) for s in saved if not np.array_equal(flat(ours[s - 1]), theirs[s])]
        compared["whole" if len(saved) == len(theirs) else "in part"].append(case["name"])
    assert not differing
    assert {kind: len(names) for kind, names in compared.items()} == COMPARED[reference.network]
    assert len(compared["whole"]) >= 75


def test_first_scores_are_the_authors(reference):
    compared = 0
    for case in reference.cases:
        stored = [n for n in (f"{kind}/{case['name']}" for kind in ("saliency0", "scores0")) if n in reference.arrays]
        if not stored or not reference.comparable_steps(case):
            continue
        theirs, ours = reference.arrays[stored[0]].astype(np.float64), first_scores(reference, case)
        # The SynFlow program divides by the sum; and theirs are float32
        theirs, ours = theirs / np.abs(theirs).sum(), ours / np.abs(ours).sum()
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-5 * theirs.max(), err_msg=case["name"])
        compared += 1
    assert compared == {"mlp": 18, "convbn": 14}[reference.network]


def first_scores(reference, case):
    told = reference.arguments(case)
    row = METHODS[told["method"]]
    net = Network(reference.model.train(row.mode == "train"), SALIENCY_LOSSES[told["loss"]], seed=0)
    net.batches = told["batches"][: told["batches_per_step"]]
    net.input_shape = tuple(net.batches[0][0].shape[1:])
    return flat(row.score(net))

"""The training rules of METHODS against those of the authors' own programs, bit for bit.

The decision of a rule depends on what it is shown: each case shows it the recorded weights, gradients and masks. Where
a program keeps one weight more or less than its own formula asks for, the rule gets the number that the program kept.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from forcetune.pruning import METHODS, SCHEDULES, RulePlan, RuleState, score_network
from forcetune.training import LR_SCHEDULES
from forcetune.training.masked import MaskedDense

RECORDS_FOLDER = Path(__file__).parents[1] / "data" / "conformance_training"
RECORD_NAMES = sorted(path.stem for path in RECORDS_FOLDER.glob("*.json"))


@cache
def load(name):
    """Return the record and the arrays of a file."""
    record = json.loads((RECORDS_FOLDER / f"{name}.json").read_text())
    return record, np.load(RECORDS_FOLDER / f"{name}.npz", allow_pickle=False)


def list_cases(*words):
    """Return the file and the case of each recorded case whose name has one of these words in it."""
    pairs = [(file, case) for file in RECORD_NAMES for case in load(file)[0]["cases"]]
    chosen = [pair for pair in pairs if any(word in pair[1]["name"].lower() for word in words)]
    return [pytest.param(*pair, id=f"{pair[0]}-{pair[1]['name']}") for pair in chosen]


class Reference:
    """The recorded tensors of one case."""

    def __init__(self, file, case):
        self.record, self.arrays = load(file)
        self.name = case["name"]
        self.shapes = dict(self.record["prunable_order"])
        self.total = sum(int(np.prod(shape)) for shape in self.shapes.values())

    def tensors(self, kind, event):
        """Return the recorded numbers of an event by parameter name."""
        return self.split(torch.from_numpy(self.arrays[f"{kind}/{self.name}"][event]))

    def masks(self, kind, event):
        bits = np.unpackbits(self.arrays[f"{kind}/{self.name}"][event])[: self.total]
        return self.split(torch.from_numpy(bits.astype(bool)))

    def split(self, flat):
        segments = flat.split([int(np.prod(shape)) for shape in self.shapes.values()])
        return {
            name: segment.view(*shape) for (name, shape), segment in zip(self.shapes.items(), segments, strict=True)
        }


def make_rule(method, density=0.1, steps=1000, iterations=20, **options):
    row = METHODS[method]
    return row.rule(RulePlan(density, steps, iterations, SCHEDULES["cubic"], {**row.rule_options, **options}))


def show(weights, masks, gradients=None, score=None, draw=None):
    return RuleState(weights, masks, gradients or {}, lambda name: {}, score, draw)


def count(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def assert_equal(masks, expected):
    differing = {name: int((masks[name] != mask).sum()) for name, mask in expected.items()}
    assert differing == dict.fromkeys(expected, 0)


@pytest.mark.parametrize(("file", "case"), list_cases("dpf"))
def test_dynamic_pruning_with_feedback(file, case):
    reference = Reference(file, case)
    last_step = case["ramp_epochs"] * case["steps_per_epoch"]
    rule = make_rule("dpf", 1 - case["final_sparsity"], last_step, settle_at=1, update_interval=case["every"])
    for event, recorded in enumerate(case["events"]):
        step = recorded["iteration"]
        exact = rule.count_after(step, reference.total)
        assert 0 <= exact - recorded["kept"] <= 1, "the program removes one weight more than int(N s)"
        rule.count_after = lambda step, total, kept=recorded["kept"]: kept
        weights = reference.tensors("weights", event)
        masks = rule.after_step(step, show(weights, reference.masks("mask_before", event))).masks
        assert_equal(masks, reference.masks("mask_after", event))
        del rule.count_after


@pytest.mark.parametrize(("file", "case"), list_cases("dpf"))
@pytest.mark.parametrize("event", [0, 1])
def test_feedback_moves_the_weights_underneath(file, case, event):
    """The recorded step of SGD after a change moves pruned weights as well, with momentum and weight decay."""
    reference = Reference(file, case)
    weights, masks = reference.tensors("step_w", event), reference.masks("step_mask", event)
    model = nn.ParameterDict({name.replace(".", "_"): nn.Parameter(weight.clone()) for name, weight in weights.items()})
    masked = MaskedDense(model, {name.replace(".", "_"): mask for name, mask in masks.items()})
    optimizer = torch.optim.SGD(
        model.parameters(),
        case["lr"],
        momentum=case["momentum"],
        weight_decay=case["weight_decay"],
        nesterov=case["nesterov"],
    )
    for name, gradient in reference.tensors("step_g", event).items():
        parameter = model[name.replace(".", "_")]
        assert torch.equal(parameter.detach(), weights[name] * masks[name]), "the network computes with weight * mask"
        parameter.grad = gradient.clone()
        optimizer.state[parameter]["momentum_buffer"] = reference.tensors("step_buf", event)[name].clone()
    masked.gradients()
    optimizer.step()
    masked.weights()
    for name, expected in reference.tensors("step_w_next", event).items():
        torch.testing.assert_close(masked.dense_weights()[name.replace(".", "_")], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("file", "case"), list_cases("rigl"))
def test_rigl(file, case):
    reference = Reference(file, case)
    drop_fraction = case.get("alpha", case.get("drop_fraction"))
    interval, end = case.get("delta", case.get("every")), case.get("T_end", case.get("end"))
    rule = make_rule("rigl", steps=end, settle_at=1, update_interval=interval, drop_fraction=drop_fraction)
    for event, recorded in enumerate(case["updates"]):
        step = recorded["step"]
        if "drop_fraction" in recorded:
            assert rule.fraction_after(step) == pytest.approx(recorded["drop_fraction"], abs=1e-15)
        else:
            replace_fraction(rule, program_fraction(case, step))
        before = reference.masks("mask_before", event)
        weights = reference.tensors("weights", event)
        masks = rule.after_step(step, show(weights, before, reference.tensors("grads", event))).masks
        assert_equal(masks, reference.masks("mask_after", event))
        check_exchange(reference, event, weights, before, masks)


@pytest.mark.parametrize(("file", "case"), list_cases("set_"))
def test_sparse_evolution(file, case):
    reference = Reference(file, case)
    rule = make_rule("set", steps=1000)
    for event, recorded in enumerate(case["updates"]):
        scores = reference.tensors("grow_scores", event)
        replace_fraction(rule, program_fraction(case, recorded["step"]))
        before = reference.masks("mask_before", event)
        momenta, gradients = reference.tensors("momentum", event), reference.tensors("grads", event)
        weights = {  # the step of SGD comes first
            name: weight - case["lr"] * (case["momentum"] * momenta[name] + gradients[name])
            for name, weight in reference.tensors("weights", event).items()
        }
        masks = rule.after_step(recorded["step"], show(weights, before, draw=scores.__getitem__)).masks
        assert_equal(masks, reference.masks("mask_after", event))
        check_exchange(reference, event, weights, before, masks)


def replace_fraction(rule, fraction):
    rule.fraction_after = lambda step: fraction


def program_fraction(case, step):
    """Return the share that google-research/rigl drops: it computes in float32, and rounds the number down."""
    duration = case["end"] - case["begin"]  # while the step itself is counted from 0, not from `begin`
    start, share = np.float32(case["drop_fraction"]), np.float32(min(step, duration)) / np.float32(duration)
    if case["anneal"] == "cosine":
        return float(start * np.float32(0.5) * (1 + np.cos(np.float32(np.pi) * share)))
    if case["anneal"].startswith("exponential"):
        return float(start * (1 - share) ** np.float32(case["anneal"].rpartition("_")[2]))
    return float(start)


def check_exchange(reference, event, weights, before, masks):
    """Check that the loop's duties give the recorded weights: what stays is untouched, what is new begins at 0."""
    after = reference.tensors("weights_after", event)
    for name, mask in masks.items():
        assert int(mask.sum()) == int(before[name].sum())
        assert torch.equal(after[name] * mask, weights[name] * (mask & before[name]))


@pytest.mark.parametrize(("file", "case"), list_cases("gmp_prune"))
def test_gradual_magnitude(file, case):
    reference = Reference(file, case)
    rule = make_rule("gradual_magnitude", case["final_density"])
    for event, recorded in enumerate(case["updates"]):
        rule.count_after = lambda step, total, kept=recorded["kept"]: kept
        state = show(reference.tensors("weights", event), reference.masks("mask_before", event))
        assert_equal(rule.after_step(recorded["step"], state).masks, reference.masks("mask_after", event))


@pytest.mark.parametrize(
    ("file", "case"), [case for case in list_cases("gmp_s") if not case.values[1]["name"].startswith("schedule")]
)
def test_uniform_gradual_magnitude(file, case):
    """The recorded weights are drawn anew for each event, so that each mask is compared by itself."""
    reference = Reference(file, case)
    rule = make_rule("gradual_magnitude_uniform")
    dense = reference.split(torch.ones(reference.total, dtype=torch.bool))
    for event, kept in enumerate(case["kept"]):
        expected = reference.masks("mask_after", event)
        assert count(expected) == kept
        rule.count_after = lambda step, total, kept=kept: kept
        assert_equal(rule.after_step(event, show(reference.tensors("weights", event), dense)).masks, expected)


@pytest.mark.parametrize("power", [3, 1])
def test_the_schedule_of_gradual_magnitude_is_that_of_the_tensorflow_toolkit(power):
    """PolynomialDecay from density 1 in float32; its schedule from other densities is not offered."""
    _, arrays = load("tf_shapes_a")
    name, final, begin, end = {
        3: ("gmp_s0.0-0.9_0-100_p3_every10", 0.9, 0, 100),
        1: ("gmp_s0.0-0.8_10-60_p1_every5", 0.8, 10, 60),
    }[power]
    schedule = SCHEDULES["cubic" if power == 3 else "linear"]
    rows = arrays[f"schedule/{name}"]
    for step in range(begin, end + 1):
        assert 1 - schedule(1 - final, step - begin, end - begin) == pytest.approx(rows[step, 1], abs=2e-6)


@pytest.mark.parametrize(("file", "case"), list_cases("imp_"))
def test_lottery_tickets(file, case):
    """The program removes one weight more than the share that it asks for."""
    reference = Reference(file, case)
    rule = make_rule("lottery", iterations=len(case["levels"]))
    for event, recorded in enumerate(case["levels"]):
        rule.count_after = lambda step, total, kept=recorded["remaining_after"]: kept
        state = show(reference.tensors("weights", event), reference.masks("mask_before", event))
        change = rule.after_step(event, state)
        assert change.rewind == "weights"
        assert_equal(change.masks, reference.masks("mask_after", event))


def test_the_learning_rate_of_the_lottery_tickets_program():
    _, arrays = load("lottery_conv_a")
    rates = [0.1 * LR_SCHEDULES["step"](step / 80) for step in range(80)]
    assert rates == pytest.approx(arrays["lr/milestones"].tolist(), rel=1e-12)


@pytest.mark.parametrize(("file", "case"), list_cases("during"))
def test_snip_it_during_training(file, case, build_layers):
    reference = Reference(file, case)
    record, arrays = reference.record, reference.arrays
    loss = {"ce": functional.cross_entropy, "nll_logits": functional.nll_loss}[case["loss"]]
    rule = make_rule("snip_it_training", 1 - case["limit"], iterations=7)
    model = build_layers(record["layers"])
    for event, recorded in enumerate(case["events"]):
        prefix = f"event/{case['name']}/{event}/"
        state = {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}
        model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=False)
        before = reference.masks("mask_before", event)
        batches = [
            (torch.from_numpy(arrays[f"batch/{i}/x"]).double(), torch.from_numpy(arrays[f"batch/{i}/y"]))
            for i in recorded["batches"]
        ]

        def score(saliency, before=before, batches=batches):
            return score_network(model, before, batches, saliency, loss, 0)

        weights = {name: dict(model.named_parameters())[name].detach() for name in reference.shapes}
        rule.count_after = lambda step, total, kept=recorded["kept"]: kept
        masks = rule.after_step(event, show(weights, before, score=score)).masks
        assert_equal(masks, reference.masks("mask_after", event))


def test_the_targets_of_snip_it_during_training():
    """Seven targets, each halfway from the one before to the last: s - (s - 1/2) / 2^i."""
    case = next(case for case in load("structured_mlp")[0]["cases"] if "l0.95" in case["name"])
    total = Reference("structured_mlp", case).total
    plan = RulePlan(0.05, 800, 7, SCHEDULES["halving"], METHODS["snip_it_training"].rule_options)
    rule = METHODS["snip_it_training"].rule(plan)
    assert rule.event_steps == [80, 120, 160, 200, 240, 280, 320], "of 80 epochs: 8, 12, ... 32"
    counts = [rule.count_after(step, total) for step in rule.event_steps]
    requested = [event["k_requested"] for event in case["events"]]
    assert counts == pytest.approx(requested, abs=1)


def test_the_documents_count_the_cases():
    """Each row of the table of the page has the cases and changes that are recorded."""
    words = {
        "snip_it_training": ("during",),
        "gradual_magnitude": ("gmp_prune",),
        "gradual_magnitude_uniform": ("gmp_s",),
        "dpf": ("dpf",),
        "lottery": ("imp_",),
        "rigl": ("rigl",),
        "set": ("set_",),
    }
    page = (Path(__file__).parents[2] / "docs" / "guide" / "while-training.md").read_text()
    for method, parts_of_names in words.items():
        cases = [parameter.values[1] for parameter in list_cases(*parts_of_names)]
        compared = [case for case in cases if not case["name"].startswith("schedule")]
        changes = sum(
            len(case.get("events") or case.get("updates") or case.get("levels") or case["kept"]) for case in compared
        )
        assert f"| `{method}` | {len(compared)} | {changes} |" in page

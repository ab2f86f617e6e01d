"""The objectives, constraints, functions and search of a study, and what is refused of them."""

import pytest

from forcetune.errors import InputError
from forcetune.study import Search, Study, check_reported

SNIP_TRIAL = {
    "dataset": "synthetic",
    "model": "mlp",
    "method": "snip",
    "density": {"low": 0.01, "high": 0.4, "log": True},
}


def parse_study(**top):
    return Study.from_dict({"study": "s", "trial": SNIP_TRIAL, **top})


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "my_wishes.py").write_text(
        "def latency(model, example): return {}\ndef f1(logits, targets): return 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_objectives_with_and_without_a_reference():
    study = parse_study(objectives={"val_loss": {"direction": "min", "reference": 2.3}, "density": "min"})
    assert study.directions == {"val_loss": "min", "density": "min"}
    assert study.references(0.1) == {"val_loss": 2.3, "density": 0.4}
    assert parse_study().references(0.25) == {"val_accuracy": 0.25, "density": 0.4}


def test_constraints_bound_from_above_below_or_both():
    task = parse_study(
        constraints={"macs": 10e3, "effective_density": {"min": 0.001}, "sparsity": {"min": 0.1, "max": 0.9}}
    ).task
    allowed = {"macs": 10e3, "effective_density": 0.001, "sparsity": 0.9}
    assert task.find_violation(allowed) is None, "the bounds are allowed"
    assert task.find_violation({**allowed, "macs": 10_001}) == "macs 10001 is above the constraint's max 10000"
    assert (
        task.find_violation({**allowed, "effective_density": 0.0})
        == "effective_density 0 is below the constraint's min 0.001"
    )
    assert task.find_violation({**allowed, "sparsity": 0.05}) == "sparsity 0.05 is below the constraint's min 0.1"
    assert task.find_violation({**allowed, "sparsity": float("nan")}), "a value that is no number violates a bound"


@pytest.mark.parametrize(
    ("top", "message"),
    [
        (
            {"constraints": {"val_accuracy": 0.5}},
            "constraints.val_accuracy: is not known before training; allowed: density",
        ),
        ({"constraints": {"mac": 5}}, r"constraints.mac: no trial reports this metric \(did you mean 'macs'\?\)"),
        ({"constraints": {"macs": {}}}, "constraints.macs: has no bound; allowed: a number"),
        ({"constraints": {"macs": {"mx": 1}}}, r"constraints.macs.mx: unknown key .*; allowed: min, max"),
        ({"constraints": {"macs": "10"}}, "constraints.macs: '10' should be a valid number"),
        ({"objectives": {"density": {"direction": "min"}}}, "objectives.density.reference: is missing"),
        ({"objectives": {"val_f1": "max"}}, "objectives.val_f1: no trial reports this metric"),
        ({"trial": {**SNIP_TRIAL, "equal_compute": True}}, "search.stopping: trials at equal compute .* allowed: none"),
        ({"objectives": {"mask_density": "min"}}, "objectives.mask_density: only methods that prune while training"),
        ({"loss": "mse"}, "loss: unknown loss 'mse'; allowed: cross_entropy, or package.module:function"),
        ({"measure": "latency"}, "measure: unknown measure 'latency'; allowed: package.module:function"),
        ({"measure": "my_wishes:latncy"}, r"my_wishes has no function 'latncy' \(did you mean 'latency'\?\)"),
        ({"search": {"stopping": "asha"}}, "search.stopping: 'asha' should be 'pareto', 'safe' or 'none'"),
        ({"search": {"budget": {}}}, "search.budget: is empty; allowed: hours, device_hours"),
        ({"search": {"seeds": {"front": 0}}}, "search.seeds.front: 0 should be greater"),
        ({"search": {"seeds": 3}}, "search.seeds: 3 must be a mapping .* front"),
        (
            {"search": {"patience": {"trials": 3, "gain": 0.1}}, "objectives": {"macs": "min"}},
            "objectives.macs: `patience` needs the hypervolume, .* {direction: min, reference: ...}",
        ),
    ],
)
def test_bad_keys_are_refused(top, message, user_module):
    with pytest.raises(InputError, match=message):
        parse_study(**top)


def test_a_grid_is_stopped_early_only_where_it_asks_for_it():
    grid = {"trial": {**SNIP_TRIAL, "density": [0.1, 0.2]}}
    assert parse_study().stopping == "pareto"
    assert parse_study(**grid, search={"sampler": "grid"}).stopping == "none"
    assert parse_study(**grid, search={"sampler": "grid", "stopping": "safe"}).stopping == "safe"


def test_the_metrics_that_were_reported_decide(user_module):
    study = parse_study(
        measure="my_wishes:latency",
        metrics="my_wishes:f1",
        objectives={"val_f1": "max", "latency_ms": "min"},
        constraints={"latency_ms": 5},
    )
    check_reported(study, ["density", "latency_ms"], ["density", "latency_ms", "val_f1"])
    with pytest.raises(InputError, match="constraints.latency_ms: no trial reports this metric"):
        check_reported(study, ["density"], ["density", "latency_ms", "val_f1"])
    with pytest.raises(InputError, match=r"objectives.val_f1: no trial reports .*did you mean 'val_f2'"):
        check_reported(study, ["latency_ms"], ["latency_ms", "val_f2"])


def test_keys_at_their_defaults_are_not_part_of_the_identity():
    assert parse_study().identity == {
        "study": "s",
        "trial": SNIP_TRIAL,
        "objectives": {"val_accuracy": "max", "density": "min"},
    }
    assert "constraints" in parse_study(constraints={"macs": 5}).identity


def test_companions_alone_see_the_test_images():
    study = Study.from_dict(
        {"study": "s", "trial": {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1}}
    )
    assert not study.task.tested
    assert study.make_companion(Search()).task.tested

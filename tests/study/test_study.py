"""The validation of a whole study file: what is there, where, and what is allowed."""

import pytest

from forcetune.errors import InputError
from forcetune.study import Choice, Fixed, Range, Study

TWO_METHOD_TRIAL = {
    "dataset": "synthetic",
    "model": "mlp",
    "method": ["snip", "force"],
    "density": {"low": 0.01, "high": 0.5},
}


def parse_study(trial=None, **top):
    return Study.from_dict({"study": "s", "trial": {**TWO_METHOD_TRIAL, **(trial or {})}, **top})


def test_domains():
    space = parse_study({"epochs": 3, "lr": {"low": 0.1, "high": 1.0, "log": True}, "batch_size": [32, 64]}).space
    assert space["epochs"] == Fixed(3)
    assert space["lr"] == Range(0.1, 1.0, log=True)
    assert space["batch_size"] == Choice([32, 64])
    assert space["density"] == Range(0.01, 0.5)


def test_defaults():
    study = parse_study()
    assert study.objectives == {"val_accuracy": "max", "density": "min"}
    assert (study.trials, study.search.sampler, study.resources.cpus) == (32, "tpe", 1)


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ({"densty": 0.1}, "trial.densty: unknown key .did you mean 'density'"),
        ({"method": "snp"}, "trial.method: unknown method 'snp' .did you mean 'snip'"),
        ({"method": ["snip", "snp"]}, "trial.method: unknown method 'snp'"),
        ({"density": 0}, "trial.density: 0 should be greater than 0"),
        ({"density": 1.5}, "trial.density: 1.5 should be less than or equal to 1"),
        ({"density": [0.1, 2]}, r"trial.density\[1\]: 2 should be"),
        ({"density": {"low": 0, "high": 0.5}}, "trial.density.low: 0 should be greater than 0"),
        ({"epochs": -1}, "trial.epochs: -1 should be greater than or equal to 1"),
        ({"epochs": 2.5}, "trial.epochs: 2.5 should be a valid integer"),
        ({"epochs": True}, "trial.epochs: True should be a valid integer"),
        ({"lr": {"low": 1.0, "high": 0.1}}, "trial.lr: low 1.0 is greater than high 0.1"),
        ({"lr": {"low": 0.1}}, "trial.lr.high: is missing"),
        ({"lr": {"low": 0.1, "high": 1, "logg": True}}, "trial.lr.logg: unknown key .did you mean 'log'"),
        ({"weight_decay": {"low": 0, "high": 1, "log": True}}, "above 0 in a log range"),
        ({"epochs": {"low": 1, "high": 9, "step": 0.5}}, "trial.epochs.step: 0.5 .*allowed: a number above 0"),
        ({"batch_size": []}, "trial.batch_size: the list is empty"),
        ({"batch_size": [32, 32]}, "trial.batch_size: 32 .*twice"),
        ({"lr": {"from": 1}}, "is not a domain"),
        ({"width": {"choices": [8], "when": {"metod": "snip"}}}, "trial.width.when.metod: .*did you mean 'method'"),
        ({"width": {"choices": [8], "when": {"method": "grasp"}}}, "'grasp' is not .*; allowed: snip, force"),
        ({"width": {"choices": [8], "when": {"density": 0.1}}}, "trial.width.when.density: is a range"),
        ({"density": {"low": 0.1, "high": 0.2, "when": {"method": "snip"}}}, "every trial has a density"),
        ({"schedule": "exponentail"}, "trial.schedule: unknown schedule"),
        ({"saliency_loss": "mse"}, "trial.saliency_loss: unknown loss"),
        ({"dataset": "no_such.module:load"}, "trial.dataset: .*no_such.*does not load"),
        ({"model": "forcetune.models:buidl"}, "has no function 'buidl' .did you mean 'build'"),
        ({"lr_schedule": "cos"}, "trial.lr_schedule: 'cos' should be 'cosine', 'step' or 'constant'"),
    ],
)
def test_bad_trial_fields_are_refused(trial, message):
    with pytest.raises(InputError, match=message):
        parse_study(trial)


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ({"objectives": {"accuracy": "max"}}, "objectives.accuracy: no trial reports this metric"),
        ({"objectives": {"density": "maximise"}}, "objectives.density: 'maximise' should be 'max' or 'min'"),
        ({"objectives": {}}, "objectives"),
        ({"search": {"trials": 0}}, "search.trials: 0 should be greater than or equal to 1"),
        ({"search": {"sampelr": "tpe"}}, "search.sampelr: unknown key .did you mean 'sampler'"),
        ({"search": {"sampler": "grid"}}, "trial.density: a range cannot be used with `sampler: grid`"),
        ({"resources": {"cpus": 0}}, "resources.cpus: 0 should be greater than 0"),
        ({"resources": {"gpu_type": "H100"}}, "resources.gpu_type: names H100, but `gpus` is 0"),
        ({"resources": {"gpus": 1, "gpu_type": ["a b"]}}, "resources.gpu_type: .*one of Ray's accelerator types"),
        ({"on_end": "notify"}, "on_end: 'notify' should be a valid list"),
        ({"budget": 3}, "budget: unknown key"),
        ({"study": "a/b"}, "study: 'a/b' is not a valid name"),
        ({"study": "x.companion"}, "names that end in .companion"),
    ],
)
def test_bad_study_keys_are_refused(top, message):
    with pytest.raises(InputError, match=message):
        parse_study(**top)


def parse_with_start(*configurations, **search):
    trial = {
        "iterations": {"low": 2, "high": 50, "when": {"method": "force"}},
        "lr": {"low": 0.1, "high": 0.5, "step": 0.1},
        "epochs": 3,
    }
    return parse_study(trial, search={"start": list(configurations), **search})


def test_start_configurations():
    study = parse_with_start(
        {"iterations": 7, "method": "force"}, {"lr": 0.3, "density": 0.25, "epochs": 3}, {"method": "snip"}
    )
    assert study.start == [
        {"method": "force", "iterations": 7},
        {"density": 0.25, "lr": 0.3, "epochs": 3},
        {"method": "snip"},
    ]


@pytest.mark.parametrize(
    ("configurations", "message"),
    [
        ([{}, {"density": 0.6}], "search.start.1.density: 0.6 is not in the domain of trial.density; allowed: 0.01 to"),
        ([{"density": "dense"}], "search.start.0.density: 'dense' should be a valid number"),
        ([{"method": "grasp"}], "search.start.0.method: 'grasp' .* allowed: one of snip, force"),
        ([{"methd": "snip"}], "search.start.0.methd: .* .did you mean 'method'"),
        ([{"width": 3}], "search.start.0.width: the study's trial has no such field"),
        ([{"epochs": 4}], "search.start.0.epochs: 4 is not in the domain of trial.epochs; allowed: 3"),
        ([{"lr": 0.25}], "search.start.0.lr: 0.25 .* allowed: 0.1 to 0.5, by 0.1"),
        ([{"iterations": 5}], "search.start.0.iterations: depends on method"),
        (
            [{"method": "snip", "iterations": 5}],
            "search.start.0.iterations: a trial with method snip has no iterations",
        ),
        ([{"method": "snip"}, {"method": "snip"}], "search.start.1: is the same as search.start.0"),
        (["snip"], "search.start.0: 'snip' should be a valid dictionary"),
    ],
)
def test_bad_start_configurations_are_refused(configurations, message):
    with pytest.raises(InputError, match=message):
        parse_with_start(*configurations)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (
            {"start": [{"method": "snip"}, {"method": "force"}], "trials": 1},
            "search.start: has 2 .* only 1 trial",
        ),
        ({"warm_start": ["s"]}, "search.warm_start.0: 's' is this study"),
        ({"warm_start": ["a", "a"]}, "search.warm_start.1: 'a' .*twice"),
        ({"warm_start": ["a"], "sampler": "random"}, "search.warm_start: `sampler: random` cannot learn"),
        ({"warm_start": "a"}, "search.warm_start: 'a' should be a valid list"),
    ],
)
def test_bad_start_and_warm_start_are_refused(search, message):
    with pytest.raises(InputError, match=message):
        parse_study(search=search)


@pytest.mark.parametrize("data", [None, [], "text", {}, {"study": "s"}, {"study": "s", "trial": {}}])
def test_data_that_is_no_study_is_refused(data):
    with pytest.raises(InputError):
        Study.from_dict(data)


def test_conditions_in_a_circle_are_refused():
    with pytest.raises(InputError, match="in a circle: "):
        parse_study(
            {
                "width": {"choices": [4, 8], "when": {"epochs": 1}},
                "epochs": {"choices": [1, 2], "when": {"width": 4}},
            }
        )


def test_a_field_that_does_not_apply_is_absent():
    study = parse_study({"iterations": {"low": 2, "high": 9}, "lr": {"choices": [0.5], "when": {"method": "force"}}})
    snip = study.make_trial({"method": "snip", "density": 0.1})
    assert "iterations" not in snip.fields()
    assert snip.lr == 0.1, "the default applies, since the condition does not hold"
    force = study.make_trial({"method": "force", "density": 0.1, "iterations": 3, "lr": 0.5})
    assert (force.iterations, force.lr) == (3, 0.5)


def test_when_follows_a_chain():
    study = parse_study(
        {
            "iterations": {"choices": [1, 20], "when": {"method": "force"}},
            "schedule": {"choices": ["linear"], "when": {"iterations": 20}},
        }
    )
    chosen = {"method": "force", "iterations": 1}
    assert not study.is_active("schedule", chosen)
    assert study.is_active("schedule", {**chosen, "iterations": 20})
    assert not study.is_active("schedule", {"method": "snip"})


def test_a_grid_has_each_combination_once():
    study = parse_study(
        {"density": [0.1, 0.2], "iterations": {"choices": [5, 10], "when": {"method": "force"}}, "seed": [0, 1]},
        search={"sampler": "grid"},
    )
    combinations = [(t.method, t.density, t.iterations, t.seed) for t in study.grid()]
    # SNIP has 2 densities and 2 seeds; FORCE also has 2 iterations.
    assert len(combinations) == len(set(combinations)) == study.trials == 4 + 8


def test_a_grid_multiplies_only_the_fields_that_apply():
    # SNIP has no iterations even without `when:`, so the two values are one trial.
    study = parse_study({"density": 0.1, "iterations": [5, 10]}, search={"sampler": "grid"})
    assert [(t.method, t.fields().get("iterations")) for t in study.grid()] == [
        ("snip", None),
        ("force", 5),
        ("force", 10),
    ]


def test_trials_bound_a_grid():
    assert parse_study({"density": 0.1}, search={"sampler": "grid", "trials": 1}).trials == 1
    assert parse_study({"density": 0.1}, search={"sampler": "grid", "trials": 9}).trials == 2


def test_combinations_of_some_fields():
    study = parse_study({"width": {"choices": [4, 8], "when": {"method": "force"}}, "seed": [0, 1, 2]})
    assert list(study.combinations(["width"])) == [
        {"method": "snip"},
        {"method": "force", "width": 4},
        {"method": "force", "width": 8},
    ]


FIXED_TRIAL_FIELDS = {"dataset": "digits", "model": "mlp", "method": "snip", "density": 0.1}


def list_grid_fields(**trial):
    study = Study.from_dict({"study": "x", "trial": {**FIXED_TRIAL_FIELDS, **trial}, "search": {"sampler": "grid"}})
    return [trial.fields() for trial in study.grid()]


def test_options_belong_to_the_methods_that_take_them():
    grid_fields = list_grid_fields(method=["snip", "grasp"], temperature=[1.0, 200.0])
    assert [(fields["method"], fields.get("temperature")) for fields in grid_fields] == [
        ("snip", None),
        ("grasp", 1.0),
        ("grasp", 200.0),
    ]


def test_a_balanced_batch_has_no_other_size():
    grid_fields = list_grid_fields(saliency_batch_size=[16, 32], samples_per_class=[0, 5])
    assert [(fields["samples_per_class"], fields.get("saliency_batch_size")) for fields in grid_fields] == [
        (0, 16),
        (0, 32),
        (5, None),
    ]
    assert len(list_grid_fields(saliency_batch_size=[16, 32], method=["grasp", "snip"])) == 3, (
        "grasp's batch is balanced by itself"
    )


def test_controls_are_choices():
    grid_fields = list_grid_fields(shuffle=[False, True], small_dense=["parameters", "macs"])
    assert [(fields["shuffle"], fields["small_dense"]) for fields in grid_fields] == [
        (shuffle, dense) for shuffle in (False, True) for dense in ("parameters", "macs")
    ]


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ({"model": "torchvision:resnet19"}, "trial.model: unknown model 'torchvision:resnet19'"),
        ({"small_dense": "width"}, "trial.small_dense: 'width'"),
        ({"shuffle": "yes"}, "trial.shuffle: 'yes'"),
        ({"samples_per_class": -1}, "trial.samples_per_class: -1"),
        ({"schedule": "cosine"}, "trial.schedule: unknown schedule 'cosine'"),
    ],
)
def test_bad_controls_are_refused(trial, message):
    with pytest.raises(InputError, match=message):
        list_grid_fields(**trial)


@pytest.mark.parametrize("gpus", ["many", -1, True, None, [1], float("nan")])
def test_gpus_are_a_number_or_left_to_a_probe(gpus):
    assert parse_study(resources={"gpus": "auto"}).resources.gpus == "auto"
    assert parse_study(resources={"gpus": 0.5}).resources.gpus == 0.5
    with pytest.raises(InputError, match=r"^resources.gpus: .* should be a number, at least 0, or auto$"):
        parse_study(resources={"gpus": gpus})


def test_gpus_are_not_part_of_the_identity():
    assert parse_study(resources={"gpus": "auto"}).identity == parse_study().identity


@pytest.mark.parametrize("value", [-1, 1.0, 1.5, 0.0, True, "many", [1], float("nan")])
def test_max_failures_is_a_number_or_a_share(value):
    for allowed in (0, 3, 0.2, None):
        assert parse_study(search={"max_failures": allowed}).search.max_failures == allowed
    with pytest.raises(InputError, match=r"^search.max_failures: .* should be a number of trials \(0 or more\), or a"):
        parse_study(search={"max_failures": value})


def test_max_failures_is_not_part_of_the_identity():
    assert parse_study(search={"max_failures": 3}).identity == parse_study().identity


def test_code_in_both_forms_is_not_part_of_the_identity():
    study_file = {"study": "s", "trial": {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1}}
    plain = Study.from_dict(study_file)
    short = Study.from_dict({**study_file, "code": ["nets.py"]})
    long = Study.from_dict({**study_file, "code": {"paths": ["nets.py"], "pip": ["timm"]}})
    assert (plain.shipped_code.paths, plain.shipped_code.pip) == ([], [])
    assert (short.shipped_code.paths, short.shipped_code.pip) == (["nets.py"], [])
    assert (long.shipped_code.paths, long.shipped_code.pip) == (["nets.py"], ["timm"])
    assert plain.identity == short.identity == long.identity


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({"pop": ["timm"]}, r"code.pop: unknown key \(did you mean 'pip'\?\); allowed: paths, pip"),
        ("nets.py", "code: 'nets.py' should be a valid list"),
        ([1], "code.0: 1 should be a valid string"),
    ],
)
def test_bad_code_is_refused(code, message):
    study_file = {"study": "s", "trial": {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1}}
    with pytest.raises(InputError, match=message):
        Study.from_dict({**study_file, "code": code})

"""The sampler of the front: as Optuna's own samplers are used, by itself and inside a study."""

import math
import sys

import made
import optuna
import pytest
from optuna.distributions import FloatDistribution

from forcetune.errors import InputError
from forcetune.execution.checking import check_study
from forcetune.search import front_sampler
from forcetune.search.driver import open_driver
from forcetune.search.front_sampler import WINDOW_TRIALS, FrontSampler
from forcetune.search.proposals import make_proposals
from forcetune.search.samplers import describe_sampler
from forcetune.study import Study
from forcetune.tracking import load_table

optuna.logging.set_verbosity(optuna.logging.WARNING)


def accuracy(method, density, iterations=1):
    cliff = {"random": -1.2, "force": -1.8}[method] - 0.2 * math.log10(iterations)
    return 0.1 + 0.8 / (1 + math.exp(-4 * (math.log10(density) - cliff)))


def objective(trial):
    """Return the accuracy of a made-up network and its density; `iterations` applies with one method alone."""
    density = trial.suggest_float("density", 0.001, 0.5, log=True)
    method = trial.suggest_categorical("method", ["random", "force"])
    iterations = trial.suggest_int("iterations", 1, 50, log=True) if method == "force" else 1
    return accuracy(method, density, iterations), density


def measure_area(study):
    area, best = 0.0, 0.1
    for trial in sorted(study.trials, key=lambda trial: trial.values[1]):
        if trial.values[0] > best:
            area += (trial.values[0] - best) * (math.log10(0.5) - math.log10(trial.values[1]))
            best = trial.values[0]
    return area


def search(sampler, trials=30):
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(objective, trials)
    return study


def test_it_works_by_itself_and_reads_conditions_from_the_trials():
    study = search(FrontSampler(seed=0))
    assert all(("iterations" in trial.params) == (trial.params["method"] == "force") for trial in study.trials)
    assert {trial.params["method"] for trial in study.trials[:2]} == {"random", "force"}
    later = [trial.params["method"] for trial in study.trials[15:]]
    assert later.count("force") > 10, "the better method is asked for more often"


@pytest.mark.parametrize(("number", "value"), [(0.34, 0.3), (0.26, 0.3), (0.11, 0.1)])
def test_a_stepped_range_is_proposed_up_to_its_top(number, value):
    distribution = FloatDistribution(0.1, 0.3, step=0.1)
    assert front_sampler._fit_distribution(number, distribution) == value


def test_it_finds_more_than_random_search():
    areas = {
        name: [measure_area(search(make(seed))) for seed in range(3)]
        for name, make in {
            "front": lambda seed: FrontSampler(seed=seed),
            "random": lambda seed: optuna.samplers.RandomSampler(seed),
        }.items()
    }
    assert min(areas["front"]) > max(areas["random"])


def test_the_same_seed_gives_the_same_trials():
    first, second, other = (search(FrontSampler(seed=seed), 16) for seed in (1, 1, 2))
    assert [trial.params for trial in first.trials] == [trial.params for trial in second.trials]
    assert [trial.params for trial in first.trials] != [trial.params for trial in other.trials]


def test_the_focus_is_where_it_looks():
    study = search(FrontSampler(seed=0, focus=(0.02, 0.05)))
    densities = [trial.params["density"] for trial in study.trials[10:]]
    assert sum(0.01 < density < 0.06 for density in densities) > 0.8 * len(densities)


def test_running_trials_are_taken_into_account():
    """Asked eight times before any ends, it does not ask for the same trial eight times."""
    study = search(FrontSampler(seed=0), 12)
    running = [study.ask() for _ in range(8)]
    for trial in running:
        objective(trial)
    densities = sorted(math.log10(trial.params["density"]) for trial in running)
    assert densities[-1] - densities[0] > 0.3


def test_many_trials_are_cut_to_a_window(monkeypatch):
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=FrontSampler(seed=0))
    distributions = {"density": optuna.distributions.FloatDistribution(0.001, 0.5, log=True)}
    for i in range(WINDOW_TRIALS + 100):
        density = 0.001 * 500 ** (i / 500)
        value = (0.99 if i == 3 else accuracy("force", density)) - 0.01 * (i % 7)
        study.add_trial(
            optuna.trial.create_trial(params={"density": density}, distributions=distributions, values=[value, density])
        )
    sizes = []
    observe = FrontSampler._observe
    monkeypatch.setattr(
        FrontSampler, "_observe", lambda self, s, space, ended: (sizes.append(ended), observe(self, s, space, ended))[1]
    )
    study.ask({"density": distributions["density"]})
    (ended,) = sizes
    assert WINDOW_TRIALS < len(ended) < WINDOW_TRIALS + 100
    assert any(trial.number == 3 for trial in ended), "the front stays, however old it is"


@pytest.mark.parametrize(
    "values",
    [[0.1] * 20, [0.5] * 20, [1.0] * 20, [0.1 + 0.04 * i for i in range(20)]],
    ids=["all collapsed", "constant", "all right", "rising"],
)
def test_odd_values_end_in_a_proposal(values):
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=FrontSampler(seed=0, start_trials=2))
    for value in values:
        trial = study.ask()
        density = trial.suggest_float("density", 0.01, 0.5, log=True)
        study.tell(trial, [value, density])
    assert all(0.01 <= trial.params["density"] <= 0.5 for trial in study.trials)


def test_trials_that_end_in_nan_are_failed_ones_and_teach_nothing():
    """Optuna counts a trial whose value is NaN as failed, and the driver never tells a sampler of one."""
    calls = iter(range(100))

    def diverge_at_times(trial):
        values = objective(trial)
        return (math.nan, values[1]) if next(calls) % 3 == 0 else values

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=FrontSampler(seed=0))
    study.optimize(diverge_at_times, 24)
    assert [trial.state.name for trial in study.trials].count("FAIL") == 8
    assert all(0.001 <= trial.params["density"] <= 0.5 for trial in study.trials)
    with_all = search(FrontSampler(seed=0), 24)
    assert [trial.params for trial in study.trials] != [trial.params for trial in with_all.trials]


def test_a_proposal_after_2000_trials_sees_a_window_and_the_front(monkeypatch):
    seen_counts = []

    def observe(self, study, space, ended):
        seen_counts.append(len(ended))
        return original(self, study, space, ended)

    original = FrontSampler._observe
    monkeypatch.setattr(FrontSampler, "_observe", observe)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=FrontSampler(seed=0))
    distributions = {
        "density": optuna.distributions.FloatDistribution(0.001, 0.5, log=True),
        "method": optuna.distributions.CategoricalDistribution(["random", "force"]),
    }
    study.add_trials(
        optuna.trial.create_trial(
            params={"density": density, "method": method},
            distributions=distributions,
            values=[accuracy(method, density), density],
        )
        for i in range(2000)
        for density, method in [(0.001 * 500 ** ((i * 0.618) % 1), ("random", "force")[i % 2])]
    )
    trial = study.ask(distributions)
    front_size = len(study.best_trials)
    assert WINDOW_TRIALS <= seen_counts[0] <= WINDOW_TRIALS + front_size
    assert 0.001 <= trial.params["density"] <= 0.5


def make(search, **changed):
    trial = {"dataset": "synthetic", "model": "mlp", "method": ["snip", "force"], "density": {"low": 0.01, "high": 0.5}}
    trial["iterations"] = {"low": 2, "high": 9, "when": {"method": "force"}}
    return Study.from_dict({"study": "s", "trial": trial, "search": search, **changed})


def test_what_it_cannot_model_is_left_to_tpe_and_said():
    assert describe_sampler(make({"sampler": "front"})) == "front"
    cost = make({"sampler": "front"}, objectives={"val_accuracy": "max", "macs_fraction": "min"})
    assert describe_sampler(cost) == "tpe, in place of front: it needs the objectives val_accuracy and density"
    trial = {**make({"sampler": "front"}).trial, "density": [0.1, 0.2]}
    fixed = make({"sampler": "front"}, trial=trial)
    assert describe_sampler(fixed) == "tpe, in place of front: it needs a range of densities"
    assert make_proposals(cost, []).ask()


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"sampler": "frnt"}, "search.sampler: 'frnt' is no sampler .did you mean 'front'.*allowed: tpe, front"),
        ({"sampler": "optuna:"}, "search.sampler.*allowed"),
        ({"sampler": "tpe", "sampler_options": {"seed": 1}}, "search.sampler_options: `sampler: tpe` takes none"),
        ({"sampler": "tpe", "focus": {"sparsity": [0.8, 0.9]}}, "search.focus.*has no focus; allowed: front"),
        ({"sampler": "front", "focus": {"sparsity": [0.9, 0.8]}}, "search.focus.sparsity.*rising sparsities"),
        ({"sampler": "front", "focus": {"sparsity": [0.9, 0.999]}}, "search.focus.sparsity.*from 0.5 to 0.99"),
        ({"sampler": "front", "focus": {"sparsity": [0.9]}}, "search.focus.sparsity"),
        ({"sampler": "no_such_module:sampler"}, "search.sampler.*'no_such_module' does not load"),
    ],
)
def test_bad_samplers_are_refused(search, message):
    with pytest.raises(InputError, match=message):
        make(search)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"sampler": "optuna:GPSmpler"}, "Optuna has no sampler 'GPSmpler' .did you mean 'GPSampler'"),
        ({"sampler": "optuna:TPESampler", "sampler_options": {"depth": 3}}, "with search.sampler_options.*TypeError"),
        ({"sampler": "my_samplers:not_one"}, "returns a list; allowed: an optuna.samplers.BaseSampler"),
        ({"sampler": "my_samplers:broken"}, "with search.sampler_options empty it raised RuntimeError: no"),
    ],
)
def test_samplers_that_cannot_be_made_are_refused_by_check(search, message, my_samplers):
    with pytest.raises(InputError, match=message):
        check_study(make(search))


@pytest.fixture
def my_samplers(tmp_path, monkeypatch):
    (tmp_path / "my_samplers.py").write_text(
        "import optuna\n\n\n"
        "def not_one():\n    return []\n\n\n"
        "def broken():\n    raise RuntimeError('no')\n\n\n"
        "class Outside(optuna.samplers.RandomSampler):\n"
        "    def sample_independent(self, study, trial, name, space):\n"
        "        return 7.0 if name == 'density' else super().sample_independent(study, trial, name, space)\n\n\n"
        "class Raising(optuna.samplers.RandomSampler):\n"
        "    def sample_relative(self, study, trial, space):\n        raise KeyError('lost')\n\n\n"
        "class Wordy(optuna.samplers.RandomSampler):\n"
        "    def sample_independent(self, study, trial, name, space):\n"
        "        return 'dense'\n\n\n"
        "class Undefined(optuna.samplers.RandomSampler):\n"
        "    def sample_independent(self, study, trial, name, space):\n"
        "        return float('nan')\n\n\n"
        "class Incomplete(optuna.samplers.RandomSampler):\n"
        "    def sample_relative(self, study, trial, space):\n        import no_such_package\n\n\n"
        "class Mine(optuna.samplers.RandomSampler):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_samplers", None)


def test_a_sampler_of_the_users_own(my_samplers):
    proposal = make_proposals(make({"sampler": "my_samplers:Mine"}), []).ask()
    assert 0.01 <= proposal.trial.density <= 0.5
    with pytest.raises(
        InputError, match=r"my_samplers:Outside proposes density 7.0.*not in the domain of trial.density"
    ):
        make_proposals(make({"sampler": "my_samplers:Outside"}), []).ask()
    with pytest.raises(
        InputError, match=r"my_samplers:Raising raised KeyError when it was asked.*goes on with another"
    ):
        make_proposals(make({"sampler": "my_samplers:Raising"}), []).ask()


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("Wordy", r"my_samplers:Wordy raised ValueError .*dense.*keeps its trials"),
        ("Undefined", r"my_samplers:Undefined raised ValueError .*nan.*keeps its trials"),
        ("Incomplete", r"my_samplers:Incomplete raised ModuleNotFoundError .*no_such_package"),
    ],
)
def test_a_sampler_that_proposes_nonsense_or_lacks_a_package(my_samplers, sampler, message):
    with pytest.raises(InputError, match=message) as refusal:
        make_proposals(make({"sampler": f"my_samplers:{sampler}"}), []).ask()
    assert "\n" not in str(refusal.value), "it is one paragraph"


def test_a_sampler_of_optunas_that_lacks_a_package_or_cannot_take_two_objectives(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    trial = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": {"low": 0.01, "high": 0.5}}
    study = make(
        {"sampler": "optuna:CmaEsSampler"},
        trial={**trial, "lr": {"low": 0.01, "high": 1.0}},
        objectives={"val_accuracy": "max"},
    )
    proposals = make_proposals(study, [])
    with pytest.raises(InputError, match=r"search.sampler optuna:CmaEsSampler raised \w+ .*cmaes.*keeps its trials"):
        drive(proposals, [0.5])
    two_objectives = make_proposals(make({"sampler": "optuna:CmaEsSampler"}), [])
    with pytest.raises(InputError, match=r"search.sampler optuna:CmaEsSampler raised ValueError .*objective"):
        drive(two_objectives, [0.5, 0.1])


def test_a_module_of_samplers_that_lacks_a_package_is_refused(tmp_path, monkeypatch):
    (tmp_path / "needy_samplers.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"search.sampler.*needy_samplers.*no_such_package"):
        make({"sampler": "needy_samplers:make"})


def test_a_search_whose_sampler_raises_goes_on_with_another(my_samplers, folder, make_study):
    """The trials that it had stay, and none of them is run again."""
    trial = {"density": {"low": 0.05, "high": 0.5}}
    (folder / "late_samplers.py").write_text(
        "import optuna\n\n\n"
        "class Late(optuna.samplers.RandomSampler):\n"
        "    def sample_relative(self, study, trial, space):\n"
        "        if trial.number == 3:\n            raise RuntimeError('no more')\n"
        "        return super().sample_relative(study, trial, space)\n"
    )
    first = made_driver(make_study(trial, search={"sampler": "late_samplers:Late", "trials": 6}))
    keys = []
    with pytest.raises(InputError, match="late_samplers:Late raised RuntimeError"):
        run_trials(first, keys)
    first.close()
    second = made_driver(make_study(trial, search={"sampler": "front", "trials": 6}))
    run_trials(second, keys)
    second.close()
    assert len(keys) == len({*keys}) == 6
    assert (load_table("s").trials["outcome"] == "trained").sum() == 6


def run_trials(driver, keys):
    while assignment := driver.issue():
        keys.append(assignment.trial.key)
        made.end(driver, assignment)


def drive(proposals, values):
    for _ in range(3):
        proposals.tell(proposals.ask(), values)


def made_driver(study):
    driver = open_driver(study, lambda: None, made.QUIET_CONSOLE, references=study.references(0.25))
    driver.describe()
    return driver

"""The sampler of the front: as Optuna's own samplers are used, by itself and inside a study."""

import math

import optuna
import pytest

from forcetune.errors import InputError
from forcetune.execution.checking import check_study
from forcetune.search.front_sampler import WINDOW_TRIALS, FrontSampler
from forcetune.search.proposals import make_proposals
from forcetune.search.samplers import describe_sampler
from forcetune.study import Study

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
        "class Mine(optuna.samplers.RandomSampler):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    import sys

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

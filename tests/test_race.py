"""The arithmetic of the race: fronts at an instant, the time to a level, ratios, and the faults after a kill."""

import json
import os
import subprocess
import sys

import pytest
from shared_constants import REPOSITORY

BENCHMARK_FOLDERS = [REPOSITORY / "benchmarks", REPOSITORY / "benchmarks" / "rivals"]


@pytest.fixture
def racing(monkeypatch):
    """Yield the modules of the race, importable as for its command."""
    for folder in BENCHMARK_FOLDERS:
        monkeypatch.syspath_prepend(folder)
    from racing import arms, kills, report, results, score

    yield {"arms": arms, "kills": kills, "report": report, "results": results, "score": score}
    for name in [name for name in sys.modules if name.split(".")[0] in ("racing", "recipe", "naive")]:
        del sys.modules[name]


def make_trial(racing, ended_s, density, val_accuracy):
    return racing["arms"].RaceTrial(ended_s, {"method": "snip", "density": density, "lr": 0.1}, val_accuracy, density)


def test_a_front_has_the_trials_that_had_ended(racing):
    trials = [make_trial(racing, 1.0, 0.1, 0.6), make_trial(racing, 2.0, 0.1, 0.7), make_trial(racing, 3.0, 0.01, 0.5)]
    front_at = racing["score"].front_at
    assert front_at(trials, 0.5) == []
    assert front_at(trials, 1.0) == trials[:1]
    assert front_at(trials, 2.5) == [trials[1]]
    assert front_at(trials, 3.0) == trials[1:]


def test_a_front_has_nothing_at_chance_or_beyond_the_space(racing):
    trials = [make_trial(racing, 1.0, 1.0, 0.99), make_trial(racing, 1.0, 0.01, 0.1)]
    assert racing["score"].front_at(trials, 2.0) == []


def test_the_curve_counts_fresh_accuracies(racing):
    score, task = racing["score"], {"dataset": "digits"}
    trials = [make_trial(racing, 1.0, 0.05, 0.9), make_trial(racing, 2.0, 0.005, 0.5)]
    fresh_accuracies = {
        score.config_key(task, race_trial.config): race_trial.val_accuracy - 0.2 for race_trial in trials
    }
    first_volume = 1 * (0.7 - 0.1)  # a decade below density 0.5
    assert score.curve(trials, [0.5, 1.0, 2.0], fresh_accuracies, task) == pytest.approx(
        [0, first_volume, first_volume + 1 * (0.3 - 0.1)]
    )


def test_the_instants_end_with_the_budget(racing):
    seconds = racing["score"].instants(50.0)
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(50.0)


def test_the_time_to_a_level_is_the_first_instant_at_it(racing):
    time_to_level, speedup = racing["score"].time_to_level, racing["score"].speedup
    assert time_to_level([1, 2, 3], [0.1, 0.5, 0.4], 0.4) == 2
    assert time_to_level([1, 2, 3], [0.1, 0.5, 0.4], 0.6) is None
    assert time_to_level([1, 2, 3], [0.0, 0.0, 0.4], 0.0) is None, "a reference without a front has no time"
    assert speedup(30.0, 10.0) == 3
    assert speedup(30.0, None) == 0


@pytest.mark.parametrize(
    ("before", "after", "faults"),
    [
        (["a F", "b R"], ["a F", "b F", "c F"], (3, 0, 0, 0)),
        (["a F", "b R"], ["a F", "b R", "c F"], (2, 1, 0, 1)),
        (["a F", "b R"], ["a F", "a F", "b R", "b F"], (2, 0, 1, 1)),
        (["a F", "b R"], [], (0, 2, 0, 0)),
    ],
)
def test_faults_after_a_kill_are_counted(racing, before, after, faults):
    states = {"F": "FINISHED", "R": "RUNNING"}
    rows = [[(row[0], states[row[2]]) for row in column] for column in (before, after)]
    counted_faults = racing["kills"].count_faults("mlflow", *rows)
    assert (counted_faults.finished, counted_faults.lost, counted_faults.doubled, counted_faults.stuck) == faults


def make_run(racing, arm, seconds_and_accuracies, budget_s=100.0):
    trials = [vars(make_trial(racing, second, 0.05, accuracy)) for second, accuracy in seconds_and_accuracies]
    usage = {"cpu_curve": [[0.0, 0.0], [50.0, 60.0], [100.0, 130.0]], "other_cpu_s": 1.0, "wall_s": budget_s}
    content = {"task": "digits", "arm": arm, "seed": 0, "budget_s": budget_s, "trials": trials, **usage}
    return racing["results"].Run("digits", arm, 0, content)


@pytest.fixture
def standings(racing):
    results, score = racing["results"], racing["score"]
    runs = [
        make_run(racing, "forcetune", [(9.9, 0.8), (40, 0.9)]),
        make_run(racing, "tune", [(60, 0.8)]),
        make_run(racing, "tune_asha", [(20, 0.5)]),
        make_run(racing, "without_start", [(29.9, 0.8)]),
    ]
    configs = [race_trial.config for run in runs for race_trial in run.trials]
    assert len({score.config_key({}, config) for config in configs}) == 1
    standings = results.Standings([], {})
    # All configurations are equal, so the accuracies of each run stand for those of fresh seeds.
    for run in runs:
        key = run.task, run.seed, run.arm
        standings.runs[key] = run
        fronts = [score.front_at(run.trials, second) for second in score.instants(run.budget_s)]
        standings.curves[key] = [front[-1].val_accuracy - 0.1 if front else 0.0 for front in fronts]
    return standings


def test_the_reference_is_the_better_of_its_arms(racing, standings):
    assert standings.best_of("digits", 0, racing["arms"].SCRIPT_ARMS) == "tune"
    assert standings.best_of("digits", 0, racing["arms"].PARTS_ARMS) is None
    seconds = racing["score"].instants(100.0)
    reached_s = [next(instant for instant in seconds if instant >= second) for second in (60, 9.9)]
    medians = racing["results"].headline(standings)
    assert medians["total"]["end"] == pytest.approx(reached_s[0] / reached_s[1])
    assert medians["parts"] == {"end": None, "half": None}


def test_the_tables_name_the_arms_that_ran(racing, standings):
    kills = {"tune": {"wanted": 12, "exit_code": 0, "stores": [{"store": "mlflow", "finished": 12, "lost": 0,
                                                                "doubled": 2, "stuck": 1}]}}  # fmt: skip
    text = racing["report"].tables(standings, kills)
    assert "| Ray Tune script, ASHA | 1 | 0.400 | never | never | never | 130 | 0.01 |" in text
    assert "| forcetune without start |" in text
    assert "| Ray Tune script | mlflow | 12 of 12 | 0 | 2 | 1 | ended |" in text


def test_the_picture_is_small(racing, standings, tmp_path):
    racing["report"].draw_picture(standings, tmp_path / "race.svg")
    assert 1000 < (tmp_path / "race.svg").stat().st_size < 200_000


@pytest.mark.parametrize("feature", ["compaction", "shared_steps", "start", "long_lived_workers"])
def test_each_feature_can_be_switched_off(racing, feature):
    arm = racing["arms"].ARMS[f"without_{feature}"]
    code = "import sys, sitecustomize; from importlib import import_module as load\n"
    code += f"name, _ = sitecustomize.SWITCHES[{feature!r}]; module = load(name)\n"
    code += "print([n for n, v in [*vars(module).items(), *vars(getattr(module, 'SampledProposals', object)).items()] "
    code += "if getattr(v, '__module__', '') == 'sitecustomize'])"
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **arm.environment}, capture_output=True, text=True, check=True
    )
    assert len(json.loads(result.stdout.replace("'", '"'))) == (2 if feature == "start" else 1)


def test_a_feature_that_is_gone_fails_the_import(racing):
    environment = {**os.environ, **racing["arms"].ARMS["without_start"].environment}
    code = "import sitecustomize, types; sitecustomize.without_shared_steps(types.ModuleType('empty'))"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "has no find_pruning_cache to switch off" in result.stderr


def test_the_study_of_each_arm_is_valid(racing, tmp_path):
    from forcetune.study import load_study

    for name, arm in racing["arms"].ARMS.items():
        for task in ("fashion", "digits"):
            arm.prepare(tmp_path, task, 1, 10)
            if not arm.script:
                study = load_study(tmp_path / "race.yaml")
                assert study.stopping == ("none" if name == "without_stopping" else "pareto")

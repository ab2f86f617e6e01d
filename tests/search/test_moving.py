"""A study that goes to other stores is there what it was here, whatever is killed in between."""

import pytest
from click.testing import CliRunner

import forcetune
from forcetune import results, run, tracking
from forcetune.cli import main
from forcetune.errors import HeldError, InputError, StoppedError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.ledger.ledger import has_study, load_trials
from forcetune.names import COMPANION
from forcetune.run import examine_study
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import MOVING_SUFFIX

IDS = ["run_id", "started", "ended"]


@pytest.fixture
def stores(folder):
    """The addresses of two other stores."""
    (folder / "there").mkdir()
    return f"sqlite:///{folder}/there/optuna.db", f"sqlite:///{folder}/there/mlflow.db"


@pytest.fixture
def study(searched, lab):
    """A study with twins of its champions beside it."""
    from forcetune import baseline

    made = searched()
    baseline.run(baseline.ChampionStudy("s", 1, (0.7, 0.9)), lab, 2)
    return made


def use(monkeypatch, stores):
    monkeypatch.setenv("FORCETUNE_STORAGE", stores[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stores[1])


def test_everything_is_there_and_nothing_here(study, stores, monkeypatch):
    before, companions = results.load("s"), tracking.load_companions("s")
    records = [trial.user_attrs for trial in load_trials("s", optuna_uri())]
    done = CliRunner().invoke(main, ["move", "s", "--to", stores[0], "--mlflow", stores[1], "--yes"])
    assert done.exit_code == 0, done.output
    assert f"moved: 8 trials of s, {len(companions)} companions" in done.output
    assert f"FORCETUNE_STORAGE={stores[0]}" in done.output
    for name in ("s", "s" + COMPANION):
        assert not has_study(name, optuna_uri())
        assert not tracking.has_experiment(name, mlflow_uri())
    use(monkeypatch, stores)
    after = results.load("s")
    same = [column for column in before if column != "run_id"]
    assert after[same].equals(before[same])
    assert [trial.user_attrs for trial in load_trials("s", optuna_uri())] == records
    assert tracking.load_companions("s")["trial"].tolist() == companions["trial"].tolist()
    assert examine_study("s")[1] == [finding for finding in examine_study("s")[1] if "masks.npz" in finding.what]
    assert forcetune.load_trial("s/trial-0001").run_id == after["run_id"][1]
    assert forcetune.load_trial(before["run_id"][1]).trial == forcetune.load_trial(after["run_id"][1]).trial


@pytest.mark.parametrize("broken", ["copy_experiment", "find_difference", "delete_experiment"])
def test_after_a_kill_the_same_command_goes_on(study, stores, monkeypatch, broken):
    count = {"left": 1}
    original = getattr(tracking, broken)

    def die(*arguments):
        if not count["left"]:
            raise KeyboardInterrupt
        count["left"] -= 1
        return original(*arguments)

    table = results.load("s")
    with monkeypatch.context() as patch:
        patch.setattr(tracking, broken, die)
        with pytest.raises(KeyboardInterrupt):
            run.move_study("s", *stores, print)
    run.move_study("s", *stores, print)
    use(monkeypatch, stores)
    assert results.load("s")["trial"].tolist() == table["trial"].tolist()
    assert not has_study("s" + MOVING_SUFFIX, optuna_uri())
    assert len(tracking.load_companions("s")) > 0


def test_a_copy_that_differs_keeps_both(study, stores, monkeypatch):
    monkeypatch.setattr(tracking, "find_difference", lambda *names: "the copy lacks the run x")
    with pytest.raises(StoppedError, match="the copy lacks the run x; both are kept"):
        run.move_study("s", *stores, print)
    assert len(results.load("s")) == 8


def test_one_store_alone(study, stores, monkeypatch):
    run.move_study("s", stores[0], None, print)
    monkeypatch.setenv("FORCETUNE_STORAGE", stores[0])
    assert len(load_trials("s", optuna_uri())) == 8
    assert len(results.load("s")) == 8


def test_another_study_of_that_name_is_kept(study, stores, searched, monkeypatch):
    with monkeypatch.context() as patch:
        use(patch, stores)
        searched([("snip", 0.3, 0.9)])
    with pytest.raises(InputError, match="'s'.*nothing (is|was) moved"):
        run.move_study("s", *stores, print)
    with pytest.raises(InputError, match="study 's'; nothing was moved"):
        run.move_study("s", stores[0], None, print)
    assert len(results.load("s")) == 8


def test_what_makes_no_sense_is_refused(study, stores):
    for options, message in [
        ((None, None), "allowed: --to STORAGE"),
        ((optuna_uri(), None), "the study is already there"),
        ((None, "mlruns"), "--mlflow mlruns: .*; allowed: http://HOST:PORT"),
    ]:
        with pytest.raises(InputError, match=message):
            run.move_study("s", *options, print)
    with pytest.raises(InputError, match="neither .* has a study 'x'"):
        run.move_study("x", *stores, print)
    asked = CliRunner().invoke(main, ["move", "s", "--to", stores[0]])
    assert asked.exit_code == 2
    with driver_lock("s", optuna_uri()), pytest.raises(HeldError):
        run.move_study("s", *stores, print)

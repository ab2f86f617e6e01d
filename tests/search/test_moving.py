"""The move of a study to other stores, which changes nothing of the study, whatever is killed in between."""

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

import forcetune
from forcetune import run, tracking
from forcetune.cli import main
from forcetune.errors import HeldError, InputError, StoppedError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.ledger.storage import has_study
from forcetune.ledger.trials import load_trials
from forcetune.names import COMPANION
from forcetune.report import results
from forcetune.run import examine_study
from forcetune.search import moving
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import MOVING_SUFFIX, copying

IDS = ["run_id", "started", "ended"]


@pytest.fixture
def stores(folder):
    """Return the addresses of two other stores."""
    (folder / "there").mkdir()
    return f"sqlite:///{folder}/there/optuna.db", f"sqlite:///{folder}/there/mlflow.db"


@pytest.fixture
def study(search_study, companion_runner):
    """Return a study whose champions have twins."""
    from forcetune import baseline

    searched_study = search_study()
    baseline.run(baseline.ChampionStudy("s", 1, (0.7, 0.9)), companion_runner, 2)
    return searched_study


def use_stores(monkeypatch, stores):
    monkeypatch.setenv("FORCETUNE_STORAGE", stores[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stores[1])


def test_everything_is_in_the_new_stores_and_nothing_in_the_old_ones(study, stores, monkeypatch):
    before, companions = results.load("s").trials, tracking.load_companions("s")
    records = [trial.user_attrs for trial in load_trials("s", optuna_uri())]
    result = CliRunner().invoke(main, ["move", "s", "--to", stores[0], "--mlflow", stores[1], "--yes"])
    assert result.exit_code == 0, result.output
    assert f"moved: 8 trials of s and {len(companions)} companions and " in result.output
    assert f"FORCETUNE_STORAGE={stores[0]}" in result.output
    for name in ("s", "s" + COMPANION):
        assert not has_study(name, optuna_uri())
        assert not tracking.has_experiment(name, mlflow_uri())
    use_stores(monkeypatch, stores)
    after = results.load("s").trials
    assert tracking.load_study_file("s")["study"] == "s", "the artifacts were moved"
    columns = [column for column in before if column != "run_id"]
    assert after[columns].equals(before[columns])
    assert [trial.user_attrs for trial in load_trials("s", optuna_uri())] == records
    assert tracking.load_companions("s")["trial"].tolist() == companions["trial"].tolist()
    assert examine_study("s")[1] == [finding for finding in examine_study("s")[1] if "masks.npz" in finding.what]
    assert forcetune.load_trial("s/trial-0001").run_id == after["run_id"][1]
    for short_id in ("a", "%", before["run_id"][1][:31]):
        with pytest.raises(InputError, match="there is no run"):
            forcetune.load_trial(short_id)
    assert forcetune.load_trial(before["run_id"][1]).trial == forcetune.load_trial(after["run_id"][1]).trial


@pytest.mark.parametrize(
    ("module", "function", "calls_before"),
    [
        (tracking, "copy_experiment", 1),
        (copying, "_copy_run", 3),
        (copying, "_find_difference", 0),
        (moving, "rename_study", 0),
        (moving, "rename_study", 1),
        (tracking, "delete_experiment", 0),
        (moving, "delete_study", 0),
    ],
)
def test_after_a_kill_the_same_command_goes_on(study, stores, monkeypatch, module, function, calls_before):
    calls = {"left": calls_before}
    original = getattr(module, function)

    def die(*arguments):
        if not calls["left"]:
            raise KeyboardInterrupt
        calls["left"] -= 1
        return original(*arguments)

    table = results.load("s").trials
    with monkeypatch.context() as patch:
        patch.setattr(module, function, die)
        with pytest.raises(KeyboardInterrupt):
            run.move_study("s", *stores, print)
    run.move_study("s", *stores, print)
    use_stores(monkeypatch, stores)
    assert results.load("s").trials["trial"].tolist() == table["trial"].tolist()
    assert not has_study("s" + MOVING_SUFFIX, optuna_uri())
    assert len(tracking.load_companions("s")) > 0


def test_a_copy_that_differs_keeps_both(study, stores, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(copying, "_find_difference", lambda *runs: "the copy lacks the run x")
        with pytest.raises(StoppedError, match=r"the copy lacks the run x\. Both are kept"):
            run.move_study("s", *stores, print)
    assert len(results.load("s").trials) == 8
    run.move_study("s", *stores, print)
    assert not tracking.has_experiment("s", mlflow_uri())


@pytest.mark.parametrize("content", ["params", "metrics", "artifacts", "tags", "data sets"])
def test_a_copy_that_lacks_content_of_a_run_is_refused(study, stores, monkeypatch, content):
    functions = {"params": "log_batch", "metrics": "log_batch", "artifacts": "log_artifacts", "tags": "create_run"}
    function = functions.get(content, "log_inputs")
    if content == "data sets":
        dataset = {"name": "d", "root": None, "digest": "0" * 16, "train_samples": 9, "test_samples": 3, "classes": 2}
        tracking.Tracker("s", mlflow_uri()).log_dataset(tracking.load_table("s").trials["run_id"][0], dataset)
    original = getattr(MlflowClient, function)

    def leave_out(client, *arguments, **options):
        if content in options or content in ("artifacts", "data sets"):
            return None
        if content == "tags":
            tags = {tag: text for tag, text in arguments[2].items() if tag != "forcetune.outcome"}
            return original(client, *arguments[:2], tags, *arguments[3:])
        return original(client, *arguments, **options)

    monkeypatch.setattr(MlflowClient, function, leave_out)
    with pytest.raises(StoppedError, match=f"and its copy differ in .*{content}"):
        run.move_study("s", None, stores[1], print)
    assert len(results.load("s").trials) == 8


def test_trials_that_were_searched_after_a_move_are_kept(study, stores, search_study):
    run.move_study("s", *stores, print)
    search_study([("snip", 0.3, 0.9)])  # in the old stores, which the environment still names
    for targets in (stores, (stores[0], None)):
        with pytest.raises(InputError, match="which differs from the one here; nothing was moved"):
            run.move_study("s", *targets, print)
    assert len(results.load("s").trials) == 1
    assert len(load_trials("s", optuna_uri())) == 1


def test_one_store_is_moved_alone(study, stores, monkeypatch):
    run.move_study("s", stores[0], None, print)
    monkeypatch.setenv("FORCETUNE_STORAGE", stores[0])
    assert len(load_trials("s", optuna_uri())) == 8
    assert len(results.load("s").trials) == 8


def test_another_study_of_that_name_is_kept(study, stores, search_study, monkeypatch):
    with monkeypatch.context() as patch:
        use_stores(patch, stores)
        search_study([("snip", 0.3, 0.9)])
    with pytest.raises(InputError, match="already has an experiment 's'"):
        run.move_study("s", *stores, print)
    with pytest.raises(InputError, match="already has a study 's'"):
        run.move_study("s", stores[0], None, print)
    assert len(results.load("s").trials) == 8


def test_a_move_that_makes_no_sense_is_refused(study, stores):
    for options, message in [
        ((None, None), "allowed: --to STORAGE"),
        ((optuna_uri(), None), "the study is already there"),
        ((None, "mlruns"), "--mlflow mlruns: .*; allowed: http://HOST:PORT"),
        (("optuna.db", None), "--to optuna.db: .*; allowed: sqlite:///FILE"),
    ]:
        with pytest.raises(InputError, match=message):
            run.move_study("s", *options, print)
    with pytest.raises(InputError, match="neither .* has a study 'x'"):
        run.move_study("x", *stores, print)
    result = CliRunner().invoke(main, ["move", "s", "--to", stores[0]])
    assert result.exit_code == 2
    with driver_lock("s", optuna_uri()), pytest.raises(HeldError):
        run.move_study("s", *stores, print)

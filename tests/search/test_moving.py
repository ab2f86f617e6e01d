"""A study that goes to other stores is there what it was here, whatever is killed in between."""

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

import forcetune
from forcetune import results, search, tracking
from forcetune.cli import main
from forcetune.errors import HeldError, InputError, StoppedError
from forcetune.names import COMPANION
from forcetune.search import examine, moving
from forcetune.search.hold import hold
from forcetune.search.ledger import known, trials_of
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import BEGUN, copying

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
    baseline.run(baseline.Bench("s", 1, (0.7, 0.9)), lab, 2)
    return made


def use(monkeypatch, stores):
    monkeypatch.setenv("FORCETUNE_STORAGE", stores[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stores[1])


def test_everything_is_there_and_nothing_here(study, stores, monkeypatch):
    before, companions = results.load("s"), tracking.companions("s")
    records = [trial.user_attrs for trial in trials_of("s", optuna_uri())]
    done = CliRunner().invoke(main, ["move", "s", "--to", stores[0], "--mlflow", stores[1], "--yes"])
    assert done.exit_code == 0, done.output
    assert f"moved: 8 trials of s and {len(companions)} companions and " in done.output
    assert f"FORCETUNE_STORAGE={stores[0]}" in done.output
    for name in ("s", "s" + COMPANION):
        assert not known(name, optuna_uri())
        assert not tracking.exists(name, mlflow_uri())
    use(monkeypatch, stores)
    after = results.load("s")
    assert tracking.study_file("s")["study"] == "s", "an artifact"
    same = [column for column in before if column != "run_id"]
    assert after[same].equals(before[same])
    assert [trial.user_attrs for trial in trials_of("s", optuna_uri())] == records
    assert tracking.companions("s")["trial"].tolist() == companions["trial"].tolist()
    assert examine("s")[1] == [finding for finding in examine("s")[1] if "masks.npz" in finding.what]
    assert forcetune.load_trial("s/trial-0001").run_id == after["run_id"][1]
    for part in ("a", "%", before["run_id"][1][:31]):
        with pytest.raises(InputError, match="there is no run"):
            forcetune.load_trial(part)
    assert forcetune.load_trial(before["run_id"][1]).trial == forcetune.load_trial(after["run_id"][1]).trial


@pytest.mark.parametrize(
    ("room", "broken", "before"),
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
def test_after_a_kill_the_same_command_goes_on(study, stores, monkeypatch, room, broken, before):
    count = {"left": before}
    original = getattr(room, broken)

    def die(*arguments):
        if not count["left"]:
            raise KeyboardInterrupt
        count["left"] -= 1
        return original(*arguments)

    table = results.load("s")
    with monkeypatch.context() as patch:
        patch.setattr(room, broken, die)
        with pytest.raises(KeyboardInterrupt):
            search.move("s", *stores, print)
    search.move("s", *stores, print)
    use(monkeypatch, stores)
    assert results.load("s")["trial"].tolist() == table["trial"].tolist()
    assert not known("s" + BEGUN, optuna_uri())
    assert len(tracking.companions("s")) > 0


def test_a_copy_that_differs_keeps_both(study, stores, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(copying, "_find_difference", lambda *runs: "the run x is not there")
        with pytest.raises(StoppedError, match=r"the run x is not there\. Both are kept"):
            search.move("s", *stores, print)
    assert len(results.load("s")) == 8
    search.move("s", *stores, print)
    assert not tracking.exists("s", mlflow_uri())


@pytest.mark.parametrize("part", ["params", "metrics", "artifacts", "tags", "data sets"])
def test_a_copy_is_compared_in_all_that_a_run_has(study, stores, monkeypatch, part):
    """Each kind of content is left out of the copy once."""
    left_out = {"params": "log_batch", "metrics": "log_batch", "artifacts": "log_artifacts", "tags": "create_run"}
    name = left_out.get(part, "log_inputs")
    if part == "data sets":
        dataset = {"name": "d", "root": None, "digest": "0" * 16, "train_samples": 9, "test_samples": 3, "classes": 2}
        tracking.Tracker("s", mlflow_uri()).log_dataset(tracking.table("s")["run_id"][0], dataset)
    original = getattr(MlflowClient, name)

    def lossy(client, *arguments, **options):
        if part in ("params", "metrics") and part in options:
            return None
        if part in ("artifacts", "data sets"):
            return None
        if part == "tags":
            kept = {tag: text for tag, text in arguments[2].items() if tag != "forcetune.outcome"}
            return original(client, *arguments[:2], kept, *arguments[3:])
        return original(client, *arguments, **options)

    monkeypatch.setattr(MlflowClient, name, lossy)
    with pytest.raises(StoppedError, match=f"has other .*{part}"):
        search.move("s", None, stores[1], print)
    assert len(results.load("s")) == 8


def test_what_was_searched_after_a_move_is_kept(study, stores, searched):
    search.move("s", *stores, print)
    searched([("snip", 0.3, 0.9)])  # in the old stores, which are still named by the environment
    for targets in (stores, (stores[0], None)):
        with pytest.raises(InputError, match="and it is not the same as the one here; nothing is moved"):
            search.move("s", *targets, print)
    assert len(results.load("s")) == 1
    assert len(trials_of("s", optuna_uri())) == 1


def test_one_store_alone(study, stores, monkeypatch):
    search.move("s", stores[0], None, print)
    monkeypatch.setenv("FORCETUNE_STORAGE", stores[0])
    assert len(trials_of("s", optuna_uri())) == 8
    assert len(results.load("s")) == 8


def test_another_study_of_that_name_is_kept(study, stores, searched, monkeypatch):
    with monkeypatch.context() as patch:
        use(patch, stores)
        searched([("snip", 0.3, 0.9)])
    with pytest.raises(InputError, match="has an experiment 's' already"):
        search.move("s", *stores, print)
    with pytest.raises(InputError, match="has a study 's' already"):
        search.move("s", stores[0], None, print)
    assert len(results.load("s")) == 8


def test_what_makes_no_sense_is_refused(study, stores):
    for options, message in [
        ((None, None), "nothing to do: allowed: --to STORAGE"),
        ((optuna_uri(), None), "the study is there already"),
        ((None, "mlruns"), "--mlflow mlruns: this is no address of a store"),
        (("optuna.db", None), "--to optuna.db: this is no address of an Optuna storage"),
    ]:
        with pytest.raises(InputError, match=message):
            search.move("s", *options, print)
    with pytest.raises(InputError, match="neither .* has a study 'x'"):
        search.move("x", *stores, print)
    asked = CliRunner().invoke(main, ["move", "s", "--to", stores[0]])
    assert asked.exit_code == 2
    with hold("s", optuna_uri()), pytest.raises(HeldError):
        search.move("s", *stores, print)

"""The kill test: an arm is killed as the end of its machine would kill it, run again, and its stores are counted."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from racing.arms import STUDY, Arm
from racing.processes import end, start

TRIALS = 12
KILL_AFTER_TRIALS = 4
LIMIT_S = 240.0  # for either part
FINISHED_STATES = "FINISHED", "COMPLETE"
PARAMETERS = "method", "density", "lr", "iterations"

Row = tuple[str, str]  # a trial's configuration, and what its store says of it


@dataclass(frozen=True)
class StoreFaults:
    """What a store says after a kill and a resumption: configurations finished, lost, finished twice, still running."""

    store: str
    finished: int
    lost: int
    doubled: int
    stuck: int


def count_faults(store: str, before: Sequence[Row], after: Sequence[Row]) -> StoreFaults:
    """Compare a store's rows at the kill with those at the end.

    lost: configurations that the store had at the kill and that never finished; doubled: further finished rows of a
    configuration that has one; stuck: rows that are running though nothing runs.
    """
    finished = Counter(key for key, state in after if state in FINISHED_STATES)
    return StoreFaults(
        store=store,
        finished=len(finished),
        lost=len({key for key, _ in before} - finished.keys()),
        doubled=sum(finished.values()) - len(finished),
        stuck=sum(state == "RUNNING" for _, state in after),
    )


def kill_and_resume(arm: Arm, task: str, seed: int) -> dict[str, Any]:
    """Start an arm, kill it once some trials have ended, run it again to its end, and count what its stores have."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        command = arm.prepare(folder, task, seed, TRIALS)
        process = start(command, folder, arm.environment)
        begun = time.time()
        while process.poll() is None and arm.count_ended(folder) < KILL_AFTER_TRIALS:
            if time.time() - begun > LIMIT_S:
                break
            time.sleep(0.5)
        too_early = process.returncode is not None
        end(process)
        before = {store: rows_of(folder, store) for store in arm.stores}
        process = start(command, folder, arm.environment)
        begun = time.time()
        while process.poll() is None and time.time() - begun < LIMIT_S:
            time.sleep(0.5)
        code = process.returncode
        end(process)
        faults = [count_faults(store, before[store], rows_of(folder, store)) for store in arm.stores]
        log = (folder / "log.txt").read_text(errors="replace").splitlines()[-3:]
    return {
        "wanted": TRIALS,
        "ended_before_kill": too_early,
        "exit_code": code,
        "stores": [asdict(fault) for fault in faults],
        "log": log,
    }


def rows_of(folder: Path, store: str) -> list[Row]:
    """Read a store of an arm: its Optuna storage, its MLflow store, or its file of records."""
    readers = {"optuna": _optuna_rows, "mlflow": _mlflow_rows, "records": _record_rows}
    return list(readers[store](folder))


def _key(config: Mapping[str, Any]) -> str:
    """Write a configuration the same whether a store has its numbers as numbers or as text."""
    values = {name: config[name] for name in PARAMETERS if config.get(name) is not None}
    return json.dumps({n: v if n == "method" else f"{float(v):.6g}" for n, v in values.items()}, sort_keys=True)


def _optuna_rows(folder: Path) -> Iterable[Row]:
    import optuna

    if not (folder / "optuna.db").exists():
        return
    study = None
    with suppress(KeyError):
        study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{folder}/optuna.db")
    for trial in study.get_trials(deepcopy=False) if study else []:
        if trial.state.name != "PRUNED":  # forcetune's word for a configuration proposed a second time
            yield _key(trial.params), trial.state.name


def _mlflow_rows(folder: Path) -> Iterable[Row]:
    from mlflow import MlflowClient

    if not (folder / "mlflow.db").exists():
        return
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    for run in client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]):
        if run.data.tags.get("forcetune.kind") != "search":
            yield _key(run.data.params), run.info.status


def _record_rows(folder: Path) -> Iterable[Row]:
    path = folder / "records.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        yield _key(json.loads(line)["config"]), "FINISHED"

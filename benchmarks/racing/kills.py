"""The kill test: an arm is killed as by the loss of its machine and run again; the faults of its stores are counted."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from racing.arms import RACE_STUDY, Arm
from racing.processes import end, start

KILL_TRIALS = 12
KILL_AFTER_TRIALS = 4
KILL_LIMIT_S = 240.0  # of the run until the kill, and of the second run
FINISHED_STATES = "FINISHED", "COMPLETE"
PARAMETERS = "method", "density", "lr", "iterations"

Row = tuple[str, str]  # the configuration of a trial, and its state in the store


@dataclass(frozen=True)
class StoreFaults:
    """The counts of a store after a kill and a resumption: finished, lost, finished twice and still running."""

    store: str
    finished: int
    lost: int
    doubled: int
    stuck: int


def count_faults(store: str, before: Sequence[Row], after: Sequence[Row]) -> StoreFaults:
    """Compare the rows of a store at the kill with its rows at the end.

    finished: configurations with a finished row. lost: configurations that the store had at the kill and that never
    finished. doubled: further finished rows of a configuration that already has one. stuck: rows that are RUNNING
    although nothing runs.
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
    """Start an arm, kill it once some trials have ended, run it again to its end; return the faults of its stores."""
    with tempfile.TemporaryDirectory() as temporary_folder:
        folder = Path(temporary_folder)
        command = arm.prepare(folder, task, seed, KILL_TRIALS)
        process = start(command, folder, arm.environment)
        started = time.time()
        while process.poll() is None and arm.count_ended(folder) < KILL_AFTER_TRIALS:
            if time.time() - started > KILL_LIMIT_S:
                break
            time.sleep(0.5)
        ended_before_kill = process.returncode is not None
        end(process)
        before = {store: read_store(folder, store) for store in arm.stores}
        process = start(command, folder, arm.environment)
        started = time.time()
        while process.poll() is None and time.time() - started < KILL_LIMIT_S:
            time.sleep(0.5)
        exit_code = process.returncode
        end(process)
        faults = [count_faults(store, before[store], read_store(folder, store)) for store in arm.stores]
        log_lines = (folder / "log.txt").read_text(errors="replace").splitlines()[-3:]
    return {
        "wanted": KILL_TRIALS,
        "ended_before_kill": ended_before_kill,
        "exit_code": exit_code,
        "stores": [asdict(fault) for fault in faults],
        "log": log_lines,
    }


def read_store(folder: Path, store: str) -> list[Row]:
    """Return the rows of a store of an arm: its Optuna storage, its MLflow store, or its file of records."""
    readers = {"optuna": _optuna_rows, "mlflow": _mlflow_rows, "records": _record_rows}
    return list(readers[store](folder))


def _key(config: Mapping[str, Any]) -> str:
    """Return the same text for a configuration whether its store keeps numbers as numbers or as text."""
    values = {name: config[name] for name in PARAMETERS if config.get(name) is not None}
    return json.dumps({n: v if n == "method" else f"{float(v):.6g}" for n, v in values.items()}, sort_keys=True)


def _optuna_rows(folder: Path) -> Iterable[Row]:
    import optuna

    if not (folder / "optuna.db").exists():
        return
    study = None
    with suppress(KeyError):
        study = optuna.load_study(study_name=RACE_STUDY, storage=f"sqlite:///{folder}/optuna.db")
    for trial in study.get_trials(deepcopy=False) if study else []:
        if trial.state.name != "PRUNED":  # the state that forcetune gives to a configuration proposed a second time
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

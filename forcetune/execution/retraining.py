"""A trial of a search that is trained again, so that its run keeps the weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from forcetune import pruning, tracking
from forcetune.errors import InputError, StoppedError
from forcetune.execution.worker import execute
from forcetune.ledger.checkpoints import SupersededError
from forcetune.ledger.messages import Assignment, LostError, Report
from forcetune.names import COMPANION, NETWORK_FILE
from forcetune.state_files import list_folder, make_folder, on_disk, remove_folder, write_whole
from forcetune.stores import mlflow_uri, optuna_uri, state_folder
from forcetune.study import METRICS, Study, Task, Trial
from forcetune.tracking import (
    KEPT_BY_USER,
    RETRAINED_TAG,
    WEIGHTS_DROPPED,
    WEIGHTS_TAG,
    Epoch,
    Tracker,
    load_run_metrics,
    load_run_tags,
)

# of METRICS: they differ from one training to the next
UNREPEATED_METRICS = ("prune_seconds", "train_seconds", "steps_reused")


@dataclass(frozen=True)
class Retrained:
    """A trial that was trained again.

    Attributes:
        run_id: The id of its run.
        metrics: The metrics of this training, by name; those of the run where it had its weights already.
        differences: The value of the run and that of this training, for each metric that differs.
        changed_masks: The number of weights that this training keeps and the run does not, or the other way round.
        size: The size of the file with the weights, in bytes; 0 where the run had it already.
    """

    run_id: str
    metrics: Mapping[str, float]
    differences: Mapping[str, tuple[float, float]]
    changed_masks: int
    size: int


def train_again(run: str, show: Callable[[Epoch], None] = lambda epoch: None) -> Retrained:
    """Train the configuration of a run again, and put the weights among the run's artifacts; no search deletes them.

    The training is that of a worker, in this process: with the task of the run's study, and with as many threads as the
    run had. On the same machine and build it gives the run's numbers to the last digit; those of a run of several
    processes it gives up to rounding. Where it gives others, the run's metrics stay as they are, and the tag
    RETRAINED_TAG has those that belong to the weights. Where the run has its weights already, nothing is trained. After
    an interrupt the next call goes on from the last checkpoint.

    Args:
        run: The id of the run, or its study and name, as in `digits/trial-0036`.
        show: Called after each epoch.

    Raises:
        InputError: There is no such trial, or it was not trained to its end.
        StoppedError: The training fails, or ends otherwise than that of the run.
    """
    run_id = tracking.find_run(run)
    trial = Trial(**tracking.load_trial_fields(run_id))
    tags = load_run_tags(run_id)
    _check_outcome(run, tags)
    if not trial.sync_batch_norm:
        raise InputError(
            f"{run} was trained by {tags.get('forcetune.processes', 'several')} processes, each of which normalized "
            "its share of a batch (`sync_batch_norm: false`); one process cannot repeat that. Allowed: a trial with "
            "`sync_batch_norm: true`"
        )
    study = tracking.find_study(run_id)
    if tags.get(WEIGHTS_TAG, WEIGHTS_DROPPED) != WEIGHTS_DROPPED and tracking.read_file(run_id, NETWORK_FILE):
        Tracker(study, mlflow_uri()).tag_weights(run_id, KEPT_BY_USER)
        return Retrained(run_id, load_run_metrics(run_id), {}, 0, 0)
    if tags.get("forcetune.device") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    folder = state_folder(optuna_uri()) / f"train-{run_id}"
    make_folder(folder.parent)
    assignment = Assignment(
        number=0,
        trial=trial,
        task=_load_task(study),
        attempt=1 + max([int(path.name) for path in list_folder(folder) if path.name.isdigit()], default=0),
        mlflow_uri=mlflow_uri(),
        folder=str(Path.cwd()),
        checkpoints=str(folder),
        threads=int(tags.get("forcetune.threads", 1)),
        sends_weights=True,
    )
    report = _train(run, assignment, show)
    retrained = _compare(run_id, report)
    _keep(Tracker(study, mlflow_uri()), retrained, report, folder)
    return retrained


def _check_outcome(run: str, tags: Mapping[str, str]) -> None:
    outcome = tags.get("forcetune.outcome")
    if outcome == "trained":
        return
    reasons = {
        None: "has not ended",
        "stopped": "was stopped early, so that its metrics are not those of a trained network",
        "collapsed": "collapsed, and was not trained",
        "infeasible": "breaks a constraint of its study, and was not trained",
        "failed": "failed",
    }
    raise InputError(
        f"{run} {reasons.get(outcome, f'has the outcome {outcome}')}; allowed: a trial that was trained to its end, "
        "as `forcetune best STUDY` lists them"
    )


def _load_task(study: str) -> Task:
    """Return the task of a study, or of a companion: that has a name which no study file may have, and test images."""
    written = tracking.load_study_file(study)
    task = Study.from_dict({**written, "study": written["study"].removesuffix(COMPANION)}).task
    return replace(task, tested=study.endswith(COMPANION))


def _train(run: str, assignment: Assignment, show: Callable[[Epoch], None]) -> Report:
    """Return the last report of a training, which has the weights."""
    report = Report()
    try:
        for report in execute(assignment):
            if report.epoch:
                show(report.epoch)
    except SupersededError:
        raise StoppedError(f"{run} is trained again by another process, which began later than this one") from None
    except LostError as error:
        raise StoppedError(f"the training of {run} ended early: {error.reason}") from error
    if report.outcome != "trained":
        raise StoppedError(
            f"the training of {run} ended otherwise than in the search: {report.outcome}, {report.reason}; the run "
            "stays as it is"
        )
    if NETWORK_FILE not in report.files:
        raise StoppedError(f"the network of {run} has tensors that {NETWORK_FILE} cannot hold, so no weights are kept")
    return report


def _compare(run_id: str, report: Report) -> Retrained:
    """Compare a training with its run, in all that a training of the same fields must repeat."""
    before = load_run_metrics(run_id)
    names = [name for name in [*METRICS, *before] if name in METRICS or name.startswith("val_")]
    differences = {
        name: (before[name], float(report.metrics[name]))
        for name in dict.fromkeys(names)
        if name in before
        and name in report.metrics
        and name not in UNREPEATED_METRICS
        and before[name] != float(report.metrics[name])
    }
    content = report.files[NETWORK_FILE]
    earlier_masks = pruning.load_masks(tracking.fetch_masks(run_id))
    masks = pruning.unpack_masks(content)
    changed = sum(
        int((masks[name] != mask).sum()) if name in masks and masks[name].shape == mask.shape else mask.numel()
        for name, mask in earlier_masks.items()
    )
    return Retrained(run_id, report.metrics, differences, changed, len(content))


def _keep(tracker: Tracker, retrained: Retrained, report: Report, folder: Path) -> None:
    """Write the weights to MLflow; the checkpoints go last, so that nothing is trained twice where MLflow is away."""
    tags = {WEIGHTS_TAG: KEPT_BY_USER}
    if retrained.differences or RETRAINED_TAG in tracker.read_tags(retrained.run_id):
        tags[RETRAINED_TAG] = json.dumps({name: value for name, (_, value) in retrained.differences.items()})
    make_folder(folder)
    path = folder / NETWORK_FILE
    write_whole(path, report.files[NETWORK_FILE])
    tracker.log(retrained.run_id, tags=tags)
    with on_disk(path) as local_path:
        tracker.log_file(retrained.run_id, local_path)
    remove_folder(folder)

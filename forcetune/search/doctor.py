"""The disagreements between the ledger, MLflow and the checkpoints of a study, and their repair."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from forcetune import tracking
from forcetune.ledger.checkpoints import read_checkpoint
from forcetune.ledger.ledger import Ledger
from forcetune.ledger.messages import TrialOutcome
from forcetune.ledger.recorded_study import load_recorded_study
from forcetune.ledger.rewriting import RunContent, write_anew
from forcetune.ledger.study_attributes import pending_archive
from forcetune.ledger.trials import retried_at, select_counted
from forcetune.names import COMPANION, DEPLOYED_PREFIX, NETWORK_FILE
from forcetune.search.archive import archive
from forcetune.search.driver import open_driver
from forcetune.search.marking import (
    FrontChanges,
    drop_weights,
    find_alias_moves,
    find_front_changes,
    mark_front,
    move_aliases,
)
from forcetune.state_files import has_folder, list_folder, remove_file, remove_folder
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.study import Study
from forcetune.tracking import FRONT_TAG, KNEE_TAG, REFUSED_TAG, WEIGHTS_DROPPED, WEIGHTS_TAG, Tracker

RUN_STATUS_BY_STATE = {TrialState.COMPLETE: "FINISHED", TrialState.FAIL: "FAILED"}


@dataclass(frozen=True)
class Finding:
    """A disagreement between the stores.

    Attributes:
        where: What it is about: the study, a trial, a run or a path.
        what: What disagrees.
        remedy: What ends it, in words.
        mend: Ends it; None where only a person can.
    """

    where: str
    what: str
    remedy: str
    mend: Callable[[], None] | None = field(default=None, compare=False)


def examine(name: str, check: Callable[[], None] = lambda: None, live: bool = False) -> list[Finding]:
    """Return the disagreements about a study, where the ledger counts as right.

    Args:
        name: The name of the study.
        check: Raises HeldError where another driver has the study.
        live: Whether a search runs on the study; then only trials that are finished in the ledger are examined.

    Raises:
        InputError: The ledger has no such study, or a store does not answer.
    """
    study = load_recorded_study(name, optuna_uri())
    pending_name = pending_archive(name, optuna_uri())
    if pending_name and not live:
        finish = partial(archive, name, check, Console(quiet=True), False)
        return [
            Finding(
                "the study",
                f"was archived only in part, as {pending_name}",
                "finish the archiving",
                lambda: discard(finish()),
            )
        ]
    if tracking.is_deleted(name, mlflow_uri()):
        restore = partial(tracking.restore_experiment, name, mlflow_uri())
        return [Finding("the study", "has an experiment that was deleted in MLflow", "restore it", restore)]
    if not tracking.has_experiment(name, mlflow_uri()):
        make = partial(Tracker, name, mlflow_uri())
        return [Finding("the study", "has no experiment in MLflow", "create it", lambda: discard(make()))]
    return list(_Examination(study, Ledger(study, optuna_uri(), check), check, live).findings())


def repair(name: str, check: Callable[[], None]) -> tuple[list[Finding], list[Finding]]:
    """Mend the disagreements about a study as far as possible; the caller has the study's lock.

    Args:
        name: The name of the study.
        check: Raises HeldError where another driver has the study.

    Returns:
        The disagreements that were mended, and those that are left.
    """
    mended: list[Finding] = []
    while mendable := [finding for finding in examine(name, check) if finding.mend and finding not in mended]:
        for finding in mendable:
            assert finding.mend
            finding.mend()
            mended.append(finding)
    return mended, examine(name, check)


def discard(result: object) -> None:
    """Discard the result of a call, for a lambda that must return None."""


class _Examination:
    """The examination of one study, which has an experiment in MLflow."""

    def __init__(self, study: Study, ledger: Ledger, check: Callable[[], None], live: bool) -> None:
        name = study.study
        self._study = study
        self._ledger = ledger
        self._check = check
        self._is_live = live
        self._tracker = Tracker(name, mlflow_uri())
        self._folder = ledger.folder
        runs = tracking.load_runs(name, mlflow_uri())
        children = Counter(run["tags"].get("mlflow.parentRunId") for run in runs)
        self._parents = [run for run in runs if run["tags"].get("forcetune.kind") == "search"]
        # the sort is stable: of parents with equally many children the oldest stays first
        self._parents.sort(key=lambda parent: -children[parent["id"]])
        self._runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for run in runs:
            if run["tags"].get("forcetune.kind") == "trial":
                self._runs[run["tags"].get("forcetune.trial", "")].append(run)

    def findings(self) -> Iterator[Finding]:
        """Yield the disagreements in the order of their repair, since later ones depend on earlier ones."""
        trials = [trial for trial in select_counted(self._ledger.trials()) if "fields" in trial.user_attrs]
        keys = Counter(trial.user_attrs["key"] for trial in trials)
        yield from self._check_parents()
        for key in self._runs.keys() - keys.keys():
            for run in self._runs[key]:
                yield self._surplus(run, "belongs to no trial in the ledger")
        for trial in trials:
            where = f"trial {trial.number}"
            if keys[trial.user_attrs["key"]] > 1 and trial.state.is_finished():
                yield Finding(
                    where, "has the configuration of another trial", "none: Optuna does not change finished trials"
                )
            elif trial.state.is_finished():
                yield from self._check_finished(where, trial)
            elif not self._is_live:
                yield from self._check_open(where, trial)
        numbers = {trial.number for trial in trials}
        for folder in () if self._is_live else list_folder(self._folder):
            if not (folder.name.isdigit() and int(folder.name) in numbers):
                yield self._leftover(folder)
        if not self._is_live and self._parents and not self._study.study.endswith(COMPANION):
            yield from self._check_front()  # last, since the front follows from everything that is mended before

    def _check_parents(self) -> Iterator[Finding]:
        if not self._parents:
            make = partial(self._tracker.open_study, self._study.directions, {})
            yield Finding("the study", "has no parent run", "create one", lambda: discard(make()))
        for parent in self._parents[1:]:
            yield self._surplus(parent, "is an extra parent run")

    def _check_front(self) -> Iterator[Finding]:
        """Compare the tags of the front with what `best` prints, and the weights with what `search.keep` keeps.

        Studies of earlier versions have no tags.
        """
        is_tagged = any(FRONT_TAG in run["tags"] for runs in self._runs.values() for run in runs)
        front_changes = find_front_changes(self._study.study, mlflow_uri()) if is_tagged else FrontChanges()
        for run in front_changes.surplus_weights:
            what = "has trained weights that `search.keep` does not keep"
            yield Finding(f"run {run}", what, "delete the weights", partial(drop_weights, self._tracker, run))
        changes = front_changes.tags
        for tag, meaning in ((FRONT_TAG, "the front"), (KNEE_TAG, "the knee of the front")):
            lacking = sum(change.is_set for change in changes if change.tag == tag)
            surplus = sum(not change.is_set for change in changes if change.tag == tag)
            if lacking or surplus:
                what = f"lacks the tag {tag} on {lacking} runs on {meaning}, and has it on {surplus} other runs"
                yield Finding("the study", what, "set the tags", partial(mark_front, self._tracker))
        name, uri = self._study.study, mlflow_uri()
        for model, moves in find_alias_moves(name, uri).items():
            if moves.moved:
                aliases = ", ".join(f"{alias} (version {version})" for alias, version in moves.moved.items())
                what = f"has aliases of the registered model {model} that do not name what the front says: {aliases}"
                yield Finding("the study", what, "move the aliases", partial(move_aliases, name, uri, discard))

    def _check_finished(self, where: str, trial: FrozenTrial) -> Iterator[Finding]:
        runs = self._runs[trial.user_attrs["key"]]
        if len(runs) > 1 and (matching := [run for run in runs if not self._disagreement(trial, [run])]):
            for run in runs:
                if run is not matching[0]:
                    yield self._surplus(run, f"is a second run of {where}")
            runs = matching[:1]
        disagreement = self._disagreement(trial, runs)
        if disagreement:
            record = TrialOutcome(**trial.user_attrs["ended"]).record if "ended" in trial.user_attrs else {}
            if record:
                yield Finding(
                    where, disagreement, "write its run again from the ledger", lambda: self._rebuild(trial, runs)
                )
            else:
                yield Finding(where, disagreement, "none: the ledger has no record of it")
        elif self._parents and runs[0]["tags"].get("mlflow.parentRunId") != self._parents[0]["id"]:
            parent = {"mlflow.parentRunId": self._parents[0]["id"]}
            adopt = partial(self._tracker.log, runs[0]["id"], tags=parent)
            yield Finding(
                where, "has a run under another parent run", "set the study's parent run", lambda: discard(adopt())
            )
        elif trial.state == TrialState.COMPLETE:
            yield from self._check_files(where, runs[0])
        if has_folder(folder := self._trial_folder(trial)):
            yield self._leftover(folder)

    def _check_files(self, where: str, run: dict[str, Any]) -> Iterator[Finding]:
        files = self._tracker.list_files(run["id"])
        if "masks.npz" not in files:
            yield Finding(where, "has a run without masks.npz", "none: `forcetune prune RUN` may find the same masks")
        is_tagged = run["tags"].get(WEIGHTS_TAG, WEIGHTS_DROPPED) != WEIGHTS_DROPPED
        if self._is_live or (NETWORK_FILE in files) == is_tagged:
            return
        drop = partial(drop_weights, self._tracker, run["id"])
        if is_tagged:
            yield Finding(where, f"has a run that is tagged as if it had {NETWORK_FILE}", "correct the tag", drop)
        else:  # a late request has written them again
            yield Finding(where, f"has a run with {NETWORK_FILE}, which was deleted before", "delete it again", drop)

    def _check_open(self, where: str, trial: FrozenTrial) -> Iterator[Finding]:
        if "ended" in trial.user_attrs:
            yield Finding(where, "has ended, but its result is not in both stores", "write it to both", self._deliver)
            return
        runs = sorted(self._runs[trial.user_attrs["key"]], key=lambda run: -self._last_step(run))
        for run in runs[1:]:
            yield self._surplus(run, f"is a second run of {where}")
        if runs and runs[0]["status"] != "RUNNING":
            reopen = partial(self._tracker.reopen, runs[0]["id"])
            yield Finding(where, f"has not ended, but its run is {runs[0]['status']}", "reopen the run", reopen)
        attempts = [folder for folder in list_folder(self._trial_folder(trial)) if folder.name.isdigit()]
        for checkpoint in (path for folder in attempts for path in list_folder(folder) if path.suffix == ".pt"):
            state = read_checkpoint(checkpoint)
            if state is None or state["key"] != trial.user_attrs["key"].partition("@")[0]:
                problem = "cannot be read" if state is None else "belongs to another trial"
                yield Finding(str(checkpoint), problem, "remove it", partial(remove_file, checkpoint))

    def _disagreement(self, trial: FrozenTrial, runs: list[dict[str, Any]]) -> str | None:
        """Return how the runs of a finished trial disagree with the ledger; None where its one run agrees."""
        if len(runs) != 1:
            return f"has {len(runs) or 'no'} runs" if runs else "has no run"
        run = runs[0]
        if run["status"] != RUN_STATUS_BY_STATE[trial.state]:
            return f"is {trial.state.name} in the ledger, but its run is {run['status']}"
        outcome = trial.user_attrs.get("ended", {})
        if outcome and run["tags"].get("forcetune.outcome") != outcome["outcome"]:
            return f"has the outcome {outcome['outcome']}, but its run has {run['tags'].get('forcetune.outcome')}"
        if run["params"] != tracking.format_params(trial.user_attrs["fields"]):
            return "has fields that differ from the params of its run"
        refused = run["tags"].get(REFUSED_TAG, "").split(", ")
        for name, value in zip(self._study.objectives, trial.values or [], strict=False):
            if name not in refused and not math.isclose(value, run["metrics"].get(name, math.nan), rel_tol=1e-9):
                return f"has {name} {value:g}, but its run has {run['metrics'].get(name)}"
        steps = self._tracker.list_steps(run["id"], retried_at(trial))
        doubled = [name for name, logged_steps in steps.items() if len(set(logged_steps)) < len(logged_steps)]
        if doubled := [name for name in doubled if not name.startswith(DEPLOYED_PREFIX)]:
            return f"has a run with {', '.join(doubled)} logged twice at one step"
        curve = {step for step, *_ in outcome.get("record", {}).get("curve", [])}
        if missing := curve - {step for logged_steps in steps.values() for step in logged_steps}:
            return f"has a run without the epochs {', '.join(map(str, sorted(missing)))}"
        return None

    def _rebuild(self, trial: FrozenTrial, runs: list[dict[str, Any]]) -> None:
        """Replace the runs of a trial with a new run from the ledger's record."""
        outcome = TrialOutcome(**trial.user_attrs["ended"])
        content = RunContent(trial.number, trial.user_attrs["key"], trial.user_attrs["fields"], outcome)
        parent = self._tracker.open_study(self._study.directions, {})
        write_anew(self._tracker, parent, content, [run["id"] for run in runs])
        if self._parents and self._parents[0]["status"] != "RUNNING":
            self._tracker.close(parent)

    def _deliver(self) -> None:
        """Deliver all trials that have ended to MLflow, as a driver does when it starts."""
        open_driver(self._study, self._check, Console(quiet=True), is_recorded=True).close()
        mark_front(self._tracker)

    def _surplus(self, run: dict[str, Any], what: str) -> Finding:
        return Finding(f"run {run['id']}", what, "delete it", partial(self._tracker.remove, run["id"]))

    def _leftover(self, folder: Path) -> Finding:
        return Finding(
            str(folder),
            "is a leftover of a trial that has ended",
            "remove it",
            partial(remove_folder, folder, strict=True),
        )

    def _last_step(self, run: dict[str, Any]) -> int:
        return max(self._tracker.list_steps(run["id"]).get("val_loss", []), default=-1)

    def _trial_folder(self, trial: FrozenTrial) -> Path:
        return self._folder / f"{trial.number:04d}"

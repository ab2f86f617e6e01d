"""Where the ledger, MLflow and the checkpoints of a study disagree, and how that is mended."""

import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from forcetune import tracking
from forcetune.names import COMPANION
from forcetune.search.archive import archive
from forcetune.search.checkpoints import read
from forcetune.search.driver import open_driver
from forcetune.search.ledger import Ended, Ledger, counted, pending_archive, recorded, retried_at
from forcetune.search.marking import mark_front, missing_marks
from forcetune.search.rewriting import RunContent, write_anew
from forcetune.spec import Study
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import FRONT, KNEE, REFUSED, Tracker

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.FAIL: "FAILED"}


@dataclass(frozen=True)
class Finding:
    """A disagreement; `mend` ends it, None where only a person can."""

    where: str
    what: str
    remedy: str
    mend: Callable[[], None] | None = field(default=None, compare=False)


def examine(name: str, check: Callable[[], None] = lambda: None, live: bool = False) -> list[Finding]:
    """What disagrees about a study, the ledger taken at its word; of a live one, only what its trials are told.

    Raises InputError where the ledger has no such study, or a store does not answer.
    """
    study = recorded(name, optuna_uri())
    begun = pending_archive(name, optuna_uri())
    if begun and not live:
        finish = partial(archive, name, check, Console(quiet=True), False)
        return [Finding("the study", f"was being archived as {begun}", "finish that", lambda: void(finish()))]
    if tracking.is_deleted(name, mlflow_uri()):
        restore = partial(tracking.restore, name, mlflow_uri())
        return [Finding("the study", "has an experiment that was deleted in MLflow", "restore it", restore)]
    if not tracking.exists(name, mlflow_uri()):
        make = partial(Tracker, name, mlflow_uri())
        return [Finding("the study", "has no experiment in MLflow", "make it", lambda: void(make()))]
    return list(_Case(study, Ledger(study, optuna_uri(), check), check, live).findings())


def repair(name: str, check: Callable[[], None]) -> tuple[list[Finding], list[Finding]]:
    """Mend what can be, the study held; what was mended, and what disagrees still."""
    mended: list[Finding] = []
    while found := [finding for finding in examine(name, check) if finding.mend and finding not in mended]:
        for finding in found:
            assert finding.mend
            finding.mend()
            mended.append(finding)
    return mended, examine(name, check)


def void(result: object) -> None:
    """For calls whose answer nobody asks for."""


class _Case:
    """One study as its stores tell it."""

    def __init__(self, study: Study, ledger: Ledger, check: Callable[[], None], live: bool) -> None:
        name = study.study
        self._study = study
        self._ledger = ledger
        self._check = check
        self._live = live
        self._tracker = Tracker(name, mlflow_uri())
        self._folder = ledger.folder
        runs = tracking.runs(name, mlflow_uri())
        children = Counter(run["tags"].get("mlflow.parentRunId") for run in runs)
        self._parents = [run for run in runs if run["tags"].get("forcetune.kind") == "search"]
        self._parents.sort(key=lambda parent: -children[parent["id"]])  # the oldest first of those with equally many
        self._runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for run in runs:
            if run["tags"].get("forcetune.kind") == "trial":
                self._runs[run["tags"].get("forcetune.trial", "")].append(run)

    def findings(self) -> Iterator[Finding]:
        """In the order in which they are mended: what later ones build on first."""
        trials = [trial for trial in counted(self._ledger.trials()) if "fields" in trial.user_attrs]
        keys = Counter(trial.user_attrs["key"] for trial in trials)
        yield from self._of_parents()
        for key in self._runs.keys() - keys.keys():
            for run in self._runs[key]:
                yield self._surplus(run, "is of no trial in the ledger")
        for trial in trials:
            where = f"trial {trial.number}"
            if keys[trial.user_attrs["key"]] > 1 and trial.state.is_finished():
                yield Finding(where, "has the configuration of another trial", "none: Optuna keeps what is told")
            elif trial.state.is_finished():
                yield from self._of_told(where, trial)
            elif not self._live:
                yield from self._of_open(where, trial)
        numbers = {trial.number for trial in trials}
        for folder in self._folder.iterdir() if self._folder.is_dir() and not self._live else ():
            if not (folder.name.isdigit() and int(folder.name) in numbers):
                yield self._leftover(folder)
        if not self._live and self._parents and not self._study.study.endswith(COMPANION):
            yield from self._of_front()  # last, since it follows from all that is mended before

    def _of_parents(self) -> Iterator[Finding]:
        if not self._parents:
            make = partial(self._tracker.open_study, self._study.directions, {})
            yield Finding("the study", "has no parent run", "make one", lambda: void(make()))
        for parent in self._parents[1:]:
            yield self._surplus(parent, "is a second parent run")

    def _of_front(self) -> Iterator[Finding]:
        """Where the tags of the front are not those that `best` prints. Studies of earlier versions have no tags."""
        tagged = any(FRONT in run["tags"] for runs in self._runs.values() for run in runs)
        marks = missing_marks(self._study.study, mlflow_uri()) if tagged else []
        for tag, meaning in ((FRONT, "the front"), (KNEE, "the knee of the front")):
            lacking = sum(mark.marked for mark in marks if mark.tag == tag)
            surplus = sum(not mark.marked for mark in marks if mark.tag == tag)
            if lacking or surplus:
                what = f"has {lacking} runs on {meaning} without the tag {tag}, and {surplus} others with it"
                yield Finding("the study", what, "set the tags", partial(mark_front, self._tracker))

    def _of_told(self, where: str, trial: FrozenTrial) -> Iterator[Finding]:
        own = self._runs[trial.user_attrs["key"]]
        if len(own) > 1 and (right := [run for run in own if not self._disagreement(trial, [run])]):
            for run in own:
                if run is not right[0]:
                    yield self._surplus(run, f"is a second one of {where}")
            own = right[:1]
        wrong = self._disagreement(trial, own)
        if wrong:
            record = Ended(**trial.user_attrs["ended"]).record if "ended" in trial.user_attrs else {}
            if record:
                yield Finding(where, wrong, "write its run anew from the ledger", lambda: self._rebuild(trial, own))
            else:
                yield Finding(where, wrong, "none: the ledger has no record of it")
        elif self._parents and own[0]["tags"].get("mlflow.parentRunId") != self._parents[0]["id"]:
            parent = {"mlflow.parentRunId": self._parents[0]["id"]}
            adopt = partial(self._tracker.log, own[0]["id"], tags=parent)
            yield Finding(where, "its run has another parent than the study's", "give it that", lambda: void(adopt()))
        elif trial.state == TrialState.COMPLETE and "masks.npz" not in self._tracker.files(own[0]["id"]):
            yield Finding(where, "its run has lost masks.npz", "none: `forcetune prune --trial` may find the same ones")
        if (folder := self._place(trial)).exists():
            yield self._leftover(folder)

    def _of_open(self, where: str, trial: FrozenTrial) -> Iterator[Finding]:
        if "ended" in trial.user_attrs:
            yield Finding(where, "has ended, and was not told to both stores", "tell them", self._deliver)
            return
        own = sorted(self._runs[trial.user_attrs["key"]], key=lambda run: -self._last_step(run))
        for run in own[1:]:
            yield self._surplus(run, f"is a second one of {where}")
        if own and own[0]["status"] != "RUNNING":
            reopen = partial(self._tracker.reopen, own[0]["id"])
            yield Finding(where, f"is not over, and its run is {own[0]['status']}", "reopen it", reopen)
        for checkpoint in self._place(trial).glob("*/checkpoint.pt"):
            state = read(checkpoint)
            if state is None or state["key"] != trial.user_attrs["key"].partition("@")[0]:
                why = "cannot be read" if state is None else "is of another trial"
                yield Finding(str(checkpoint), why, "remove it", checkpoint.unlink)

    def _disagreement(self, trial: FrozenTrial, own: list[dict[str, Any]]) -> str | None:
        """What is wrong with the runs of a trial that is told; None where there is one, and it says the same."""
        if len(own) != 1:
            return f"has {len(own) or 'no'} runs" if own else "has no run"
        run = own[0]
        if run["status"] != STATUS[trial.state]:
            return f"is {trial.state.name} in the ledger, and its run {run['status']}"
        ended = trial.user_attrs.get("ended", {})
        if ended and run["tags"].get("forcetune.outcome") != ended["outcome"]:
            return f"has the outcome {ended['outcome']}, and its run {run['tags'].get('forcetune.outcome')}"
        if run["params"] != tracking.params(trial.user_attrs["fields"]):
            return "has other fields than the params of its run"
        refused = run["tags"].get(REFUSED, "").split(", ")
        for name, value in zip(self._study.objectives, trial.values or [], strict=False):
            if name not in refused and not math.isclose(value, run["metrics"].get(name, math.nan), rel_tol=1e-9):
                return f"has {name} {value:g}, and its run {run['metrics'].get(name)}"
        steps = self._tracker.steps(run["id"], retried_at(trial))
        if twice := [name for name, at in steps.items() if len(set(at)) < len(at)]:
            return f"its run has {', '.join(twice)} twice at a step"
        curve = {step for step, *_ in ended.get("record", {}).get("curve", [])}
        if lacking := curve - {step for at in steps.values() for step in at}:
            return f"its run lacks the epochs {', '.join(map(str, sorted(lacking)))}"
        return None

    def _rebuild(self, trial: FrozenTrial, own: list[dict[str, Any]]) -> None:
        """A new run from the ledger's record in place of the old ones."""
        ended = Ended(**trial.user_attrs["ended"])
        content = RunContent(trial.number, trial.user_attrs["key"], trial.user_attrs["fields"], ended)
        parent = self._tracker.open_study(self._study.directions, {})
        write_anew(self._tracker, parent, content, [run["id"] for run in own])
        if self._parents and self._parents[0]["status"] != "RUNNING":
            self._tracker.close(parent)

    def _deliver(self) -> None:
        """What a driver does when it starts: it hands over whatever has ended."""
        open_driver(self._study, self._check, Console(quiet=True)).close()
        mark_front(self._tracker)

    def _surplus(self, run: dict[str, Any], what: str) -> Finding:
        return Finding(f"run {run['id']}", what, "delete it", partial(self._tracker.remove, run["id"]))

    def _leftover(self, folder: Path) -> Finding:
        return Finding(str(folder), "is left of a trial that is over", "remove it", partial(shutil.rmtree, folder))

    def _last_step(self, run: dict[str, Any]) -> int:
        return max(self._tracker.steps(run["id"]).get("val_loss", []), default=-1)

    def _place(self, trial: FrozenTrial) -> Path:
        return self._folder / f"{trial.number:04d}"

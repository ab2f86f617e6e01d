"""The state of a search: which trial to start next and what follows when one ends. Knows no Ray."""

import hashlib
import json
import math
from collections import deque
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from forcetune import __version__
from forcetune.search.ledger import Ended, Ledger
from forcetune.search.progress import Progress
from forcetune.search.proposals import Proposal, make_proposals
from forcetune.search.worker import Assignment
from forcetune.spec import Study, Trial
from forcetune.tracking import Tracker

REPEATS = 100  # proposals in a row that the study already has before the space counts as used up
LOST = "its worker ended without a word (killed, out of memory, or its node is gone)"


class Driver:
    """Opens both stores and takes the study up where it is.

    The order of writes: a trial in the ledger, then its run; at the end what became of it, then its run,
    and the ledger's own word last, so that a restart finds everything that is not told and goes on with it.
    """

    def __init__(self, study: Study, ledger: Ledger, tracker: Tracker, mlflow_uri: str, progress: Progress) -> None:
        self._study = study
        self._ledger = ledger
        self._tracker = tracker
        self._mlflow_uri = mlflow_uri
        self._progress = progress
        self._provenance = _provenance(study)
        self.parent = tracker.open_study({"study": study.study, **study.model_dump()}, self._provenance)
        history = ledger.trials()
        self._proposals = make_proposals(study, history)
        self._known = {trial.user_attrs["key"] for trial in history if "key" in trial.user_attrs}
        self._running: dict[int, tuple[Proposal, str]] = {}  # and its run
        self._waiting: deque[tuple[int, Proposal, int]] = deque()
        self._used_up = False
        self._count = 0
        for trial in history:
            self._take_up(trial)

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is to be started."""
        return not self._running and not self._waiting and self._exhausted

    @property
    def running(self) -> int:
        """Trials handed out and not ended."""
        return len(self._running)

    def issue(self) -> Assignment | None:
        """The next trial to run: one that was interrupted, else a new one; None where there is none to start."""
        taken_up = bool(self._waiting)
        if taken_up:
            number, proposal, attempt = self._waiting.popleft()
        else:
            fresh = None if self._exhausted else self._propose()
            if fresh is None:
                return None
            number, proposal, attempt = self._ledger.add(fresh), fresh, 0
            self._count += 1
        fields = proposal.trial.fields()
        run = self._tracker.open_trial(self.parent, number, proposal.trial.key, fields, self._provenance, taken_up)
        self._ledger.note(number, issued={"attempt": attempt + 1, "run": run})
        self._running[number] = (proposal, run)
        self._progress.started(number, proposal.trial)
        return Assignment(
            number=number,
            fields=fields,
            attempt=attempt + 1,
            run=run,
            study=self._study.study,
            mlflow_uri=self._mlflow_uri,
            folder=str(Path.cwd()),
            threads=max(1, int(self._study.resources.cpus)),
        )

    def report(self, number: int, metrics: Mapping[str, Any]) -> None:
        """An epoch of a running trial."""
        self._progress.reported(number, metrics)

    def end(self, number: int, metrics: Mapping[str, Any] | None) -> None:
        """A trial's last metrics; None where it was lost with its worker."""
        if number not in self._running:
            return
        proposal, run = self._running.pop(number)
        ended = self._judge(metrics) if metrics else Ended("failed", LOST)
        self._ledger.decide(number, ended)
        self._close(number, run, proposal, ended)
        self._progress.ended(number, proposal.trial, ended)

    def close(self) -> None:
        """End the parent run once the study is complete."""
        if self.finished:
            self._tracker.close(self.parent)

    @property
    def _exhausted(self) -> bool:
        return self._used_up or self._count >= self._study.trials

    def _propose(self) -> Proposal | None:
        for _ in range(REPEATS):
            proposal = self._proposals.ask()
            if proposal is None:
                break
            if proposal.trial.key not in self._known:
                self._known.add(proposal.trial.key)
                return proposal
            self._ledger.add_known(proposal)
            self._proposals.tell(proposal, None)
        self._used_up = True
        return None

    def _judge(self, metrics: Mapping[str, Any]) -> Ended:
        """A trial's last metrics as its outcome; one whose objectives are not finite numbers has failed."""
        if metrics["outcome"] == "failed":
            return Ended("failed", metrics.get("reason"))
        values = [float(metrics[name]) for name in self._study.objectives]
        for name, value in zip(self._study.objectives, values, strict=True):
            if not math.isfinite(value):
                return Ended("failed", f"the objective {name} became {value}")
        return Ended(metrics["outcome"], metrics.get("reason"), values)

    def _close(self, number: int, run: str, proposal: Proposal, ended: Ended) -> None:
        tags = {
            "forcetune.outcome": ended.outcome,
            **({"forcetune.reason": ended.reason} if ended.reason else {}),
        }
        self._tracker.close(run, failed=ended.outcome == "failed", tags=tags)
        self._ledger.tell(number, ended)
        self._proposals.tell(proposal, ended.values, ended.on_front)

    def _take_up(self, trial: FrozenTrial) -> None:
        """Count a trial of an earlier driver; finish it where its end is known, else run it again."""
        if trial.state == TrialState.PRUNED or "fields" not in trial.user_attrs:
            return
        self._count += 1
        proposal = Proposal(Trial(**trial.user_attrs["fields"]), trial.params, trial.distributions)
        issued = trial.user_attrs.get("issued", {"attempt": 0})
        if "ended" not in trial.user_attrs:
            self._waiting.append((trial.number, proposal, issued["attempt"]))
            return
        ended = Ended(**trial.user_attrs["ended"])
        if not trial.state.is_finished():
            self._close(trial.number, issued["run"], proposal, ended)
        self._progress.known(proposal.trial, ended)


def _provenance(study: Study) -> dict[str, str]:
    digest = hashlib.sha256(json.dumps(study.identity, sort_keys=True).encode()).hexdigest()[:16]
    packages = {f"forcetune.{name}": version(name) for name in ("torch", "ray", "optuna")}
    return {"forcetune.version": __version__, "forcetune.digest": digest, **packages}

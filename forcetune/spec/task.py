"""What a study asks of every trial beside its fields: objectives, constraints, and functions of the user's own."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from forcetune.errors import InputError
from forcetune.names import COMPANION, suggestion
from forcetune.spec.problems import Problem, summarize

if TYPE_CHECKING:
    from forcetune.spec.study import Study

BEFORE: dict[str, str] = {
    "density": "fraction of prunable weights kept",
    "sparsity": "1 - density",
    "effective_density": "fraction of prunable weights that lie on a path from input to output",
    "macs": "multiply-adds of one sample after removing channels without such a path",
    "macs_fraction": "macs over the dense network's",
    "layers_emptied": "layers without a weight",
    "channels_emptied": "output channels without a weight, over all layers",
    "collapsed": "1 where no path from input to output is left",
    "saliency_samples": "samples that the mask cost",
    "prune_seconds": "time to find the mask",
    "steps_reused": "pruning steps taken over from an earlier trial of the same worker; `prune_seconds` has their time",
}
METRICS: dict[str, str] = {
    "train_loss": "the mean `loss` over the epoch's steps",
    "val_loss": "the `loss` on the validation images",
    "val_accuracy": "share of the validation images put in their class, 0 to 1",
    **BEFORE,
    "trained_macs_fraction": "multiply-adds of a training step over the dense network's: less than 1 where dead "
    "channels are cut out",
    "train_seconds": "time to train, validation included",
}

Direction = Literal["max", "min"]


class Objective(BaseModel):
    """An objective with the point that its hypervolume is measured from."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    direction: Direction
    reference: float = Field(allow_inf_nan=False)


class Bound(BaseModel):
    """What a metric known before training may be, both ends included."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Task:
    """The part of a study that a trial is run by, beside its fields; each name is a function's of the user's own."""

    constraints: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    measure: str | None = None
    metrics: tuple[str, ...] = ()
    loss: str = "cross_entropy"
    train: str | None = None
    compiled: bool = False
    tested: bool = False  # whether the trained network is measured on the test images too

    def broken(self, metrics: Mapping[str, float]) -> str | None:
        """The first constraint that these metrics break, and how; None where they meet all.

        Raises ValueError where one is not among them.
        """
        for name, (low, high) in self.constraints.items():
            if name not in metrics:
                raise ValueError(f"`measure` has not returned {name}, which a constraint bounds")
            value = metrics[name]
            if low is not None and not value >= low:
                return f"{name} {value:g} is below the constraint's min {low:g}"
            if high is not None and not value <= high:
                return f"{name} {value:g} is above the constraint's max {high:g}"
        return None


def make_task(study: "Study") -> Task:
    """The study's; test images are for companions alone, so that nothing is ever chosen by them."""
    bounds = {n: b if isinstance(b, Bound) else Bound(max=b) for n, b in study.constraints.items()}
    metrics = [study.metrics] if isinstance(study.metrics, str) else study.metrics
    return Task(
        constraints={name: (bound.min, bound.max) for name, bound in bounds.items()},
        measure=study.measure,
        metrics=tuple(metrics),
        loss=study.loss,
        train=study.train,
        compiled=study.resources.compile,
        tested=study.study.endswith(COMPANION),
    )


def task_problems(study: "Study") -> Iterator[Problem]:
    """Yield a problem for each objective or constraint that no trial can report, and where `train` is compiled.

    What the user's own functions report is not known before they are called.
    """
    if study.train and study.resources.compile:
        yield Problem("resources.compile", f"compiles forcetune's training loop, and this study has {study.train}")
    own = "measure" if study.measure else None
    yield from _metric_problems("constraints", study.constraints, BEFORE, own)
    if study.metrics or study.train:
        own = "metrics" if study.metrics else "train"
    yield from _metric_problems("objectives", study.objectives, METRICS, own)
    for name, bound in study.constraints.items():
        if isinstance(bound, Bound) and bound.min is None and bound.max is None:
            yield Problem(f"constraints.{name}", "bounds nothing; allowed: a number (at most), or {min: , max: }")


def check_reported(study: "Study", before: Iterable[str], after: Iterable[str]) -> None:
    """Raise InputError where a constraint or an objective is none of the metrics that a trial was seen to have.

    before, after: those before training, and in all. What a `train` loop reports is known only when it runs.
    """
    problems = [
        *_metric_problems("constraints", study.constraints, before, None),
        *_metric_problems("objectives", study.objectives, after, study.train),
    ]
    if problems:
        raise InputError(summarize(map(str, problems)))


def _metric_problems(section: str, names: Iterable[str], known: Iterable[str], own: str | None) -> Iterator[Problem]:
    for name in names:
        if name in known or own:
            continue
        if name in METRICS:
            yield Problem(
                f"{section}.{name}",
                f"is not known before training; allowed: {', '.join(known)}, and what `measure` returns",
            )
        else:
            message = f"no trial reports this metric{suggestion(name, known)}; allowed: {', '.join(known)}"
            yield Problem(f"{section}.{name}", message)

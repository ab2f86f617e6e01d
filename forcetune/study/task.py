"""The task that all trials of a study share: objectives, constraints and functions of the user's own."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from forcetune.errors import InputError
from forcetune.names import COMPANION, suggestion
from forcetune.study.problems import Problem, summarize
from forcetune.study.sections import Section

if TYPE_CHECKING:
    from forcetune.study.study import Study

STATIC_METRICS: dict[str, str] = {
    "density": "fraction of prunable weights kept",
    "sparsity": "1 - density",
    "effective_density": "fraction of prunable weights that lie on a path from input to output",
    "macs": "multiply-adds of one sample after removing channels without such a path",
    "macs_fraction": "macs divided by those of the dense network",
    "layers_emptied": "layers that keep no weight",
    "channels_emptied": "output channels that keep no weight, over all layers",
    "collapsed": "1 if no path from input to output is left, else 0",
    "saliency_samples": "samples used to find the mask before training",
    "prune_seconds": "time to find the mask before training",
    "steps_reused": "pruning steps reused from an earlier trial of the worker; `prune_seconds` includes their time",
}
METRICS: dict[str, str] = {
    "train_loss": "mean of `loss` over the steps of the epoch",
    "val_loss": "`loss` on the validation images",
    "val_accuracy": "share of the validation images that are classified correctly, 0 to 1",
    **STATIC_METRICS,
    "trained_macs_fraction": "multiply-adds of a training step divided by those of the dense network; less than 1 "
    "where dead channels are cut out",
    "mask_density": "fraction of prunable weights that the masks keep now, where a rule changes them",
    "settled": "1 where a rule that changes the masks has made its last change, else 0",
    "train_seconds": "training time, including validation",
    "training_flops": "floating-point operations of all training steps, dense or without dead channels",
    "training_flops_sparse": "the same on hardware that skips each pruned weight",
}
COST_METRICS = ("train_seconds", "training_flops", "training_flops_sparse")  # of the training so far
# The static metrics that a trial has before training where a rule changes its masks; the others follow at its end.
PLANNED_METRICS = ("density", "sparsity")
RULE_METRICS = ("mask_density", "settled")  # only where a rule changes the masks, so that no study is judged by them

Direction = Literal["max", "min"]


class Objective(Section):
    """An objective with the point that its hypervolume is measured from."""

    direction: Direction = Field(description="`max` or `min`")
    reference: float = Field(description="worst value that counts towards the hypervolume")


class Bound(Section):
    """The bounds of a static metric, both included."""

    min: float | None = Field(None, description="lowest value allowed")
    max: float | None = Field(None, description="highest value allowed")


@dataclass(frozen=True)
class Task:
    """The part of a study that its trials share; a trial is run by it and by the fields of the trial.

    Attributes:
        constraints: The lower and upper bounds of static metrics, by their names; None for no bound.
        measure: The user's function that measures the pruned network, as `package.module:function`.
        metrics: The user's functions that measure the outputs for the validation images.
        loss: The training loss: a row of TRAINING_LOSSES, or the user's function.
        train: The user's training loop.
        compiled: Whether torch.compile compiles the network.
        tested: Whether the trained network is measured on the test images too.
    """

    constraints: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    measure: str | None = None
    metrics: tuple[str, ...] = ()
    loss: str = "cross_entropy"
    train: str | None = None
    compiled: bool = False
    tested: bool = False

    def find_violation(self, metrics: Mapping[str, float], is_complete: bool = True) -> str | None:
        """Find the first constraint that static metrics break.

        Args:
            metrics: The static metrics, by name.
            is_complete: Whether all static metrics are there; else constraints on others are met so far.

        Returns:
            A message with the metric and its bound; None where all constraints are met.

        Raises:
            ValueError: A constraint bounds a metric that should be there.
        """
        for name, (low, high) in self.constraints.items():
            if name not in metrics and not is_complete:
                continue
            if name not in metrics:
                raise ValueError(f"`measure` did not return {name}, which a constraint uses")
            value = metrics[name]
            if low is not None and not value >= low:
                return f"{name} {value:g} is below the constraint's min {low:g}"
            if high is not None and not value <= high:
                return f"{name} {value:g} is above the constraint's max {high:g}"
        return None


def make_task(study: "Study") -> Task:
    """Return the task of a study. Only companions are measured on test images, so that nothing is chosen by them."""
    bounds = {
        metric: limit if isinstance(limit, Bound) else Bound(max=limit) for metric, limit in study.constraints.items()
    }
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

    Metrics of the user's own functions are not checked here, since their names are known only after a call.
    """
    if study.train and study.resources.compile:
        yield Problem("resources.compile", f"compiles forcetune's training loop, but this study uses {study.train}")
    user_function = "measure" if study.measure else None
    yield from _metric_problems("constraints", study.constraints, STATIC_METRICS, user_function)
    if study.metrics or study.train:
        user_function = "metrics" if study.metrics else "train"
    reported = [name for name in METRICS if name not in RULE_METRICS]
    yield from _metric_problems("objectives", study.objectives, reported, user_function)
    for name, bound in study.constraints.items():
        if isinstance(bound, Bound) and bound.min is None and bound.max is None:
            yield Problem(f"constraints.{name}", "has no bound; allowed: a number (the maximum), or {min: , max: }")


def check_reported(study: "Study", static_metrics: Iterable[str], all_metrics: Iterable[str]) -> None:
    """Check that the trials of a study report the metrics of its constraints and objectives.

    Objectives are not checked where the study has a `train` loop, whose metrics are known only when it runs.

    Args:
        study: The study.
        static_metrics: The names of the static metrics that a trial reports.
        all_metrics: The names of all metrics that a trial reports.

    Raises:
        InputError: No trial reports one of the metrics.
    """
    problems = [
        *_metric_problems("constraints", study.constraints, static_metrics, None),
        *_metric_problems("objectives", study.objectives, all_metrics, study.train),
    ]
    if problems:
        raise InputError(summarize(map(str, problems)))


def _metric_problems(
    section: str, names: Iterable[str], allowed: Iterable[str], user_function: str | None
) -> Iterator[Problem]:
    for name in names:
        if name in allowed or user_function:
            continue
        if section == "objectives" and name in RULE_METRICS:
            message = f"only methods that prune while training report it; allowed: {', '.join(allowed)}"
            yield Problem(f"{section}.{name}", message)
        elif name in METRICS:
            yield Problem(
                f"{section}.{name}",
                f"is not known before training; allowed: {', '.join(allowed)}, and the metrics that `measure` returns",
            )
        else:
            message = f"no trial reports this metric{suggestion(name, allowed)}; allowed: {', '.join(allowed)}"
            yield Problem(f"{section}.{name}", message)

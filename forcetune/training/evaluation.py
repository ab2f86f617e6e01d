"""The metrics of a network on a validation split."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from forcetune.data import AnyBatches
from forcetune.errors import InputError
from forcetune.names import check_metric_name
from forcetune.training.step import Loss

VALIDATION_METRICS = ("val_loss", "val_accuracy")
Metric = Callable[[Tensor, Tensor], float | Mapping[str, float]]  # of logits (N, classes) and classes (N,)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: AnyBatches,
    loss: Loss = functional.cross_entropy,
    metrics: Mapping[str, Metric] | None = None,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, float]:
    """Measure a network in eval mode, without waiting for the device between batches.

    Args:
        model: The network, which is put in eval mode.
        batches: The inputs and classes of the split.
        loss: A function of logits (N, classes) and classes (N,) that returns their mean loss.
        metrics: Functions of all logits (N, classes) and classes (N,) of the split, on the CPU, by name. A function
            returns a number, or several by name; these names then replace its own.
        autocast: A function that returns the context in which the logits and the loss of a batch are computed.

    Returns:
        `val_loss`, `val_accuracy` (0 to 1), and each metric under its name with `val_` before it.

    Raises:
        InputError: Two metrics have the same name, or a metric has the name of the loss or the accuracy.
        ValueError: MLflow does not take the name of a metric.
    """
    model.eval()
    losses, correct, count = [], [], 0
    outputs: list[tuple[Tensor, Tensor]] = []
    for inputs, targets in batches:
        with autocast():
            logits = model(inputs)
            losses.append(loss(logits, targets) * len(targets))
        correct.append((logits.argmax(1) == targets).sum())
        count += len(targets)
        if metrics:
            outputs.append((logits, targets))
    return {
        "val_loss": float(torch.stack(losses).sum()) / count,
        "val_accuracy": int(torch.stack(correct).sum()) / count,
        **(_compute_metrics(metrics, outputs) if metrics else {}),
    }


def _compute_metrics(metrics: Mapping[str, Metric], outputs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    logits, targets = (torch.cat(tensors).cpu() for tensors in zip(*outputs, strict=True))
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits  # metrics may use numpy
    values: dict[str, float] = {}
    for name, metric in metrics.items():
        result = metric(logits, targets)
        named_results = result if isinstance(result, Mapping) else {name: result}
        for key, value in named_results.items():
            metric_name = f"val_{check_metric_name(key)}"
            if metric_name in VALIDATION_METRICS:
                raise InputError(
                    f"metrics: {name} returns {key!r}, but forcetune itself measures {metric_name}; rename your metric"
                )
            if metric_name in values:
                raise InputError(f"metrics: {name} returns {key!r}, which another function returns too; rename one")
            values[metric_name] = float(value)
    return values

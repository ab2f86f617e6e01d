"""What a network says of a validation split."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from forcetune.data import AnyBatches
from forcetune.errors import InputError
from forcetune.names import check_metric_name
from forcetune.training.step import Loss

MEASURED = ("val_loss", "val_accuracy")
Metric = Callable[[Tensor, Tensor], float | Mapping[str, float]]  # of logits (N, classes) and classes (N,)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: AnyBatches,
    loss: Loss = functional.cross_entropy,
    metrics: Mapping[str, Metric] | None = None,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, float]:
    """val_loss, val_accuracy and `val_` with the name of each metric, in eval mode; no batch waits for another.

    metrics: functions of all logits (N, classes) and classes (N,), on the CPU. One returns a number, or several by
    name, which take the place of its own. autocast: in force where the network is fed and its loss is taken, alone.
    """
    model.eval()
    losses, hits, count = [], [], 0
    seen: list[tuple[Tensor, Tensor]] = []
    for inputs, targets in batches:
        with autocast():
            logits = model(inputs)
            losses.append(loss(logits, targets) * len(targets))
        hits.append((logits.argmax(1) == targets).sum())
        count += len(targets)
        if metrics:
            seen.append((logits, targets))
    return {
        "val_loss": float(torch.stack(losses).sum()) / count,
        "val_accuracy": int(torch.stack(hits).sum()) / count,
        **(_measured(metrics, seen) if metrics else {}),
    }


def _measured(metrics: Mapping[str, Metric], seen: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    logits, targets = (torch.cat(parts).cpu() for parts in zip(*seen, strict=True))
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits  # metrics may hand them to numpy
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        value = metric(logits, targets)
        several = value if isinstance(value, Mapping) else {name: value}
        for own, number in several.items():
            shown = f"val_{check_metric_name(own)}"
            if shown in MEASURED:
                raise InputError(
                    f"metrics: {name} returns {own!r}, and forcetune itself measures {shown}; rename yours"
                )
            if shown in found:
                raise InputError(f"metrics: {name} returns {own!r}, and another function of the study does so too")
            found[shown] = float(number)
    return found

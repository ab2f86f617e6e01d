"""A trial that is trained again, epoch by epoch, and what differs from its run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forcetune.cli.terminal.layout import console
from forcetune.search.printing import print_line

if TYPE_CHECKING:
    from forcetune.execution.retraining import Retrained
    from forcetune.tracking import Epoch

SHOWN_DIFFERENCES = 4  # metrics that differ


def show_epoch(epoch: Epoch) -> None:
    """Print the metrics of an epoch of a training on one line."""
    names = [name for name in ("train_loss", "val_loss", "val_accuracy") if name in epoch.metrics]
    values = ", ".join(f"{name} {epoch.metrics[name]:.6g}" for name in names)
    print_line(console(), f"epoch {epoch.step}: {values}")


def report_retrained(run: str, retrained: Retrained) -> None:
    """Print what the training of a run has given, and where it differs from the run.

    Args:
        run: The run, as the user has named it.
        retrained: The result of the training.
    """
    lines = []
    if not retrained.size:
        lines.append(f"{run} has its weights already, so nothing was trained. From now on no search deletes them")
    else:
        lines.append(f"{run} keeps its weights: {retrained.size / 1024:.1f} KiB, which no search deletes")
        lines.append(_describe_differences(run, retrained))
    lines.append(f'in Python: forcetune.load_network("{run}")')
    print_line(console(), "\n".join(lines))


def _describe_differences(run: str, retrained: Retrained) -> str:
    differences = [
        f"{name} {now:.9g}, where the run has {before:.9g}" for name, (before, now) in retrained.differences.items()
    ]
    if len(differences) > SHOWN_DIFFERENCES:
        differences = [*differences[:SHOWN_DIFFERENCES], f"and {len(differences) - SHOWN_DIFFERENCES} more"]
    if retrained.changed_masks:
        differences.append(f"{retrained.changed_masks} weights that only the masks of one of the two keep")
    if not differences:
        return "this training gave the numbers of the run to the last digit"
    return (
        f"this training is not the run's: {', '.join(differences)}. Another machine, device or version of torch, or a "
        "function of your own that has changed, gives other digits. The weights are those of this training, and "
        f"load_network knows its numbers; the metrics of {run} stay as they are"
    )

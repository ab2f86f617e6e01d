"""Champions against their twins: verdicts, nights, what is planned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from forcetune.show.layout import console, present, ruled

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.baseline import Findings, Plan, Share


def plan_of_comparisons(planned: Plan, left_out: int, rivals: Sequence[str]) -> list[str]:
    """What is about to be run, what it costs and what it can show, line by line.

    left_out: champions that are not compared, so that it takes an hour at most.
    """
    lines = [*planned.by_chance]
    if not planned.champions:
        return [*lines, "there is nothing to compare"]
    names = ", ".join(f"{one.name} ({one.label} at {one.sparsity:.2%})" for one in planned.champions)
    lines.append(f"champions: {names}")
    if left_out:
        lines.append(
            f"points of the front that are left out, so that this takes about an hour on a device: {left_out}; "
            "--top, --bands or --seeds choose what is compared"
        )
    lines.append(
        f"{planned.comparisons} comparisons, each champion with {', '.join(rivals)}; {planned.seeds} pairs of a "
        "comparison, each with a seed of its own"
    )
    if not planned.runs:
        return [*lines, "nothing is left to be run"]
    lines.append(f"{planned.runs} runs, about {planned.device_hours:.2g} device hours")
    effect, points = planned.shows
    if not math.isfinite(effect):
        return [*lines, f"{planned.seeds} pairs are too few for any verdict over {planned.comparisons} comparisons"]
    what = f"{points:.2g} points" if points is not None else f"{effect:.2g} standard deviations of the differences"
    lines.append(f"{planned.seeds} pairs show a mean difference of {what} or more in four of five cases")
    return lines


def verdicts(found: pd.DataFrame, margin: float) -> None:
    """A row a comparison, those with twins that inherit settings apart from those with tuned ones; what it means."""
    out = console()
    if found.empty:
        out.print("there is nothing to compare")
        return
    titles = {"fixed": "the twin has the champion's settings", "tuned": "random pruning has settings of its own"}
    for kind, title in titles.items():
        rows = found[found["kind"] == kind]
        if len(rows):
            out.print(f"\n{kind}: {title}", highlight=False)
            out.print(_verdicts(rows))
    out.print(
        "\ndifference: champion minus twin in points of test accuracy, mean over pairs with one seed each, and "
        f"Student's 95 % interval. ties: the mean lies within {margin:g} points, by two one-sided tests. p: of "
        "no difference, by all flips of the pairs' signs, corrected by Holm over all comparisons. least p: the "
        "smallest, uncorrected, that so many pairs allow. needed: pairs in all that would probably settle it",
        soft_wrap=True,
        highlight=False,
    )
    if (lost := int(found["lost"].sum())) > 0:
        out.print(f"{lost} pairs say nothing, since a run failed", soft_wrap=True)
    if (diverged := int(found["diverged"].sum())) > 0:
        out.print(f"in {diverged} pairs a training diverged; it counts at the accuracy of guessing", soft_wrap=True)


def shares(found: list[Share]) -> None:
    """What a night would do."""
    out = console()
    table = ruled("study", "runs", "device hours", left=1)
    for share in found:
        table.add_row(share.study, str(len(share.companions)), f"{share.device_hours:.2g}")
    out.print(table)
    for note in (note for share in found for note in share.notes):
        out.print(note, soft_wrap=True, highlight=False)


def night(found: Findings, margin: float) -> None:
    """What a night has found."""
    out = console()
    out.print(f"night of {found.night}", highlight=False)
    if len(found.verdicts):
        out.print(_standing(found.verdicts.to_dict("records")))
        out.print(
            "difference: over all nights, with Student's 95 % interval, points of test accuracy. p: by which the "
            "verdict was reached, or of the pairs so far, corrected for looking every night and for all comparisons. "
            f"ties: within {margin:g} points",
            soft_wrap=True,
            highlight=False,
        )
    else:
        out.print("nothing was compared")
    for watch in found.watches:
        drift = watch.drift
        told = f"{drift.changed} of {drift.runs} changed, {watch.shift:+.2f} points" if drift.nights else "first night"
        out.print(f"sentinels of {watch.study}, {watch.arm}: {told}", highlight=False)
    for note in found.notes:
        out.print(note, soft_wrap=True, highlight=False)
    for alarm in found.alarms:
        out.print(f"ALARM: {alarm}", soft_wrap=True, highlight=False)


def schedule(planned: dict[str, str], last: dict[str, dict[str, Any]]) -> None:
    """Nights to come, and the last ones with their verdicts."""
    out = console()
    for file, when in planned.items():
        out.print(f"next night of {file}: {when}", soft_wrap=True, highlight=False)
    if not planned:
        out.print("the crontab starts no night; `forcetune schedule cron FILE --at HH:MM --install` lets it")
    for name, told in last.items():
        out.print(f"last night of {name}: {told['night']}, {told['outcome']}, run {told['run']}", highlight=False)
        for alarm in told["alarms"]:
            out.print(f"ALARM: {alarm}", soft_wrap=True, highlight=False)
        if told["verdicts"]:
            out.print(_standing(told["verdicts"]))
    if not last:
        out.print("MLflow has no night yet")


def _standing(rows: list[dict[Any, Any]]) -> Table:
    header = "study", "champion", "method", "sparsity", "against", "pairs", "difference", "p", "verdict", "since"
    table = ruled(*header, left=3)
    for column in table.columns:
        if column.header in ("against", "verdict", "since"):
            column.justify = "left"
    for row in map(present, rows):
        interval = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if "low" in row else ""
        table.add_row(
            *(
                row["study"],
                row["champion"],
                row["method"],
                f"{row['sparsity']:.2%}",
                row["against"],
                str(row["pairs"]),
            ),
            *(f"{row['mean']:+.2f}{interval}", f"{row['p']:.2g}", row["holds"], row.get("since") or "-"),
        )
    return table


def _verdicts(rows: pd.DataFrame) -> Table:
    header = "champion", "method", "sparsity", "accuracy", "against", "accuracy", "pairs", "difference", "p", "least p"
    table = ruled(*header, "verdict", "needed", left=2)
    for name in ("against", "verdict"):
        next(column for column in table.columns if column.header == name).justify = "left"
    for row in map(present, rows.to_dict("records")):
        sparsity = f"{row['sparsity']:.2%}" if "sparsity" in row else row["band"]
        accuracies = [f"{row[name]:.2%}" if name in row else "-" for name in ("accuracy", "twin_accuracy")]
        interval = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if "low" in row else ""
        difference = f"{row['mean']:+.2f}{interval}" if "mean" in row else "-"
        needed = str(int(row["needed"])) if "needed" in row else "-"
        p = f"{row['p_difference']:.2g}" if "p_difference" in row else "-"
        table.add_row(
            *(row["champion"], row["method"], sparsity, accuracies[0], row["against"], accuracies[1]),
            *(str(row["pairs"]), difference, p, f"{row['least_p']:.2g}", row["verdict"], needed),
        )
    return table

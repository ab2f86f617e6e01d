"""Champions and their twins: plans, verdicts and nights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forcetune.cli.terminal.layout import console
from forcetune.formats import format_sparsity
from forcetune.report.tables import Table
from forcetune.report.verdicts import tabulate_verdicts

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.baseline import Findings, Plan, Share

COMPARISON_COLUMNS = (
    *("champion", "method", "sparsity", "accuracy", "against", "twin accuracy"),
    *("pairs", "difference", "p", "least p", "verdict", "needed"),
)
NIGHT_COLUMNS = (
    *("study", "champion", "method", "sparsity", "against"),
    *("pairs", "difference", "p", "verdict", "since"),
)


def describe_plan(plan: Plan, left_out: int, rivals: Sequence[str]) -> list[str]:
    """Return lines that say what would run, what it costs, and which difference it can show.

    Args:
        plan: The comparisons of a study.
        left_out: Number of champions that are not compared, so that it takes about one hour on a device.
        rivals: The rivals that each champion is compared with.
    """
    lines = [*plan.exclusion_reasons]
    if not plan.champions:
        return [*lines, "there is nothing to compare"]
    names = ", ".join(
        f"{champion.name} ({champion.label} at {format_sparsity(champion.sparsity)})" for champion in plan.champions
    )
    lines.append(f"champions: {names}")
    if left_out:
        lines.append(
            f"points of the front that are left out, so that this takes about an hour on a device: {left_out}; "
            "--top, --bands or --seeds choose the comparisons"
        )
    lines.append(
        f"{plan.comparisons} comparisons: each champion with {', '.join(rivals)}; {plan.seeds} pairs per "
        "comparison, each pair with its own seed"
    )
    if not plan.runs:
        return [*lines, "all runs are finished"]
    lines.append(f"{plan.runs} runs, about {plan.device_hours:.2g} device hours")
    effect, points = plan.detectable_difference
    if not math.isfinite(effect):
        return [*lines, f"{plan.seeds} pairs are too few for any verdict over {plan.comparisons} comparisons"]
    difference = (
        f"{points:.2g} points" if points is not None else f"{effect:.2g} standard deviations of the differences"
    )
    lines.append(f"{plan.seeds} pairs detect a mean difference of {difference} or more in four of five cases")
    return lines


def verdicts(comparisons: pd.DataFrame, margin: float) -> None:
    """Print one row for each comparison, and what the columns mean.

    Comparisons with twins that have the champion's settings stand apart from those with tuned twins.

    Args:
        comparisons: The verdicts, as `baseline.conclude` returns them.
        margin: Points of accuracy within which two are as good as each other.
    """
    out = console()
    if comparisons.empty:
        out.print("there is nothing to compare")
        return
    titles = {"fixed": "the twin has the champion's settings", "tuned": "random pruning has its own tuned settings"}
    for kind, title in titles.items():
        rows = comparisons[comparisons["kind"] == kind]
        if len(rows):
            out.print(f"\n{kind}: {title}", highlight=False)
            out.print(tabulate_verdicts(rows.to_dict("records"), COMPARISON_COLUMNS).to_terminal())
    out.print(
        "\ndifference: champion minus twin in points of test accuracy, mean over pairs, one seed for each pair, with "
        f"Student's 95 % interval. ties: the mean lies within {margin:g} points, by two one-sided tests. p: of "
        "no difference, by all flips of the pairs' signs, with Holm's correction over all comparisons. least p: the "
        "smallest uncorrected p that this number of pairs allows. needed: total number of pairs that would probably "
        "decide the comparison",
        soft_wrap=True,
        highlight=False,
    )
    if (lost := int(comparisons["lost"].sum())) > 0:
        out.print(f"{lost} pairs have no result, since a run failed", soft_wrap=True)
    if (diverged := int(comparisons["diverged"].sum())) > 0:
        out.print(f"in {diverged} pairs a training diverged; it counts with the accuracy of guessing", soft_wrap=True)


def shares(study_shares: list[Share]) -> None:
    """Print what a night would do.

    Args:
        study_shares: What it would run for each study.
    """
    out = console()
    rows = [[share.study, str(len(share.companions)), f"{share.device_hours:.2g}"] for share in study_shares]
    out.print(Table(["study", "runs", "device hours"], rows, {"study"}).to_terminal())
    for note in (note for share in study_shares for note in share.notes):
        out.print(note, soft_wrap=True, highlight=False)


def night(findings: Findings, margin: float) -> None:
    """Print the findings of a night.

    Args:
        findings: The findings.
        margin: Points of accuracy within which two are as good as each other.
    """
    out = console()
    out.print(f"night of {findings.night}", highlight=False)
    if len(findings.verdicts):
        out.print(tabulate_verdicts(findings.verdicts.to_dict("records"), NIGHT_COLUMNS).to_terminal())
        out.print(
            "difference: points of test accuracy over all nights, with Student's 95 % interval. p: of the test that "
            "decided the verdict, or of no difference over the pairs so far; corrected for looking every night and for "
            f"all comparisons. ties: within {margin:g} points",
            soft_wrap=True,
            highlight=False,
        )
    else:
        out.print("there was no comparison")
    for watch in findings.watches:
        drift = watch.drift
        change = (
            f"{drift.changed} of {drift.runs} changed, {watch.shift:+.2f} points" if drift.nights else "first night"
        )
        out.print(f"sentinels of {watch.study}, {watch.arm}: {change}", highlight=False)
    for note in findings.notes:
        out.print(note, soft_wrap=True, highlight=False)
    for alarm in findings.alarms:
        out.print(f"ALARM: {alarm}", soft_wrap=True, highlight=False)


def schedule(next_nights: dict[str, str], last_nights: dict[str, dict[str, Any]]) -> None:
    """Print the nights to come, and the last ones with their verdicts.

    Args:
        next_nights: When the next night starts, by file.
        last_nights: The records of the last nights, as `baseline.load_last_nights` returns them.
    """
    out = console()
    for file, when in next_nights.items():
        out.print(f"next night of {file}: {when}", soft_wrap=True, highlight=False)
    if not next_nights:
        out.print("the crontab starts no night; `forcetune schedule cron FILE --at HH:MM --install` installs one")
    for name, record in last_nights.items():
        out.print(f"last night of {name}: {record['night']}, {record['outcome']}, run {record['run']}", highlight=False)
        for alarm in record["alarms"]:
            out.print(f"ALARM: {alarm}", soft_wrap=True, highlight=False)
        if record["verdicts"]:
            out.print(tabulate_verdicts(record["verdicts"], NIGHT_COLUMNS).to_terminal())
    if not last_nights:
        out.print("MLflow has no night yet")

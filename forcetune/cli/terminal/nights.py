"""Champions and their twins: plans, verdicts and nights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forcetune.cli.terminal.layout import console
from forcetune.formats import format_hours, format_sparsity
from forcetune.report.tables import Table
from forcetune.report.verdicts import tabulate_verdicts
from forcetune.search.printing import print_line

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table as TerminalTable

    from forcetune.baseline import Findings, Plan, Share

COMPARISON_COLUMNS = (
    *("champion", "method", "sparsity", "accuracy", "against", "twin accuracy"),
    *("pairs", "difference", "p", "least p", "verdict", "collapses", "needed"),
)
SHRINKING_COMPARISON_COLUMNS = {"verdict", "collapses"}  # they need two lines where the terminal is narrow
NIGHT_COLUMNS = (
    *("study", "champion", "method", "sparsity", "against"),
    *("pairs", "difference", "p", "collapses", "verdict", "since", "state"),
)
SHRINKING_NIGHT_COLUMNS = {"state"}


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
    lines.append(f"{plan.runs} runs, about {format_hours(plan.device_hours)} device hours")
    return [*lines, *_describe_power(plan)]


def _describe_power(plan: Plan) -> list[str]:
    """Return lines that say what this number of pairs can show about accuracies and collapses."""
    effect, points = plan.detectable_difference
    if not math.isfinite(effect):
        return [f"{plan.seeds} pairs are too few for any verdict over {plan.comparisons} comparisons"]
    if plan.noise and points is not None:
        difference = (
            f"{points:.2g} points or more in 80 % of cases, by the noise of {plan.noise.source}: a standard deviation "
            f"of {plan.noise.deviation:.2g} points"
        )
    else:
        difference = (
            f"{effect:.2g} standard deviations of the differences or more in 80 % of cases; in points this is unknown, "
            "because the study has no runs with fresh seeds yet: `search: {seeds: {front: 5}}` starts some"
        )
    return [
        f"{plan.seeds} pairs detect a mean difference of {difference}",
        f"{plan.seeds} pairs without a collapse show that one arm alone collapses in at most "
        f"{100 * plan.collapse_bound:.0f} % of pairs; a tie that includes collapses needs {plan.collapse_pairs} such "
        "pairs",
    ]


def verdicts(comparisons: pd.DataFrame, margin: float, collapse_margin: float) -> None:
    """Print one row for each comparison, and what the columns mean.

    Comparisons with twins that have the champion's settings stand apart from those with tuned twins.

    Args:
        comparisons: The verdicts, as `baseline.conclude` returns them.
        margin: Points of accuracy within which two are as good as each other.
        collapse_margin: The difference of two rates of collapses, from 0 to 1, within which they count as equal.
    """
    out = console()
    if comparisons.empty:
        print_line(out, "there is nothing to compare")
        return
    titles = {"fixed": "the twin has the champion's settings", "tuned": "random pruning has its own tuned settings"}
    for kind, title in titles.items():
        rows = comparisons[comparisons["kind"] == kind]
        if len(rows):
            print_line(out, f"\n{kind}: {title}")
            table = tabulate_verdicts(rows.to_dict("records"), COMPARISON_COLUMNS)
            out.print(table.to_terminal(SHRINKING_COMPARISON_COLUMNS))
    out.print(
        "\ndifference: champion minus twin in points of test accuracy, mean over the pairs in which both runs live, "
        "one seed for each pair, with Student's 95 % interval. p: of no difference, by all flips of the pairs' "
        "signs, with Holm's correction over all comparisons. least p: the smallest uncorrected p that this number "
        f"of pairs allows. ties: the mean lies within {margin:g} points, by two one-sided tests. under symmetric "
        "differences: a second test, which allows for skewed differences, does not agree. collapses: runs of the "
        "champion and of the twin that collapsed, diverged or only guess, of all pairs, and how often one arm "
        "alone may do so (an upper bound for all comparisons together, with 95 % confidence; both arms count as "
        f"collapsing equally often below {100 * collapse_margin:g} %). needed: total number of pairs in which both "
        "runs live that would probably decide the comparison",
        soft_wrap=True,
        highlight=False,
    )
    if (lost := int(comparisons["lost"].sum())) > 0:
        print_line(out, f"{lost} pairs have no result, since a run failed")
    if (diverged := int(comparisons["diverged"].sum())) > 0:
        print_line(out, f"in {diverged} pairs a training diverged; it counts as a collapse")


def shares(study_shares: list[Share]) -> None:
    """Print what a night would do.

    Args:
        study_shares: What it would run for each study.
    """
    out = console()
    rows = [[share.study, str(len(share.companions)), format_hours(share.device_hours)] for share in study_shares]
    out.print(Table(["study", "runs", "device hours"], rows, {"study"}).to_terminal())
    for note in (note for share in study_shares for note in share.notes):
        print_line(out, note)


def night(findings: Findings, margin: float) -> None:
    """Print the findings of a night.

    Args:
        findings: The findings.
        margin: Points of accuracy within which two are as good as each other.
    """
    out = console()
    print_line(out, f"night of {findings.night}")
    if len(findings.verdicts):
        out.print(_tabulate_night(findings.verdicts.to_dict("records")))
        print_line(
            out,
            "difference: points of test accuracy over all nights where both runs live, with Student's 95 % interval. "
            "p: of the test that decided the verdict, or of no difference over the pairs so far; it holds however "
            "often it is read, and for all comparisons. collapses: runs of the champion and of the twin that collapsed "
            "or diverged, of all pairs, and how often one arm alone may do so (an upper bound that holds on all nights "
            f"and for all comparisons, with 95 % confidence). ties: within {margin:g} points",
        )
    else:
        print_line(out, "there was no comparison")
    for watch in findings.watches:
        drift = watch.drift
        since = f" since {watch.since}" if watch.since else ""
        shift = f", {watch.shift:+.2f} points" if math.isfinite(watch.shift) else ""  # nan where no run has ended
        change = f"{drift.changed} of {drift.runs} changed{shift}{since}" if drift.nights else "first night"
        print_line(out, f"sentinels of {watch.study}, {watch.arm}: {change}")
    for proof in findings.proofs:
        if proof.accuracy is not None and not proof.problem:
            print_line(
                out, f"{proof.label} agrees with its run: {proof.accuracy:.2%} of {proof.samples} validation images"
            )
    for note in findings.notes:
        print_line(out, note)
    for alarm in findings.alarms:
        print_line(out, f"ALARM: {alarm}")


def _tabulate_night(rows: Sequence[Mapping[Any, Any]]) -> TerminalTable:
    return tabulate_verdicts(rows, NIGHT_COLUMNS).to_terminal(SHRINKING_NIGHT_COLUMNS)


def schedule(next_nights: dict[str, str], last_nights: dict[str, dict[str, Any]]) -> None:
    """Print the nights to come, and the last ones with their verdicts.

    Args:
        next_nights: When the next night starts, by file.
        last_nights: The records of the last nights, as `baseline.load_last_nights` returns them.
    """
    out = console()
    for file, when in next_nights.items():
        print_line(out, f"next night of {file}: {when}")
    if not next_nights:
        print_line(out, "the crontab starts no night; `forcetune schedule cron FILE --at HH:MM --install` installs one")
    for name, record in last_nights.items():
        print_line(out, f"last night of {name}: {record['night']}, {record['outcome']}, run {record['run']}")
        for alarm in record["alarms"]:
            print_line(out, f"ALARM: {alarm}")
        if record["verdicts"]:
            out.print(_tabulate_night(record["verdicts"]))
    if not last_nights:
        print_line(out, "MLflow has no night yet")

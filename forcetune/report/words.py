"""What the page says in sentences and in plain tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from forcetune import analysis
from forcetune.report import listing, numbers, paper
from forcetune.report.columns import heading, is_share
from forcetune.report.evidence import Evidence
from forcetune.report.looks import percent
from forcetune.times import duration

OUTCOMES = {"stopped": "stopped early", "running": "running"}
WITHIN = 1.0  # points of accuracy
VERDICTS = (
    "Difference: champion minus twin in points of test accuracy, mean over pairs that share a seed, with Student's "
    "95 % interval. Ties: the mean lies within the margin. p: of no difference, by all flips of the pairs' signs, "
    "corrected for all comparisons."
)


def lead(evidence: Evidence) -> list[str]:
    """The headline facts, a sentence or two each, as HTML."""
    trials = evidence.trials
    return [sentence for sentence in (_counted(trials), _answer(evidence), _controls(trials)) if sentence]


def _counted(trials: pd.DataFrame) -> str:
    counts = ", ".join(f"{count:,} {OUTCOMES.get(name, name)}" for name, count in numbers.counts(trials).items())
    labels, front = trials["label"].nunique(), int(trials["on_front"].sum())
    methods = f"{labels} methods" if labels > 1 else f"the method {escape(trials['label'].iloc[0])}"
    points = {0: "none of them stands on the front", 1: "one stands on the front"}.get(
        front, f"{front} stand on the front"
    )
    count = "One trial" if len(trials) == 1 else f"{len(trials):,} trials"
    return f"<strong>{count}</strong> of {methods}: {escape(counts)}; <strong>{points}</strong>. {_state(trials)}"


def _state(trials: pd.DataFrame) -> str:
    hours, state = trials.attrs.get("device_hours"), trials.attrs.get("state")
    took = f"took {duration(3600 * hours)} on a device" if hours else ""
    if state == "RUNNING":
        so_far = f" and has taken {duration(3600 * hours)} on a device so far." if hours else "."
        return f"The search is <strong>still running</strong>{so_far}"
    ended = "is finished" if state == "FINISHED" else f"ended as {escape(str(state))}"
    return f"The search {ended}" + (f" and {took}." if took else ".")


def _answer(evidence: Evidence) -> str:
    """The knee, and what is as good as unpruned."""
    trials = evidence.trials
    front = trials[trials["on_front"]]
    front.attrs = trials.attrs
    said = [f"The knee of the front is {_point(row, trials)}." for row in analysis.knee(front).to_dict("records")]
    for line in analysis.unpruned(evidence.dense, trials.attrs["quality"]).to_dict("records"):
        reached = _value(line["mean"], line["low"], line["high"], trials)
        runs = f"mean of {line['seeds']} runs" if line["seeds"] > 1 else "one run"
        said.append(f"Unpruned, {escape(line['model'] or 'the network')} reaches {reached} ({runs}).")
    return " ".join([*said, *_near_dense(evidence)])


def _controls(trials: pd.DataFrame) -> str:
    """How many points of the front are controls, or beaten by one."""
    front = trials[trials["on_front"]]
    tried = trials[analysis.is_control(trials)]
    if not len(front) or not len(tried):
        return ""
    if not (tried["outcome"] == "trained").any():
        return (
            f"{len(tried)} controls (random pruning, or a small dense network) were tried; none was trained to its end."
        )
    own, beaten = int(analysis.is_control(front).sum()), int(front["beaten_by"].notna().sum())
    controls = "one is a control" if own == 1 else f"{own or 'none'} are controls"
    others = "one is beaten by a control" if beaten == 1 else f"{beaten or 'none'} are beaten by a control"
    return (
        f"Of the front's {len(front)} points {controls} (random pruning, or a small dense network), and "
        f"<strong>{others}</strong>, which is as accurate with no more of the network's weights, or no more "
        "multiply-adds."
    )


def _near_dense(evidence: Evidence) -> list[str]:
    """Of each network the sparsest trial that is as good as unpruned, where accuracy is what counts."""
    trials = evidence.trials
    if trials.attrs["quality"] != "val_accuracy" or not len(analysis.unpruned(evidence.dense, "val_accuracy")):
        return []
    rows = analysis.near_dense(trials, evidence.dense, WITHIN).to_dict("records")
    several = len(rows) > 1
    return [
        f"The sparsest trial{_of_model(row) if several else ''} within {WITHIN:g} point of that is "
        f"{_point(row, trials)}."
        for row in rows
    ]


def _of_model(row: Mapping[Any, Any]) -> str:
    return f" of {escape(str(row.get('model', 'a network')))}"


def _point(row: Mapping[Any, Any], trials: pd.DataFrame) -> str:
    """A trial: its method, sparsity and what it reaches."""
    told = f"<strong>{escape(row['label'])} at {percent(round(row['sparsity'], 5))} sparsity</strong>"
    value = _value(row["reached"], row["low"], row["high"], trials)
    others = "".join(f", {escape(heading(name))} {row[name]:.4g}" for name in listing.others(trials))
    return f"{told} with {value}{others} ({escape(row['name'])})"


def _value(mean: float, low: float, high: float, trials: pd.DataFrame) -> str:
    """What is reached, with half of its interval where there is one."""
    quality = trials.attrs["quality"]
    what = escape(heading(quality))
    if not is_share(quality):
        return f"{what} {mean:.4g}" + ("" if pd.isna(low) else f" ± {(high - low) / 2:.2g}")
    return f"{mean:.1%}" + ("" if pd.isna(low) else f" ± {50 * (high - low):.1f}") + f" {what}"


def notes(trials: pd.DataFrame) -> list[str]:
    """How far the main figure may be believed."""
    said = []
    front = trials[trials["on_front"]]
    again = front["seeds"].fillna(0) > 0 if "seeds" in front else front["on_front"] & False
    alone = int((~again).sum())
    if again.any():
        rest = f" Only one seed stands behind {alone} of the front's points." if alone else ""
        said.append(f"Points that were run again with fresh seeds are shown at the mean over those.{rest}")
    elif len(front):
        said.append(
            "One seed stands behind each point; `search: {seeds: {front: 5}}` runs the front again with fresh ones."
        )
    if hidden := len(trials) - len(numbers.plotted(trials)):
        said.append(f"{hidden} of the {len(trials)} trials tell no value to show here: they are in the list alone.")
    return said


def front_table(trials: pd.DataFrame) -> tuple[list[str], list[list[str]], set[str]]:
    """The front for paper: header, rows, and the columns that are words."""
    front = trials[trials["on_front"]]
    quality = heading(trials.attrs["quality"])
    extra = [name for name in ("iterations", "schedule", *listing.others(trials), "seeds", "macs") if name in front]
    has_beaten = front["beaten_by"].notna().any()
    told = [*map(heading, extra), *(["beaten by"] if has_beaten else [])]
    header = ["trial", "method", "sparsity", quality.removeprefix("validation "), *told, "run id"]
    rows = [
        [
            str(row["name"]),
            row["label"],
            percent(round(row["sparsity"], 5)),
            _value(row["reached"], row["low"], row["high"], trials).removesuffix(f" {quality}"),
            *(_cell(row[name]) for name in extra),
            *([beaten_by(row)] if has_beaten else []),
            row["run_id"],
        ]
        for row in front.to_dict("records")
    ]
    return header, rows, {"trial", "method", "schedule", "beaten by", "run id"}


def beaten_by(row: Mapping[Any, Any]) -> str:
    """The control that beats a point of the front, and at what equal cost."""
    return f"{row['beaten_by']} ({analysis.COSTS[row['beaten_at']]})" if row["beaten_by"] else "-"


def _cell(value: Any) -> str:
    if pd.isna(value):
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def verdict_table(verdicts: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]], set[str]]:
    """Header, rows, and the columns that are words."""
    header = ["champion", "method", "sparsity", "against", "pairs", "difference", "p", "verdict", "needed"]
    rows = [
        [
            str(row["champion"]),
            str(row["method"]),
            percent(round(row["sparsity"], 5)) if row.get("sparsity") is not None else str(row.get("band", "-")),
            str(row["against"]),
            str(row["pairs"]),
            _difference(row),
            _known(row.get("p_difference"), ".2g"),
            str(row["verdict"]),
            _known(row.get("needed"), ".0f"),
        ]
        for row in verdicts
    ]
    return header, rows, {"champion", "method", "against", "verdict"}


def _difference(row: Mapping[str, Any]) -> str:
    if row.get("mean") is None:
        return "-"
    interval = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if row.get("low") is not None else ""
    return f"{row['mean']:+.2f}{interval}"


def _known(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def left_out(evidence: Evidence, drawn: set[str]) -> list[str]:
    """What the page does not show, and why."""
    trials, quality = evidence.trials, heading(evidence.trials.attrs["quality"])
    why = {
        "main": f"sparsity against {quality}, since no trial tells both",
        "methods": f"methods side by side, since fewer than two tell {quality}",
        "iterations": f"iterations and schedules, since {_why_no_iterations(trials)}",
        "layers": f"density by layer, since {_why_no_layers(trials)}",
        "growth": "the hypervolume, since no trial trained to its end is better than where it is measured from",
        "curves": "learning curves, since nothing was measured epoch by epoch",
    }
    said = [reason for name, reason in why.items() if name not in drawn]
    if not len(analysis.unpruned(evidence.dense, trials.attrs["quality"])):
        said.append("the line of unpruned networks, since none was trained beside the study")
    if len(numbers.control_front(trials)) < 2 and not len(evidence.twins):
        said.append("the line of the controls, since fewer than two points make up their front")
    if not evidence.verdicts:
        said.append(f"verdicts against random twins, since `forcetune baseline {evidence.study}` has left none")
    return said


def _why_no_layers(trials: pd.DataFrame) -> str:
    return "no run of the front has a layers.json" if trials["on_front"].any() else "the front is empty"


def _why_no_iterations(trials: pd.DataFrame) -> str:
    if len(paper.of_iterations(trials)):
        return "too few trials of one network were trained to tell what is usual at their density"
    return "no two numbers of pruning iterations were tried"

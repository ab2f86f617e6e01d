"""The sentences and the plain tables of the page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from forcetune import analysis
from forcetune.formats import duration, format_flops, format_percent
from forcetune.report import listing, numbers, paper
from forcetune.report.columns import format_heading, is_share
from forcetune.report.evidence import Evidence
from forcetune.report.results import Results
from forcetune.report.tables import Table

OUTCOME_WORDS = {"stopped": "stopped early", "running": "running"}
NEAR_DENSE_POINTS = 1.0


def write_lead(evidence: Evidence) -> list[str]:
    """Write the headline facts as HTML, a sentence or two each."""
    results = evidence.results
    sentences = _describe_counts(results), _describe_answer(evidence), _describe_controls(results.trials)
    return [sentence for sentence in sentences if sentence]


def _describe_counts(results: Results) -> str:
    trials = results.trials
    counts = ", ".join(
        f"{count:,} {OUTCOME_WORDS.get(name, name)}" for name, count in numbers.count_outcomes(trials).items()
    )
    labels, front = trials["label"].nunique(), int(trials["on_front"].sum())
    methods = f"{labels} methods" if labels > 1 else f"the method {escape(trials['label'].iloc[0])}"
    points = {0: "none of them is on the front", 1: "one is on the front"}.get(front, f"{front} are on the front")
    count = "One trial" if len(trials) == 1 else f"{len(trials):,} trials"
    sentence = f"<strong>{count}</strong> of {methods}: {escape(counts)}; <strong>{points}</strong>."
    return f"{sentence} {_describe_state(results)}"


def _describe_state(results: Results) -> str:
    hours, state = results.device_hours, results.state
    took = f"took {duration(3600 * hours)} of device time" if hours else ""
    if state == "RUNNING":
        so_far = f" and has taken {duration(3600 * hours)} of device time so far." if hours else "."
        return f"The search is <strong>still running</strong>{so_far}"
    ended = "is finished" if state == "FINISHED" else f"ended with the state {escape(state)}"
    return f"The search {ended}" + (f" and {took}." if took else ".")


def _describe_answer(evidence: Evidence) -> str:
    """Describe the knee of the front, the unpruned networks, and the sparsest trials that are as good as those."""
    results = evidence.results
    knee = analysis.knee(results.trials[results.trials["on_front"]], results.objectives)
    sentences = [f"The knee of the front is {_describe_point(row, results)}." for row in knee.to_dict("records")]
    for network in analysis.summarize_dense(evidence.dense, results.quality).to_dict("records"):
        value = _format_quality(network["mean"], network["low"], network["high"], results.quality)
        runs = f"mean of {network['seeds']} runs" if network["seeds"] > 1 else "one run"
        sentences.append(f"Without pruning, {escape(network['model'] or 'the network')} reaches {value} ({runs}).")
    return " ".join([*sentences, *_describe_near_dense(evidence)])


def _describe_controls(trials: pd.DataFrame) -> str:
    """Describe how many points of the front are controls, and how many a control beats."""
    front, tried_controls = trials[trials["on_front"]], trials[analysis.is_control(trials)]
    if not len(front) or not len(tried_controls):
        return ""
    if not (tried_controls["outcome"] == "trained").any():
        return (
            f"None of the controls that were tried ({len(tried_controls)}; random pruning or a small dense network) "
            "was trained to its end."
        )
    control_count, beaten_count = int(analysis.is_control(front).sum()), int(front["beaten_by"].notna().sum())
    controls = "one is a control" if control_count == 1 else f"{control_count or 'none'} are controls"
    beaten = "one is beaten by a control" if beaten_count == 1 else f"{beaten_count or 'none'} are beaten by a control"
    return (
        f"Of the front's {len(front)} points, {controls} (random pruning or a small dense network), and "
        f"<strong>{beaten}</strong>. A control beats a point if it is at least as accurate with no more of the "
        "network's weights, or with no more multiply-adds."
    )


def _describe_near_dense(evidence: Evidence) -> list[str]:
    """Describe the sparsest trial of each network that is as good as unpruned, where accuracy counts."""
    results = evidence.results
    if results.quality != "val_accuracy" or not len(analysis.summarize_dense(evidence.dense, "val_accuracy")):
        return []
    rows = analysis.near_dense(results.trials, evidence.dense, NEAR_DENSE_POINTS).to_dict("records")
    has_several = len(rows) > 1
    return [
        f"The sparsest trial{_describe_model(row) if has_several else ''} within {NEAR_DENSE_POINTS:g} point of "
        f"the unpruned network is {_describe_point(row, results)}."
        for row in rows
    ]


def _describe_model(row: Mapping[Any, Any]) -> str:
    return f" of {escape(str(row.get('model', 'a network')))}"


def _describe_point(row: Mapping[Any, Any], results: Results) -> str:
    """Describe a trial by its method, its sparsity and its objectives."""
    summary = f"<strong>{escape(row['label'])} at {format_percent(row['sparsity'])} sparsity</strong>"
    value = _format_quality(row["reached"], row["low"], row["high"], results.quality)
    other_values = "".join(
        f", {escape(format_heading(name))} {numbers.read_objective(row, name):.4g}"
        for name in listing.list_other_objectives(results)
    )
    return f"{summary} with {value}{other_values} ({escape(row['name'])})"


def _format_quality(mean: float, low: float, high: float, quality: str) -> str:
    """Format the study's quality, with half of its interval where there is one."""
    metric = escape(format_heading(quality))
    if not is_share(quality):
        return f"{metric} {mean:.4g}" + ("" if pd.isna(low) else f" ± {(high - low) / 2:.2g}")
    return f"{mean:.1%}" + ("" if pd.isna(low) else f" ± {50 * (high - low):.1f}") + f" {metric}"


def write_notes(trials: pd.DataFrame) -> list[str]:
    """Write notes on how reliable the main figure is."""
    sentences = []
    front = trials[trials["on_front"]]
    has_seeds = front["seeds"].fillna(0) > 0 if "seeds" in front else front["on_front"] & False
    single_count = int((~has_seeds).sum())
    if has_seeds.any():
        single_note = f" Points of the front with only one seed: {single_count}." if single_count else ""
        sentences.append(f"For trials that were run again with fresh seeds, the figure shows the mean.{single_note}")
        if "collapsed_seeds" in trials and (count := int((trials["collapsed_seeds"].fillna(0) > 0).sum())):
            sentences.append(
                "The mean leaves out seeds that collapsed or diverged, which the list counts. A trial of which more "
                f"than half of the seeds did so is not on the front. Trials with such seeds: {count}."
            )
    elif len(front):
        sentences.append(
            "Each point has one seed; `search: {seeds: {front: 5}}` runs the front again with fresh seeds."
        )
    if hidden_count := len(trials) - len(numbers.select_plottable(trials)):
        sentences.append(
            f"Trials without a value for this figure: {hidden_count} of {len(trials)}; only the list shows them."
        )
    return sentences


def tabulate_front(results: Results, caption: str = "") -> Table:
    """Return the front as a plain table."""
    front = results.trials[results.trials["on_front"]]
    quality = format_heading(results.quality)
    field_names = ("iterations", "schedule", *listing.list_other_objectives(results))
    seed_names = [name for name in ("seeds", "collapsed_seeds") if name in front and front[name].fillna(0).any()]
    extra_columns = [name for name in (*field_names, *seed_names, "macs", "training_flops") if name in front]
    has_beaten = front["beaten_by"].notna().any()
    labels = listing.COLUMN_LABELS
    extra_headings = [
        *(labels.get(name) or format_heading(name) for name in extra_columns),
        *(["beaten by"] if has_beaten else []),
    ]
    header = ["trial", "method", "sparsity", quality.removeprefix("validation "), *extra_headings, "run id"]
    rows = [
        [
            str(row["name"]),
            row["label"],
            format_percent(row["sparsity"]),
            _format_quality(row["reached"], row["low"], row["high"], results.quality)
            .removesuffix(f" {quality}")
            .removeprefix(f"{quality} "),
            *(_format_cell(name, numbers.read_objective(row, name)) for name in extra_columns),
            *([describe_beating_control(row)] if has_beaten else []),
            row["run_id"],
        ]
        for row in front.to_dict("records")
    ]
    return Table(header, rows, {"trial", "method", "schedule", "beaten by", "run id"}, caption)


def describe_beating_control(row: Mapping[Any, Any]) -> str:
    """Name the control that beats a point of the front, and the cost at which it does."""
    return f"{row['beaten_by']} ({analysis.COST_NAMES[row['beaten_at']]})" if row["beaten_by"] else "-"


def _format_cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return "-"
    if isinstance(value, str):
        return value
    if name == "training_flops":
        return format_flops(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def describe_left_out(evidence: Evidence, drawn: set[str]) -> list[str]:
    """Describe what the page does not show, and why."""
    results, trials = evidence.results, evidence.results.trials
    quality = format_heading(results.quality)
    reasons = {
        "main": f"sparsity against {quality}, because no trial has both values",
        "methods": f"methods side by side, because fewer than two methods have {quality}",
        "iterations": f"iterations and schedules, because {_explain_no_iterations(trials)}",
        "layers": f"density by layer, because {_explain_no_layers(trials)}",
        "growth": "the hypervolume, because no trained trial is better than the reference point",
        "curves": "learning curves, because no metric was measured at several epochs",
    }
    sentences = [reason for name, reason in reasons.items() if name not in drawn]
    if not len(analysis.summarize_dense(evidence.dense, results.quality)):
        sentences.append("the line of unpruned networks, because the study has no dense runs")
    if len(numbers.select_control_front(results)) < 2 and not len(evidence.twins):
        sentences.append("the line of the controls, because their front has fewer than two points")
    if not evidence.verdicts:
        sentences.append(
            f"verdicts against random twins, because `forcetune baseline {evidence.study}` has written none"
        )
    return sentences


def _explain_no_layers(trials: pd.DataFrame) -> str:
    return "no run of the front has a layers.json" if trials["on_front"].any() else "the front is empty"


def _explain_no_iterations(trials: pd.DataFrame) -> str:
    if len(paper.select_iterations(trials)):
        return "too few trials of one network were trained to estimate the usual accuracy at their density"
    return "fewer than two numbers of pruning iterations were tried"

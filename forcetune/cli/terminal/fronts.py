"""Points of a study: fronts and other selections, their uncertainty, and their cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live

from forcetune.cli.terminal.layout import console
from forcetune.formats import format_flops, format_sparsity, precise_duration
from forcetune.report.tables import Table, drop_missing
from forcetune.search.printing import print_line

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.analysis.dial import Prediction
    from forcetune.report.results import Results

Row = Mapping[str, Any]
TEXT_COLUMNS = {"study", "dataset", "model", "method", "schedule", "optimizer", "beaten by", "trial", "run id"}
FIXED_FIELDS = ("method", "sparsity", "density", "val_accuracy")  # fields that every table shows
ABSENT = "-"  # a field that a trial does not have
DEVICE_METRICS = ("prune_seconds", "train_seconds")  # that differ from one kind of device to another
FILE_LINE_CHARACTERS = 400
COLLAPSE_EXPLANATION = (
    "collapsed: fresh seeds that collapsed or diverged, with the 95 % interval of their share; the mean lacks them; "
    "a point leaves the front once more than half of its seeds have collapsed"
)
SHORT_RUN_ID_CHARACTERS = 10  # enough to tell runs apart


def front(selected: Results, extra: Sequence[str] = ()) -> None:
    """Print points in their order, and sentences on how certain they are.

    Args:
        selected: The results with the selected trials.
        extra: Further fields to show.
    """
    out = console(width=FILE_LINE_CHARACTERS)
    out.print(points(selected, extra, out.width if out.is_terminal else None), soft_wrap=True)


def points(selected: Results, extra: Sequence[str] = (), width: int | None = None) -> RenderableType:
    """Return points as a table, and sentences on how certain they are.

    Args:
        selected: The results with the selected trials.
        extra: Further fields to show.
        width: Characters of a line. Where the table is wider, it lacks some of the fields that vary. None: no limit.
    """
    columns = _columns(selected, extra)
    rows = [drop_missing(row) for row in selected.trials.to_dict("records")]
    cells = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    varied = [name for name in selected.varied if name in cells and name not in extra]
    for name in [name for name in varied if set(cells[name]) <= {ABSENT}]:
        del cells[name]
    left_out = [name for name in _find_overflow(cells, varied, width) if cells.pop(name)]
    table = Table([*cells], [*zip(*cells.values(), strict=True)], TEXT_COLUMNS).to_terminal({"run id"})
    omission = f"- fields that vary and need a wider terminal ({len(left_out)}): {', '.join(left_out)}"
    return Group(table, *describe_certainty(selected.trials), *([omission] if left_out else []))


def controls(study_results: Results, study_front: pd.DataFrame) -> None:
    """Print the front of the controls alone, and how many points of the whole front are controls or beaten by one.

    Args:
        study_results: All trials, as `results.load` returns them.
        study_front: The front of all trials, with the columns of `analysis.find_beating_controls`.
    """
    from forcetune import analysis
    from forcetune.study import method_label

    out = console()
    tried_count = int(analysis.is_control(study_results.trials).sum())
    control_front = analysis.best_controls(study_results.trials, study_results.objectives)
    if not tried_count:
        print_line(
            out,
            "no control was searched: trials with `method: random_erk` and with `small_dense: macs` show whether "
            "pruning was worth it",
        )
        return
    if control_front.empty:
        print_line(out, f"controls: none of those that were tried ({tried_count}) was trained to its end")
        return
    control_count, beaten_count = (
        int(analysis.is_control(study_front).sum()),
        int(study_front["beaten_by"].notna().sum()),
    )
    listing = ", ".join(
        f"{method_label(row)} {_format_mean(row, 'val_accuracy', lambda value: f'{value:.2%}')} "
        f"at {format_sparsity(row['sparsity'])}"
        for row in map(drop_missing, control_front.to_dict("records"))
    )
    print_line(
        out,
        f"controls: {control_count} of these {len(study_front)} points; beaten by a control: {beaten_count}. Such a "
        "control is at least as good, and has no more weights of the network or no more multiply-adds. The front of "
        f"the controls alone: {listing}",
    )


def _find_overflow(cells: Mapping[str, Sequence[str]], varied: Sequence[str], width: int | None) -> list[str]:
    """Return the varied fields that do not fit into the width, the least important ones."""
    if width is None:
        return []
    widths = {name: max(map(len, [name, *column])) + 2 for name, column in cells.items()}
    widths["run id"] = SHORT_RUN_ID_CHARACTERS
    left_out: list[str] = []
    for name in reversed([name for name in varied if name in cells]):
        if sum(widths.values()) <= width:
            break
        del widths[name]
        left_out.insert(0, name)
    return left_out


def follow(updates: Iterable[tuple[Results, str]], extra: Sequence[str] = ()) -> None:
    """Show points as they change: on a terminal in place of the previous ones, elsewhere as one line for each update.

    Args:
        updates: Pairs of the points and a sentence about them.
        extra: Further fields to show.
    """
    out = console()
    if not out.is_terminal:
        for _, summary in updates:
            print_line(out, summary)
        return
    with Live(console=out, auto_refresh=False, transient=True) as live:
        for selected, summary in updates:
            shown = Group(points(selected, extra, out.width), summary) if len(selected.trials) else summary
            live.update(shown, refresh=True)


def costs(selected: pd.DataFrame, study_results: Results) -> str:
    """Return a sentence with the device time of these points, and of the studies that they come from.

    Args:
        selected: The rows of some trials.
        study_results: All trials, as `results.load` returns them.
    """
    selected_time = precise_duration(float(selected["device_seconds"].sum()))
    study_hours = study_results.device_hours
    trial_seconds = float(study_results.trials["device_seconds"].sum())
    study_seconds = trial_seconds if study_hours is None else max(trial_seconds, 3600 * study_hours)
    names = ", ".join(study_results.studies)
    subject = f"these {len(selected)} points" if len(selected) > 1 else "this point"
    return (
        f"device time: {selected_time} for {subject}, {precise_duration(study_seconds)} for {names} in all; each "
        "core or GPU counts: two trials at once, for one minute, take two minutes of device time"
        f"{_describe_kinds(study_results)}"
    )


def _describe_kinds(study_results: Results) -> str:
    """Return the device time by kind of device, and which objectives depend on it; empty where there is one kind."""
    from forcetune.study import METRICS

    trials, devices = study_results.trials, study_results.devices
    kinds = sorted(set(devices.values()))
    if len(kinds) < 2:
        return ""
    seconds = trials["device_seconds"].groupby(trials["run_id"].map(devices)).sum()
    times = ", ".join(f"{precise_duration(float(seconds[kind]))} on {kind}" for kind in kinds)
    measured = [
        name
        for name in study_results.objectives
        if name in DEVICE_METRICS or (name not in METRICS and not name.startswith("val_"))
    ]
    caution = (
        f". {', '.join(measured)}: measured on the kind of device that each trial had; compare the values within a kind"
    )
    return f". By kind of device: {times}{caution if measured else ''}"


def dense(dense_accuracy: pd.DataFrame) -> str:
    """Return a sentence with the accuracy of the dense networks.

    Args:
        dense_accuracy: The accuracies, as `analysis.summarize_dense` returns them.
    """
    return "dense: " + ", ".join(_describe_dense(row) for row in map(drop_missing, dense_accuracy.to_dict("records")))


def _describe_dense(row: Row) -> str:
    half = f" ± {(row['high'] - row['low']) / 2:.2%}" if "low" in row else ""
    return f"{row['model']} {row['mean']:.2%}{half} ({row['seeds']} seed{'s' if row['seeds'] > 1 else ''})"


def prediction(predicted: Prediction) -> str:
    """Return what would probably be reached at a sparsity, as sentences.

    Args:
        predicted: The prediction.
    """
    from forcetune.analysis.dial import NEARBY_FACTOR

    values = ", ".join(f"{name} {value}" for name, value in predicted.configuration.items())
    seeds = (
        f"{predicted.fresh_runs} runs with fresh seeds"
        if predicted.fresh_runs
        else "no run with a fresh seed, so that how far seeds lie apart is assumed: `search: {seeds: {front: 5}}` "
        "measures it"
    )
    return (
        f"at {format_sparsity(predicted.sparsity)} sparsity: probably {predicted.accuracy:.2%} validation accuracy\n"
        f"with {values or 'the one configuration that the study has'}\n"
        f"nine of ten runs with a fresh seed: from {predicted.low:.2%} to {predicted.high:.2%}; the mean over seeds: "
        f"from {predicted.mean_low:.2%} to {predicted.mean_high:.2%}, with a probability of nine in ten\n"
        f"{predicted.further_trials} further trials at this sparsity would probably add "
        f"{100 * predicted.further_gain:.1f} points, in one case of twenty more than "
        f"{100 * predicted.further_gain_high:.1f}\n"
        f"a model of {predicted.trials} trials says so, of which {predicted.near} are within a factor of "
        f"{NEARBY_FACTOR:g} of this density, and {seeds}"
    )


def describe_certainty(selected: pd.DataFrame) -> list[str]:
    """Return sentences on how certain the points are."""
    seeds = selected["seeds"].fillna(0) if "seeds" in selected.columns else selected["sparsity"] * 0
    if (single_seed_count := int((seeds == 0).sum())) == len(selected):
        return ["each of these points rests on one seed: `search: {seeds: {front: 5}}` runs them again"]
    explanation = (
        "accuracy and objectives: mean over fresh seeds with its 95 % interval; on the front: the probability that the "
        "point belongs to the front"
    )
    return [
        explanation,
        *([COLLAPSE_EXPLANATION] if _has_collapses(selected) else []),
        *([f"- {single_seed_count} of these points rest on one seed only"] if single_seed_count else []),
    ]


def _columns(selected: Results, extra: Sequence[str]) -> dict[str, Callable[[Row], str]]:
    """Return a function for each column, by its header, which formats the column's cell of a row."""
    from forcetune.analysis import COST_NAMES
    from forcetune.study import method_label

    trials = selected.trials
    objectives = [name for name in selected.objectives if name not in ("val_accuracy", "density", "sparsity")]
    field_names = [*selected.varied, *objectives, *extra]
    extra_columns = dict.fromkeys(name for name in field_names if name not in (*FIXED_FIELDS, "study"))
    columns: dict[str, Callable[[Row], str]] = {}
    if len(selected.studies) > 1:
        columns["study"] = lambda row: row["study"]
    columns |= {
        "sparsity": lambda row: format_sparsity(row["sparsity"]),
        "accuracy": lambda row: _format_mean(row, "val_accuracy", lambda value: f"{value:.2%}"),
        "method": lambda row: method_label(row),
    }
    columns |= {name: partial(_format_mean, name=name, format_value=_format_number) for name in extra_columns}
    if "dense_accuracy" in trials:
        columns["dense"] = lambda row: _format_accuracy(row, "dense")
        columns["points below"] = lambda row: f"{row['below']:.2f}"
    if "seeds" in trials:
        columns["seeds"] = lambda row: str(row["seeds"]) if row.get("seeds") else "-"
        if _has_collapses(trials):
            columns["collapsed"] = _format_collapses
        columns["on the front"] = lambda row: (  # unknown while no point has two fresh seeds that live
            f"{row['front_probability']:.0%}" if row.get("seeds") and "front_probability" in row else ABSENT
        )
    if "beaten_by" in trials and trials["beaten_by"].notna().any():
        columns["beaten by"] = lambda row: (
            f"{row['beaten_by']} ({COST_NAMES[row['beaten_at']]})" if "beaten_by" in row else ABSENT
        )
    if "training_flops" in trials and trials["training_flops"].notna().any():
        columns["FLOPs"] = lambda row: format_flops(row["training_flops"]) if "training_flops" in row else ABSENT
    columns["device time"] = lambda row: precise_duration(row["device_seconds"])
    columns["trial"] = lambda row: row["name"]
    columns["run id"] = lambda row: row["run_id"]
    return columns


def _format_mean(row: Row, name: str, format_value: Callable[[Any], str]) -> str:
    """Return the mean over fresh seeds with half of its interval; without fresh seeds, the trial's own value."""
    if f"{name}_mean" not in row:
        return format_value(row[name]) if name in row else ABSENT
    if f"{name}_low" not in row:
        return format_value(row[f"{name}_mean"])
    half = (row[f"{name}_high"] - row[f"{name}_low"]) / 2
    return f"{format_value(row[f'{name}_mean'])} ± {format_value(half)}"


def _has_collapses(trials: pd.DataFrame) -> bool:
    return "collapsed_seeds" in trials and bool(trials["collapsed_seeds"].fillna(0).any())


def _format_collapses(row: Row) -> str:
    """Return how many fresh seeds collapsed, with the interval of their share."""
    if not row.get("collapsed_seeds"):
        return ABSENT
    return f"{row['collapsed_seeds']} ({row['collapse_low']:.0%} to {row['collapse_high']:.0%})"


def _format_accuracy(row: Row, name: str) -> str:
    half = f" ± {(row[f'{name}_high'] - row[f'{name}_low']) / 2:.2%}" if f"{name}_low" in row else ""
    return f"{row[f'{name}_accuracy']:.2%}{half}"


def _format_number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"

"""Points of a study: fronts, what was picked of them, how far they are to be believed, what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from forcetune.show.layout import console, present
from forcetune.times import precise

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]
# columns that are read, not compared
WORDS = ("study", "dataset", "model", "method", "schedule", "optimizer", "beaten by", "trial")
ALWAYS = ("method", "sparsity", "density", "val_accuracy")  # fields that every table shows
ABSENT = "-"  # a field that a trial does not have
WIDE = 400  # characters of a line in a file
SHORT_ID = 10  # characters by which a run is still known


def front(found: pd.DataFrame, extra: Sequence[str] = ()) -> None:
    """Points in the order that they have, and what is to be said of them; extra: further fields to show."""
    out = console(width=WIDE)
    out.print(points(found, extra, out.width if out.is_terminal else None), soft_wrap=True)


def points(found: pd.DataFrame, extra: Sequence[str] = (), width: int | None = None) -> RenderableType:
    """The same to be printed; where a width is given, without those varied fields that it has no room for."""
    columns = _columns(found, extra)
    rows = [present(row) for row in found.to_dict("records")]
    cells = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    varied = [name for name in found.attrs.get("varied", ()) if name in cells and name not in extra]
    for name in [name for name in varied if set(cells[name]) <= {ABSENT}]:
        del cells[name]
    left_out = [name for name in _beyond(cells, varied, width) if cells.pop(name)]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in cells:
        is_id = name == "run id"  # of which a narrow terminal cuts off an end, before anything else
        left = is_id or name in WORDS
        table.add_column(name, justify="left" if left else "right", no_wrap=not is_id, overflow="ellipsis")
    for row in zip(*cells.values(), strict=True):
        table.add_row(*row)
    more = f"- fields that vary, for which a wider terminal has room: {len(left_out)}, {', '.join(left_out)}"
    return Group(table, *doubts(found), *([more] if left_out else []))


def controls(table: pd.DataFrame, points: pd.DataFrame) -> None:
    """Print the front of the controls alone, and how many points of the front of all they are, or beat.

    table: all trials; points: the front of all, with `analysis.beaten`.
    """
    from forcetune import analysis
    from forcetune.spec import method_label

    out = console()
    tried, front = int(analysis.is_control(table).sum()), analysis.best_controls(table)
    if not tried:
        out.print(
            "no control was searched beside the methods: `method: random_erk`, and `small_dense: macs`, show whether "
            "pruning was worth it",
            soft_wrap=True,
            highlight=False,
        )
        return
    if front.empty:
        out.print(f"controls: {tried} were tried, and none was trained to its end", soft_wrap=True, highlight=False)
        return
    own, beats = int(analysis.is_control(points).sum()), int(points["beaten_by"].notna().sum())
    told = ", ".join(
        f"{method_label(row)} {_believed(row, 'val_accuracy', lambda value: f'{value:.2%}')} at {row['sparsity']:.2%}"
        for row in map(present, front.to_dict("records"))
    )
    out.print(
        f"controls: {own} of these {len(points)} points; beaten by a control: {beats}. Such a control is at least as "
        f"good, and has no more weights of the network or no more multiply-adds. The controls' own front: {told}",
        soft_wrap=True,
        highlight=False,
    )


def _beyond(cells: Mapping[str, Sequence[str]], varied: Sequence[str], width: int | None) -> list[str]:
    """The varied fields, those of which least hangs first, that have to go for the others to have room."""
    if width is None:
        return []
    widths = {name: max(map(len, [name, *column])) + 2 for name, column in cells.items()}
    widths["run id"] = SHORT_ID
    left_out: list[str] = []
    for name in reversed([name for name in varied if name in cells]):
        if sum(widths.values()) <= width:
            break
        del widths[name]
        left_out.insert(0, name)
    return left_out


def follow(answers: Iterable[tuple[pd.DataFrame, str]], extra: Sequence[str] = ()) -> None:
    """Points so far and a sentence, on a terminal in place of those before; elsewhere a line with the sentence."""
    out = console()
    if not out.is_terminal:
        for _, told in answers:
            out.print(told, soft_wrap=True, highlight=False)
        return
    with Live(console=out, auto_refresh=False, transient=True) as live:
        for found, told in answers:
            live.update(Group(points(found, extra, out.width), told) if len(found) else told, refresh=True)


def costs(found: pd.DataFrame, table: pd.DataFrame) -> str:
    """The device time of these points, and of the studies that they are from, in a sentence."""
    own = precise(float(found["device_seconds"].sum()))
    hours = table.attrs["device_hours"]
    known = float(table["device_seconds"].sum())
    told = known if hours is None else max(known, 3600 * hours)
    names = ", ".join(table.attrs["studies"])
    these = f"these {len(found)} points" if len(found) > 1 else "this point"
    return (
        f"device time: {own} for {these}, {precise(told)} for {names} in all; each core or GPU of a trial counts, so "
        "that two trials at once take two minutes in one"
    )


def dense(reached: pd.DataFrame) -> str:
    """What networks reach with nothing pruned, as `analysis.unpruned` says, in a sentence."""
    return "dense: " + ", ".join(_dense(row) for row in map(present, reached.to_dict("records")))


def _dense(row: Row) -> str:
    half = f" ± {(row['high'] - row['low']) / 2:.2%}" if "low" in row else ""
    return f"{row['model']} {row['mean']:.2%}{half} ({row['seeds']} seed{'s' if row['seeds'] > 1 else ''})"


def doubts(found: pd.DataFrame) -> list[str]:
    """How far points are to be believed, in sentences."""
    seeds = found["seeds"].fillna(0) if "seeds" in found.columns else found["sparsity"] * 0
    if (alone := int((seeds == 0).sum())) == len(found):
        return ["one seed stands behind each of these points: `search: {seeds: {front: 5}}` runs them again"]
    told = "accuracy and objectives: mean over fresh seeds with its 95 % interval; on the front: how probable that is"
    return [told, *([f"- only one seed stands behind {alone} of these points"] if alone else [])]


def _columns(found: pd.DataFrame, extra: Sequence[str]) -> dict[str, Callable[[Row], str]]:
    """What each column shows of a row, by its header."""
    from forcetune.analysis import COSTS
    from forcetune.spec import method_label

    attrs = found.attrs
    others = [name for name in attrs["objectives"] if name not in ("val_accuracy", "density", "sparsity")]
    shown = [*attrs.get("varied", ()), *others, *extra]
    more = dict.fromkeys(name for name in shown if name not in (*ALWAYS, "study"))
    columns: dict[str, Callable[[Row], str]] = {}
    if len(attrs["studies"]) > 1:
        columns["study"] = lambda row: row["study"]
    columns |= {
        "sparsity": lambda row: f"{row['sparsity']:.2%}",
        "accuracy": lambda row: _believed(row, "val_accuracy", lambda value: f"{value:.2%}"),
        "method": lambda row: method_label(row),
    }
    columns |= {name: lambda row, name=name: _believed(row, name, _told) for name in more}
    if "dense_accuracy" in found:
        columns["dense"] = lambda row: _interval(row, "dense")
        columns["points below"] = lambda row: f"{row['below']:.2f}"
    if "seeds" in found:
        columns["seeds"] = lambda row: str(row["seeds"]) if row.get("seeds") else "-"
        columns["on the front"] = lambda row: f"{row['front_probability']:.0%}" if row.get("seeds") else "-"
    if "beaten_by" in found and found["beaten_by"].notna().any():
        columns["beaten by"] = lambda row: (
            f"{row['beaten_by']} ({COSTS[row['beaten_at']]})" if "beaten_by" in row else ABSENT
        )
    columns["device time"] = lambda row: precise(row["device_seconds"])
    columns["trial"] = lambda row: row["name"]
    columns["run id"] = lambda row: row["run_id"]
    return columns


def _believed(row: Row, name: str, words: Callable[[Any], str]) -> str:
    """The mean with half its interval where there are fresh seeds, else the one value that there is."""
    if f"{name}_mean" not in row:
        return words(row[name]) if name in row else ABSENT
    if f"{name}_low" not in row:
        return words(row[f"{name}_mean"])
    half = (row[f"{name}_high"] - row[f"{name}_low"]) / 2
    return f"{words(row[f'{name}_mean'])} ± {words(half)}"


def _interval(row: Row, name: str) -> str:
    half = f" ± {(row[f'{name}_high'] - row[f'{name}_low']) / 2:.2%}" if f"{name}_low" in row else ""
    return f"{row[f'{name}_accuracy']:.2%}{half}"


def _told(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"

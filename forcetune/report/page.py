"""The page of a study: what readers look at first stands first, and the end names what is missing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Any

import pandas as pd
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from forcetune import __version__
from forcetune.report import figures, html, listing, words
from forcetune.report.columns import encode_columns
from forcetune.report.evidence import Evidence
from forcetune.report.figures import TRIALS_SOURCE, Figure
from forcetune.report.looks import Style
from forcetune.report.verdicts import tabulate_verdicts

SECTION_TITLES = {
    "trials": "Trials and their front",
    "pruning": "Effects of pruning",
    "search": "The search",
    "baseline": "Comparison with random pruning",
}
FILTER_SYNTAX = (
    "Words match names, methods, reasons and ids; conditions compare a column: <code>force</code>, "
    "<code>sparsity&gt;0.95</code>, <code>macs&lt;=100k method=snip,force</code>, <code>accuracy&gt;=90%</code>. "
    "All words and conditions must match; the figure dims other trials. A click on a point shows its row; a click on a "
    "row shows its point."
)
TABLE_SUMMARY = "The numbers as a table"
FRONT_CAPTION = "Trials on the front, by rising sparsity"
VERDICTS_CAPTION = "Each champion against each of its twins"
SHOWN_VERDICT_COLUMNS = (
    *("champion", "method", "short sparsity", "against", "pairs", "difference", "p", "verdict", "needed"),
)


def render_page(evidence: Evidence) -> str:
    """Render the page of a study as HTML.

    The page holds figures, numbers, style and scripts, and loads nothing from elsewhere.

    Args:
        evidence: The study, as `evidence.gather` returns it.
    """
    slots = draw_figures(evidence)
    drawn = [figure for figure in slots if figure]
    data = _to_json(collect_data(evidence.trials, drawn))
    nonce = hashlib.sha256(data.encode()).hexdigest()[:32]
    sections = {
        "trials": _render_board(evidence.trials, drawn),
        "pruning": _render_pairs(drawn, ("iterations", "methods", "layers")),
        "search": _render_pairs(drawn, ("growth", "curves")),
        "baseline": _render_baseline(evidence, drawn),
    }
    filled = {name: section_html for name, section_html in sections.items() if section_html}
    body = "".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{SECTION_TITLES[name]}</h2>{section_html}</section>'
        for name, section_html in filled.items()
    )
    body_parts = [
        '<a class="skip" href="#main">Skip to the figures</a>',
        _render_header(evidence, list(filled)),
        f'<main id="main" tabindex="-1">{body}</main>',
        _render_footer(evidence, drawn),
        f'<script type="application/json" id="data">{data}</script>',
        *(f'<script nonce="{nonce}">{script}</script>' for script in (get_plotlyjs(), _read_asset("page.js"))),
    ]
    return html.render_document(
        f"{evidence.study}: forcetune report", body_parts, _render_head(nonce), _read_asset("page.css")
    )


def draw_figures(evidence: Evidence) -> list[Figure | None]:
    """Draw the figures in the order of the page; None where the study has no data for one."""
    trials, style = evidence.trials, Style(evidence.trials["label"])
    return [
        figures.draw_main(trials, evidence.dense, style, evidence.twins),
        figures.draw_objectives(trials, style),
        figures.draw_methods(trials, style),
        figures.draw_iterations(trials, style),
        *figures.draw_layers(trials, evidence.layers),
        figures.draw_growth(trials),
        figures.draw_curves(trials, evidence.curves, evidence.curve_metric, style),
        figures.draw_forest(evidence.verdicts, evidence.margin),
    ]


def _read_asset(name: str) -> str:
    return files("forcetune.report").joinpath(name).read_text(encoding="utf-8")


def _render_head(nonce: str) -> str:
    """Render a policy by which the browser runs only this page's scripts and requests nothing from elsewhere."""
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src 'nonce-{nonce}'"
    return (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
    )


def collect_data(trials: pd.DataFrame, drawn: Sequence[Figure]) -> dict[str, Any]:
    """Collect what page.js reads: the figures, and the columns behind the figures and their tables."""
    figure_sources = {figure.id: _collect_source(figure) for figure in drawn if figure.frame is not None}
    figure_data = [{"id": figure.id, "data": figure.traces, "layout": figure.layout} for figure in drawn]
    return {"sources": {TRIALS_SOURCE: _collect_listing(trials), **figure_sources}, "figures": figure_data}


def _collect_listing(trials: pd.DataFrame) -> dict[str, Any]:
    frame = listing.build_listing(trials)
    source_frame = frame.assign(density=trials["density"], reached=trials["reached"])
    columns = encode_columns(source_frame, listing.label_columns(trials), listing.choose_column_kinds(trials))
    return {
        "rows": len(frame),
        "columns": _mark_interval(columns, trials.attrs["quality"]),
        "shown": listing.choose_listed_columns(trials, {*map(str, frame)}),
        "hover": listing.choose_hover_columns(trials, {*map(str, frame)}),
    }


def _mark_interval(columns: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Mark the column whose interval `low` and `high` are."""
    has_interval = any(column["name"] == "low" for column in columns)
    return [{**column, "interval": True} if has_interval and column["name"] == name else column for column in columns]


def _collect_source(figure: Figure) -> dict[str, Any]:
    assert figure.frame is not None
    columns = encode_columns(figure.frame, figure.labels, figure.kinds)
    title = {"title": figure.heading}
    return {"rows": len(figure.frame), "columns": columns, "shown": figure.shown, "across": figure.across, **title}


def _to_json(data: Mapping[str, Any]) -> str:
    """Return JSON that cannot end the element that it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _render_header(evidence: Evidence, names: Sequence[str]) -> str:
    links = "".join(f'<li><a href="#{name}">{SECTION_TITLES[name]}</a></li>' for name in names)
    lead_html = "".join(f'<p class="lead">{sentence}</p>' for sentence in words.write_lead(evidence))
    return (
        f'<header><p class="over">forcetune report</p><h1>{escape(evidence.study)}</h1>{lead_html}'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
    )


def _render_figure(figure: Figure) -> str:
    """Render a heading, a caption, the plot, and the table where the page has the numbers nowhere else."""
    has_table = figure.frame is not None and figure.has_table_below
    figure_name = f'<span class="unseen">: {escape(figure.heading)}</span>'
    table = (
        f'<details class="numbers" data-source="{figure.id}"><summary>{TABLE_SUMMARY}{figure_name}</summary></details>'
    )
    return (
        f'<figure class="{"wide" if figure.is_wide else ""}"><h3>{escape(figure.heading)}</h3>'
        f"<figcaption>{escape(figure.caption)}</figcaption>"
        f'<div class="plot" id="plot-{figure.id}" role="img" aria-label="{escape(figure.alt_text)}" '
        f'style="min-height:{figure.layout["height"]}px"></div>{table if has_table else ""}</figure>'
    )


def _render_board(trials: pd.DataFrame, drawn: Sequence[Figure]) -> str:
    """Render the main figure, the list of trials below it, and the front as a plain table for paper."""
    figures_html = "".join(_render_figure(figure) for figure in drawn if figure.id in ("main", "objectives"))
    notes_html = "".join(f'<p class="note">{_render_code(note)}</p>' for note in words.write_notes(trials))
    return (
        f'<div class="board"><div>{figures_html}{notes_html}</div>{_render_trials(trials)}</div>{_render_front(trials)}'
    )


def _render_trials(trials: pd.DataFrame) -> str:
    """Render the frame of the list, which page.js fills, and its filter."""
    options = "".join(f"<option>{escape(label)}</option>" for label in sorted(trials["label"].unique()))
    return f"""<div class="trials"><h3 id="list">All trials</h3>
<form class="filter" id="filter" role="search" aria-labelledby="list">
<label class="grow">Words and conditions<input type="text" id="words" autocomplete="off" spellcheck="false"
 aria-describedby="syntax" placeholder="force sparsity&gt;0.95"></label>
<label>Method<select id="method"><option value="">all methods</option>{options}</select></label>
<div class="ticks"><label class="tick"><input type="checkbox" id="only-front"> only the front</label>
<label class="tick"><input type="checkbox" id="all-columns"> all columns</label></div></form>
<details><summary>Filter syntax</summary><p class="note" id="syntax">{FILTER_SYNTAX}</p></details>
<p class="status" id="count" role="status" aria-live="polite"></p>
<div class="scroll" tabindex="0" role="region" aria-labelledby="list">
<table id="trials-table" aria-labelledby="list"><thead></thead><tbody></tbody></table></div>
<p><button type="button" class="plain" id="more" hidden></button></p></div>"""


def _render_front(trials: pd.DataFrame) -> str:
    table = words.tabulate_front(trials, FRONT_CAPTION)
    table_html = _render_scrolling(table.to_html(), "front-points")
    return f'<div class="front"><h3 id="front-points">The front</h3>{table_html}</div>' if table.rows else ""


def _render_pairs(drawn: Sequence[Figure], names: Sequence[str]) -> str:
    """Render figures two by two; wide ones come last, and a figure without a partner becomes wide."""
    chosen = [figure for figure in drawn if figure.id.rstrip("0123456789") in names]
    halves, wide = ([figure for figure in chosen if figure.is_wide == is_wide] for is_wide in (False, True))
    if len(halves) % 2:
        halves[-1] = replace(halves[-1], is_wide=True)
    return f'<div class="pair">{"".join(map(_render_figure, [*halves, *wide]))}</div>' if chosen else ""


def _render_code(text: str) -> str:
    """Escape text, and render what stands between backticks as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def _render_baseline(evidence: Evidence, drawn: Sequence[Figure]) -> str:
    """Render the verdicts of `forcetune baseline` as a figure and as a table."""
    if not evidence.verdicts:
        return ""
    figure_html = "".join(_render_figure(figure) for figure in drawn if figure.id == "forest")
    verdicts_table = tabulate_verdicts(evidence.verdicts, SHOWN_VERDICT_COLUMNS, VERDICTS_CAPTION)
    table = _render_scrolling(verdicts_table.to_html(), "verdicts")
    verdicts_html = (
        f'<div><h3 id="verdicts">Verdicts</h3><p class="note">{escape(words.VERDICTS_NOTE)}</p>{table}</div>'
    )
    return f'<div class="pair verdicts">{figure_html}{verdicts_html}</div>'


def _render_scrolling(table: str, named_by: str) -> str:
    """Render a table that may be wider than its box; `named_by` is the id of its heading."""
    return f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{named_by}">{table}</div>'


def _render_footer(evidence: Evidence, drawn: Sequence[Figure]) -> str:
    missing = words.describe_left_out(evidence, {figure.id for figure in drawn})
    left_out_html = f"<p>Not shown: {'; '.join(map(_render_code, missing))}.</p>" if missing else ""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    run = escape(str(evidence.trials.attrs.get("parent", "")))
    return (
        f"<footer>{left_out_html}<p>Written by forcetune {__version__} on {now}, from run {run} in MLflow.</p></footer>"
    )

"""The page: what people look at first stands first, and what is missing is named at the end."""

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

from forcetune import __version__, pages
from forcetune.report import figures, listing, words
from forcetune.report.columns import encoded
from forcetune.report.evidence import Evidence
from forcetune.report.figures import TRIALS, Figure
from forcetune.report.looks import Style

SECTIONS = {
    "trials": "Trials and their front",
    "pruning": "What pruning does",
    "search": "The search",
    "baseline": "Against random pruning",
}
SYNTAX = (
    "Words are looked for in names, methods, reasons and ids; conditions compare a column: <code>force</code>, "
    "<code>sparsity&gt;0.95</code>, <code>macs&lt;=100k method=snip,force</code>, <code>accuracy&gt;=90%</code>. "
    "All have to hold; what does not match is dimmed in the figure. A click on a point finds its row, a click on a row "
    "its point."
)
NUMBERS = "The numbers as a table"
FRONT = "What stands on the front, by rising sparsity"
VERDICTS = "Each champion against each of its twins"


def page(evidence: Evidence) -> str:
    """The whole page as HTML: figures, numbers, style and scripts, nothing of it from elsewhere."""
    drawn = _drawn(evidence)
    known = [figure for figure in drawn if figure]
    data = _json(_data(evidence.trials, known))
    nonce = hashlib.sha256(data.encode()).hexdigest()[:32]
    sections = {
        "trials": _board(evidence.trials, known),
        "pruning": _pair(known, ("iterations", "methods", "layers")),
        "search": _pair(known, ("growth", "curves")),
        "baseline": _baseline(evidence, known),
    }
    told = {name: part for name, part in sections.items() if part}
    body = "".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{SECTIONS[name]}</h2>{part}</section>'
        for name, part in told.items()
    )
    parts = [
        '<a class="skip" href="#main">Skip to the figures</a>',
        _header(evidence, list(told)),
        f'<main id="main" tabindex="-1">{body}</main>',
        _footer(evidence, known),
        f'<script type="application/json" id="data">{data}</script>',
        *(f'<script nonce="{nonce}">{script}</script>' for script in (get_plotlyjs(), _own("page.js"))),
    ]
    return pages.document(f"{evidence.study}: forcetune report", parts, _head(nonce), _own("page.css"))


def _drawn(evidence: Evidence) -> list[Figure | None]:
    """The figures in the order of the page; None where the study has not the data."""
    trials, style = evidence.trials, Style(evidence.trials["label"])
    return [
        figures.main(trials, evidence.dense, style, evidence.twins),
        figures.objectives(trials, style),
        figures.methods(trials, style),
        figures.iterations(trials, style),
        *figures.layers(trials, evidence.layers),
        figures.growth(trials),
        figures.curves(trials, evidence.curves, evidence.curve, style),
        figures.forest(evidence.verdicts, evidence.margin),
    ]


def _own(name: str) -> str:
    return files("forcetune.report").joinpath(name).read_text(encoding="utf-8")


def _head(nonce: str) -> str:
    """Only the scripts of this page run, and nothing is asked for anywhere: the browser sees to both."""
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src 'nonce-{nonce}'"
    return (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
    )


def _data(trials: pd.DataFrame, known: Sequence[Figure]) -> dict[str, Any]:
    """What page.js reads: the figures, and the columns that they and the tables are of."""
    own = {figure.id: _source(figure) for figure in known if figure.frame is not None}
    drawn = [{"id": figure.id, "data": figure.traces, "layout": figure.layout} for figure in known]
    return {"sources": {TRIALS: _listing(trials), **own}, "figures": drawn}


def _listing(trials: pd.DataFrame) -> dict[str, Any]:
    frame = listing.listing(trials)
    drawn = frame.assign(density=trials["density"], reached=trials["reached"])
    columns = encoded(drawn, listing.labels(trials), listing.kinds(trials))
    return {
        "rows": len(frame),
        "columns": _with_intervals(columns, trials.attrs["quality"]),
        "shown": listing.shown(trials, {*map(str, frame)}),
        "hover": listing.hovered(trials, {*map(str, frame)}),
    }


def _with_intervals(columns: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Say of a column that `low` and `high` are its interval."""
    known = any(column["name"] == "low" for column in columns)
    return [{**column, "interval": True} if known and column["name"] == name else column for column in columns]


def _source(figure: Figure) -> dict[str, Any]:
    assert figure.frame is not None
    columns = encoded(figure.frame, figure.labels, figure.kinds)
    title = {"title": figure.heading}
    return {"rows": len(figure.frame), "columns": columns, "shown": figure.shown, "across": figure.across, **title}


def _json(data: Mapping[str, Any]) -> str:
    """JSON that stays inside its element whatever it says."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _header(evidence: Evidence, names: Sequence[str]) -> str:
    links = "".join(f'<li><a href="#{name}">{SECTIONS[name]}</a></li>' for name in names)
    told = "".join(f'<p class="lead">{sentence}</p>' for sentence in words.lead(evidence))
    return (
        f'<header><p class="over">forcetune report</p><h1>{escape(evidence.study)}</h1>{told}'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
    )


def _figure(figure: Figure) -> str:
    """A heading, what it shows, the plot, and its numbers where they stand nowhere else."""
    has_table = figure.frame is not None and figure.tabled
    which = f'<span class="unseen">: {escape(figure.heading)}</span>'
    table = f'<details class="numbers" data-source="{figure.id}"><summary>{NUMBERS}{which}</summary></details>'
    return (
        f'<figure class="{"wide" if figure.wide else ""}"><h3>{escape(figure.heading)}</h3>'
        f"<figcaption>{escape(figure.told)}</figcaption>"
        f'<div class="plot" id="plot-{figure.id}" role="img" aria-label="{escape(figure.message)}" '
        f'style="min-height:{figure.layout["height"]}px"></div>{table if has_table else ""}</figure>'
    )


def _board(trials: pd.DataFrame, known: Sequence[Figure]) -> str:
    """The main figure, the list of trials below it, and the front as a plain table for paper."""
    drawn = "".join(_figure(figure) for figure in known if figure.id in ("main", "objectives"))
    noted = "".join(f'<p class="note">{_marked(note)}</p>' for note in words.notes(trials))
    return f'<div class="board"><div>{drawn}{noted}</div>{_trials(trials)}</div>{_front(trials)}'


def _trials(trials: pd.DataFrame) -> str:
    """The list, which page.js fills, and its filter."""
    options = "".join(f"<option>{escape(label)}</option>" for label in sorted(trials["label"].unique()))
    return f"""<div class="trials"><h3 id="list">All trials</h3>
<form class="filter" id="filter" role="search" aria-labelledby="list">
<label class="grow">Words and conditions<input type="text" id="words" autocomplete="off" spellcheck="false"
 aria-describedby="syntax" placeholder="force sparsity&gt;0.95"></label>
<label>Method<select id="method"><option value="">all methods</option>{options}</select></label>
<div class="ticks"><label class="tick"><input type="checkbox" id="only-front"> the front only</label>
<label class="tick"><input type="checkbox" id="all-columns"> all columns</label></div></form>
<details><summary>What can be asked for</summary><p class="note" id="syntax">{SYNTAX}</p></details>
<p class="status" id="count" role="status" aria-live="polite"></p>
<div class="scroll" tabindex="0" role="region" aria-labelledby="list">
<table id="trials-table" aria-labelledby="list"><thead></thead><tbody></tbody></table></div>
<p><button type="button" class="plain" id="more" hidden></button></p></div>"""


def _front(trials: pd.DataFrame) -> str:
    header, rows, in_words = words.front_table(trials)
    table = _scrolling(pages.table(header, rows, in_words, FRONT), "front-points")
    return f'<div class="front"><h3 id="front-points">The front</h3>{table}</div>' if rows else ""


def _pair(known: Sequence[Figure], names: Sequence[str]) -> str:
    """Figures two by two; the wide ones last, and one that is left alone wide too."""
    chosen = [figure for figure in known if figure.id.rstrip("0123456789") in names]
    halves, wide = ([figure for figure in chosen if figure.wide == is_wide] for is_wide in (False, True))
    if len(halves) % 2:
        halves[-1] = replace(halves[-1], wide=True)
    return f'<div class="pair">{"".join(map(_figure, [*halves, *wide]))}</div>' if chosen else ""


def _marked(text: str) -> str:
    """Text in which what stands between backticks is to be typed."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def _baseline(evidence: Evidence, known: Sequence[Figure]) -> str:
    """The verdicts of `forcetune baseline`, as a figure and as a table."""
    if not evidence.verdicts:
        return ""
    drawn = "".join(_figure(figure) for figure in known if figure.id == "forest")
    table = _scrolling(pages.table(*words.verdict_table(evidence.verdicts), VERDICTS), "verdicts")
    told = f'<div><h3 id="verdicts">Verdicts</h3><p class="note">{escape(words.VERDICTS)}</p>{table}</div>'
    return f'<div class="pair verdicts">{drawn}{told}</div>'


def _scrolling(table: str, named_by: str) -> str:
    """A table that may be wider than its place; named_by: the id of its heading."""
    return f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{named_by}">{table}</div>'


def _footer(evidence: Evidence, known: Sequence[Figure]) -> str:
    missing = words.left_out(evidence, {figure.id for figure in known})
    told = f"<p>Left out: {'; '.join(map(_marked, missing))}.</p>" if missing else ""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    run = escape(str(evidence.trials.attrs.get("parent", "")))
    return f"<footer>{told}<p>Written by forcetune {__version__} on {now}, from run {run} in MLflow.</p></footer>"

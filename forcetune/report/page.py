"""The page of a study: what readers look at first stands first, and the end names what is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from forcetune import __version__
from forcetune.report import figures, listing, words
from forcetune.report.columns import encode_columns
from forcetune.report.evidence import Evidence
from forcetune.report.figures import TRIALS_SOURCE, Figure
from forcetune.report.html import render_template
from forcetune.report.looks import Style
from forcetune.report.results import Results
from forcetune.report.verdicts import tabulate_verdicts

SECTION_TITLES = {
    "trials": "Trials and their front",
    "pruning": "Effects of pruning",
    "search": "The search",
    "baseline": "Comparison with random pruning",
}
FRONT_CAPTION = "Trials on the front, by rising sparsity"
VERDICTS_CAPTION = "Each champion against each of its twins"
STUDY_PAGE_COLUMNS = (
    *("champion", "method", "short sparsity", "against"),
    *("pairs", "difference", "p", "verdict", "collapses", "needed"),
)


def render_page(evidence: Evidence) -> str:
    """Render the page of a study as HTML.

    The page holds figures, numbers, style and scripts, and loads nothing from elsewhere.

    Args:
        evidence: The study, as `evidence.gather` returns it.
    """
    drawn = [figure for figure in draw_figures(evidence) if figure]
    section_figures = {
        "trials": [figure for figure in drawn if figure.id in ("main", "objectives")],
        "pruning": _pair_figures(drawn, ("iterations", "methods", "layers")),
        "search": _pair_figures(drawn, ("growth", "curves", "trails", "changes")),
        "baseline": [figure for figure in drawn if figure.id == "forest"],
    }
    has_content = {
        "trials": True,
        "pruning": bool(section_figures["pruning"]),
        "search": bool(section_figures["search"]),
        "baseline": bool(evidence.verdicts),
    }
    data = _to_json(collect_data(evidence.results, drawn))
    page = render_template(
        "study.html",
        study=evidence.study,
        style=Markup(_read_asset("page.css")),
        nonce=hashlib.sha256(data.encode()).hexdigest()[:32],
        sections={name: title for name, title in SECTION_TITLES.items() if has_content[name]},
        figures=section_figures,
        lead=map(Markup, words.write_lead(evidence)),
        notes=words.write_notes(evidence.results.trials),
        labels=sorted(evidence.results.trials["label"].unique()),
        front=words.tabulate_front(evidence.results, FRONT_CAPTION),
        verdicts=tabulate_verdicts(evidence.verdicts, STUDY_PAGE_COLUMNS, VERDICTS_CAPTION),
        omissions=words.describe_left_out(evidence, {figure.id for figure in drawn}),
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        run_id=evidence.results.parent,
        data=Markup(data),
        scripts=[Markup(script) for script in (get_plotlyjs(), _read_asset("page.js"))],
    )
    return str(page)


def draw_figures(evidence: Evidence) -> list[Figure | None]:
    """Draw the figures in the order of the page; None where the study has no data for one."""
    results, trials = evidence.results, evidence.results.trials
    style = Style(trials["label"])
    return [
        figures.draw_main(results, evidence.dense, style, evidence.twins, evidence.band),
        figures.draw_objectives(results, style),
        figures.draw_methods(results, style),
        figures.draw_iterations(results, style),
        *figures.draw_layers(trials, evidence.layers),
        figures.draw_growth(results),
        figures.draw_curves(trials, evidence.curves, evidence.curve_metric, style),
        figures.draw_trails(trials, evidence.trails, style),
        figures.draw_changing_layers(trials, evidence.layers, evidence.trails),
        figures.draw_forest(evidence.verdicts, evidence.margin),
    ]


def _read_asset(name: str) -> str:
    return files("forcetune.report").joinpath(name).read_text(encoding="utf-8")


def collect_data(results: Results, drawn: Sequence[Figure]) -> dict[str, Any]:
    """Collect what page.js reads: the figures, and the columns behind the figures and their tables."""
    figure_sources = {figure.id: _collect_source(figure) for figure in drawn if figure.frame is not None}
    figure_data = [{"id": figure.id, "data": figure.traces, "layout": figure.layout} for figure in drawn]
    return {"sources": {TRIALS_SOURCE: _collect_listing(results), **figure_sources}, "figures": figure_data}


def _collect_listing(results: Results) -> dict[str, Any]:
    frame = listing.build_listing(results)
    source_frame = frame.assign(density=results.trials["density"], reached=results.trials["reached"])
    columns = encode_columns(
        source_frame, listing.label_columns(results.quality), listing.choose_column_kinds(results.quality)
    )
    return {
        "rows": len(frame),
        "columns": _mark_interval(columns, results.quality),
        "shown": listing.choose_listed_columns(results, {*map(str, frame)}),
        "hover": listing.choose_hover_columns(results, {*map(str, frame)}),
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


def _pair_figures(drawn: Sequence[Figure], names: Sequence[str]) -> list[Figure]:
    """Order figures two by two; wide ones come last, and a figure without a partner becomes wide."""
    chosen = [figure for figure in drawn if figure.id.rstrip("0123456789") in names]
    halves, wide = ([figure for figure in chosen if figure.is_wide == is_wide] for is_wide in (False, True))
    if len(halves) % 2:
        halves[-1] = replace(halves[-1], is_wide=True)
    return [*halves, *wide]

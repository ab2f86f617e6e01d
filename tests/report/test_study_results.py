"""The results of a study as Python and notebooks have them."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from forcetune import analysis, tracking
from forcetune.errors import InputError
from forcetune.report import StudyResults, evidence, numbers, results
from forcetune.report.notebook import format_value, make_figures

MARKUP = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def figures(make_evidence):
    return make_figures(make_evidence())


def make_results(stored, end_reason=None):
    return StudyResults(**vars(stored), end_reason=end_reason)


def make_table(study, **columns):
    trials = pd.DataFrame({"study": study, "outcome": "trained", **columns})
    return make_trial_table(trials, study, {"val_accuracy": "max", "density": "min"})


def make_trial_table(trials, study, objectives):
    return tracking.TrialTable(
        trials=trials, studies=[study], objectives=objectives, fields=[], device_hours=None, state="FINISHED"
    )


def test_a_study_without_fresh_seeds_is_on_the_common_front():
    seeded = make_table("a", density=[0.1], val_accuracy=[0.9], val_accuracy_mean=[0.88], density_mean=[0.1])
    plain = make_table("b", density=[0.01, 0.02], val_accuracy=[0.7, 0.6])
    joined = results._join_tables([seeded, plain])
    front = analysis.front(joined.trials, joined.objectives)
    assert sorted(zip(front["study"], front["density"], strict=True)) == [("a", 0.1), ("b", 0.01)]


def test_studies_with_other_directions_share_no_front():
    other = make_trial_table(pd.DataFrame(), "b", {"density": "min", "val_accuracy": "min"})
    message = r"a has val_accuracy \(max\), .*; b has density \(min\), val_accuracy \(min\)"
    with pytest.raises(InputError, match=message):
        results._join_tables([make_table("a", density=[0.1]), other])


def test_the_figures_are_those_of_the_page(figures):
    assert [*figures] == ["main", "methods", "iterations", "layers", "growth", "curves", "forest"]
    assert figures["main"].layout.title.text == "Sparsity against validation accuracy"


def test_each_trace_has_its_numbers(figures, make_evidence):
    for figure in figures.values():
        for trace in figure.data:
            assert trace.meta is None
            assert len(trace.x) > 0
            assert len(trace.x) == len(trace.y) or trace.type == "heatmap"
    trials = make_evidence().results.trials
    points = [
        (x, y)
        for trace in figures["main"].data
        if trace.unselected.marker.opacity
        for x, y in zip(trace.x, trace.y, strict=True)
    ]
    expected = trials.dropna(subset=["density", "reached"])[["density", "reached"]].to_numpy()
    np.testing.assert_allclose(sorted(points), sorted(map(tuple, expected)), rtol=1e-5)


def test_the_colours_are_those_of_the_light_page(figures):
    text = json.dumps([json.loads(figure.to_json()) for figure in figures.values()])
    assert "var(" not in text
    assert figures["main"].layout.paper_bgcolor == "#ffffff"
    assert figures["main"].layout.font.color == "#1b1f24"


def test_a_point_shows_what_it_shows_on_the_page(figures):
    texts = [text for trace in figures["main"].data if trace.hovertext for text in trace.hovertext]
    (text,) = [text for text in texts if text.startswith("<b>trial-0012</b>")]
    assert "<br>method: random<br>sparsity: 91.50%<br>accuracy: 90.89%<br>" in text
    assert text.endswith("<br>macs: 400,000<br>outcome: trained")


def test_learning_curves_end_where_a_trial_ends(figures):
    trace = figures["curves"].data[0]
    assert trace.x[:7] == (1, 2, 3, 4, 5, None, 1)
    assert trace.y[5] is None


def test_a_heat_map_has_logarithms_and_gaps(figures):
    heat_map, crosses = figures["layers"].data
    assert heat_map.z[0][0] == pytest.approx(np.log10(0.5))
    assert None in heat_map.z[1]
    assert crosses.x[0] in heat_map.x


def test_intervals_are_distances_from_the_mean(figures):
    bars = figures["forest"].data[0].error_x
    assert (bars.array, bars.arrayminus) == ((1,), (1,))


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("share", 0.5, "50.00%"),
        ("share", 0.99995, "99.9950%"),
        ("share", 1.0, "100.00%"),
        ("chance", 1 / 3, "33%"),
        ("chance", 0.125, "13%"),
        ("whole", 12345.0, "12,345"),
        ("points", -1.5, "−1.50"),
        ("points", 0.25, "+0.25"),
        ("number", 12340.5, "12340"),
        ("number", 1 / 3, "0.3333"),
        ("number", 5e-5, "0.00005"),
        ("number", 5e-8, "5e-8"),
        ("number", 0.0, "0"),
        ("flag", True, "yes"),
        ("words", "a", "a"),
        ("number", None, ""),
    ],
)
def test_numbers_are_written_as_page_js_writes_them(kind, value, text):
    assert format_value(kind, value) == text


def test_names_of_the_user_are_no_markup(make_study, make_evidence):
    rows = [(MARKUP, 0.1 / (1 + index), 0.9 - index / 10, "trained") for index in range(4)]
    stored = make_study(rows, model=MARKUP)
    html = make_results(stored, MARKUP)._repr_html_()
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 1 + 4
    for figure in make_figures(make_evidence(stored)).values():
        assert "<script" not in json.dumps(json.loads(figure.to_json()), ensure_ascii=False).replace("\\u003c", "<")


def test_a_notebook_shows_the_front(searched):
    study_results = make_results(searched, "the search ended early: 1 hour is used up")
    html = study_results._repr_html_()
    assert html.startswith("<p>s: 40 trials, 16 on the front; the search ended early: 1 hour is used up</p>")
    sparsities = [float(text) for text in re.findall(r"<td>([\d.]+)%</td><td>[\d.]+%</td>", html)]
    assert len(sparsities) == 16
    assert sparsities == sorted(sparsities)
    assert study_results.trials is searched.trials


@pytest.mark.parametrize("rows", [[], [("snip", 0.1, np.nan, "failed")]])
def test_a_study_without_a_front_shows_no_table(make_study, rows):
    study_results = make_results(make_study(rows))
    assert study_results._repr_html_() == f"<p>s: {len(rows)} trials, 0 on the front</p>"
    assert repr(study_results) == f"<StudyResults of s: {len(rows)} trials, 0 on the front>"


def test_there_is_no_figure_before_a_trial_has_ended(make_study):
    with pytest.raises(InputError, match="has nothing to report"):
        make_results(make_study([])).figures()


def test_figures_read_only_what_the_tables_lack(searched, monkeypatch):
    monkeypatch.setattr(tracking, "load_curves", lambda runs, metric: pd.DataFrame())
    monkeypatch.setattr(tracking, "read_json", lambda run, file: None)
    monkeypatch.setattr(tracking, "list_records", lambda experiment, kind: [])
    figures = make_results(searched).figures()
    assert {"main", "methods", "growth"} <= figures.keys()
    assert "curves" not in figures


def test_curves_without_a_number_are_no_figure(searched, monkeypatch):
    run_id = searched.trials["run_id"].iloc[0]
    curves = pd.DataFrame({"run_id": [run_id] * 2, "step": [1, 2], "value": [np.nan] * 2})
    monkeypatch.setattr(tracking, "load_curves", lambda runs, metric: curves)
    monkeypatch.setattr(tracking, "read_json", lambda run, file: None)
    monkeypatch.setattr(tracking, "list_records", lambda experiment, kind: [])
    assert "curves" not in make_results(searched).figures()


@pytest.mark.parametrize(
    "rows",
    [
        [("snip", 0.1, 0.9, "trained")],
        [("snip", 0.01, 0.1, "collapsed"), ("force", 0.02, 0.1, "collapsed")],
        [("snip", 0.1, 0.9, "trained"), (None, np.nan, np.nan, None)],
    ],
)
def test_odd_studies_have_figures(make_study, rows):
    assert "main" in make_figures(evidence.Evidence("s", numbers.prepare_trials(make_study(rows))))

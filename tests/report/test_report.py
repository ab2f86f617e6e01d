"""The page as text."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from forcetune import report, results
from forcetune.errors import InputError
from forcetune.report import evidence, numbers
from forcetune.report.columns import encode_columns
from forcetune.report.looks import format_percent
from forcetune.report.page import render_page
from forcetune.tracking import Epoch, Tracker

OBJECTIVES = {"val_accuracy": "max", "density": "min"}
EVIL = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(2)>&amp;"


def data(text):
    """What page.js reads."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def words(text):
    """The page without its scripts and style."""
    return re.sub(r"(?s)<(script|style).*?</\1>", "", text)


@pytest.fixture(scope="module")
def whole(gathered):
    return render_page(gathered())


def test_what_stands_first(whole):
    text = re.sub("<[^>]+>", "", words(whole))
    assert "40 trials of 4 methods: 31 trained, 8 stopped early, 1 collapsed" in text
    assert "mlp reaches 98.0% ± 2.5 validation accuracy (mean of 3 runs)." in text
    assert "The search is finished and took 30 min 00 s of device time." in text


def test_every_figure_is_there(whole):
    assert [figure["id"] for figure in data(whole)["figures"]] == [
        *("main", "methods", "iterations", "layers", "growth", "curves", "forest")
    ]
    assert "layers without a weight: last" in words(whole)
    assert "Not shown" not in words(whole)


def test_figures_are_what_plotly_takes(whole):
    from plotly.graph_objects import Figure

    for figure in data(whole)["figures"]:
        Figure(data=figure["data"], layout=figure["layout"])  # raises where a name or value is none of Plotly's


def test_every_number_stands_once(whole):
    told = data(whole)
    for figure in told["figures"]:
        for trace in figure["data"]:
            meta = trace.get("meta")
            assert meta or trace["name"].startswith(("dense", "random twins")), "of no trial of the study"
            if meta:
                source = told["sources"][meta["source"]]
                names = {column["name"] for column in source["columns"]}
                assert {meta[key] for key in ("x", "y", "z", "low", "high", "gap") if key in meta} <= names
                assert max(meta["rows"]) < source["rows"]


def test_nothing_is_asked_for_elsewhere(whole):
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", words(whole))
    assert "default-src 'none'" in whole
    assert 4e6 < len(whole) < 10e6


def test_random_twins_are_drawn(whole):
    assert "random_erk: 0.75, mean over 2 seeds at 90%" in whole


def test_the_front_is_a_plain_table_too(whole):
    front = whole[whole.index('<div class="front">') :].split("</table>")[0]
    assert front.count("<tr>") == 1 + int(re.search(r"(\d+) are on the front", words(whole))[1])
    assert '<th scope="col" class="words">trial</th>' in front


def test_names_are_text(make_table, gathered):
    rows = [(EVIL, 0.1 / (1 + place), 0.9 - place / 10, "trained") for place in range(4)]
    rows.append(("snip", 0.05, np.nan, "failed"))
    told = gathered(make_table(rows, model=EVIL, reason=EVIL))
    told = replace(told, study=EVIL, curve_metric=EVIL)
    text = render_page(told)
    assert "<script>alert" not in text
    assert "<img" not in words(text)
    assert EVIL in {
        str(level) for column in data(text)["sources"]["trials"]["columns"] for level in column.get("levels", [])
    }
    names = [trace["name"] for figure in data(text)["figures"] for trace in figure["data"] if "name" in trace]
    assert not any("<" in name for name in names)  # Plotly reads tags


ODD = {
    "one trial": [("snip", 0.1, 0.9, "trained")],
    "all collapsed": [("snip", 0.01, 0.1, "collapsed"), ("force", 0.02, 0.1, "collapsed")],
    "all failed": [("snip", 0.01, np.nan, "failed")],
    "a density of nothing": [("snip", 0.0, 0.1, "collapsed"), ("snip", 0.5, 0.9, "trained")],
    "infinite": [("snip", 0.1, np.inf, "trained"), ("snip", 0.2, 0.9, "trained")],
    "still running": [("snip", 0.1, 0.9, "trained"), ("snip", 0.2, 0.5, None), (None, np.nan, np.nan, None)],
    "unpruned": [("random", 1.0, 0.99, "trained"), ("snip", 0.9, 0.99, "trained")],
    "equal": [("snip", 0.1, 0.9, "trained")] * 3,
}


@pytest.mark.parametrize("rows", ODD.values(), ids=ODD)
def test_odd_studies_have_a_page(make_table, rows):
    text = render_page(evidence.Evidence("s", numbers.prepare_trials(make_table(rows))))
    assert "<h2" in text
    assert "Not shown" in text
    assert len(data(text)["sources"]["trials"]["columns"]) > 5


def test_other_objectives(make_table):
    rows = [("snip", 0.1, 0.9, "trained"), ("force", 0.05, 0.8, "trained"), ("random", 0.2, 0.5, "trained")]
    table = make_table(rows, {"val_f1": "max", "latency_ms": "min"}, val_f1=[0.8, 0.7, 0.2], latency_ms=[3.0, 2.0, 4.0])
    table.attrs["references"] = {}
    text = render_page(evidence.Evidence("s", numbers.prepare_trials(table)))
    assert [figure["id"] for figure in data(text)["figures"]][:2] == ["main", "objectives"]
    assert "The front is over validation f1 and latency ms; rings mark its points." in text
    assert "because no reference is set" in text


def test_missing_columns(make_table):
    table = make_table([("snip", 0.1, 0.9, "trained")]).drop(columns=["val_accuracy", "model", "device_seconds"])
    text = render_page(evidence.Evidence("s", numbers.prepare_trials(table)))
    assert "sparsity against validation accuracy, because no trial" in text


def test_twenty_five_methods_differ_in_colour_or_shape(make_table):
    rows = [(f"my.module:fn{place}", 0.01 + place / 100, 0.5 + place / 100, "trained") for place in range(25)]
    text = render_page(evidence.Evidence("s", numbers.prepare_trials(make_table(rows))))
    main = data(text)["figures"][0]
    looks = {(t["marker"]["color"], t["marker"]["symbol"]) for t in main["data"] if t.get("meta", {}).get("points")}
    assert len(looks) == 25


def test_several_networks_have_a_heat_map_each(gathered, make_table):
    told = gathered(make_table([("snip", 0.1, 0.9, "trained"), ("snip", 0.05, 0.8, "trained")], model=["a", "b"]))
    first, second = told.layers
    layers = {first: told.layers[first], second: told.layers[second][:1]}
    text = render_page(evidence.Evidence("s", told.trials, layers=layers))
    assert "Density by layer: a" in text
    assert "Density by layer: b" in text


def test_a_study_without_an_ended_trial_is_refused(make_table, monkeypatch):
    for rows in ([], [("snip", 0.1, 0.5, None)]):
        known = results.Results(make_table(rows), pd.DataFrame())
        monkeypatch.setattr(results, "read", lambda _, known=known: known)
        with pytest.raises(InputError, match="study 's' has nothing to report"):
            report.write("s")


@pytest.fixture
def stored(folder):
    """A study of two trials in MLflow, with layers and curves; the parent run's id."""
    tracker = Tracker("s", f"sqlite:///{folder / 'mlflow.db'}")
    parent = tracker.open_study(OBJECTIVES, {})
    for number, (density, accuracy) in enumerate([(0.1, 0.9), (0.01, 0.6)]):
        run = tracker.open_trial(parent, number, f"key{number}", {"outcome": "trained"}, 1000)
        epochs = [Epoch(n, 1000 + n, {"val_accuracy": accuracy * n / 3, "density": density}) for n in (1, 2, 3)]
        fields = {"method": "snip", "density": density, "dataset": "digits", "model": "mlp"}
        tracker.log(run, epochs, fields, {"forcetune.outcome": "trained"})
        folder.joinpath("layers.json").write_text('[{"layer": "a.weight", "shape": [2], "weights": 2, "kept": 1}]')
        tracker.log_file(run, folder / "layers.json")
        tracker.close(run)
    study = {"study": "s", "objectives": OBJECTIVES, "trial": {"density": 0.1}}
    tracker.describe(parent, study, {"val_accuracy": 0.1, "density": 0.5}, "")
    tracker.close(parent)
    return tracker, parent


def test_from_the_store_to_a_file_and_an_artifact(stored, folder):
    tracker, parent = stored
    path = report.write("s")
    assert path.name == "report-s.html"
    text = path.read_text()
    assert [figure["id"] for figure in data(text)["figures"]] == ["main", "layers", "growth", "curves"]
    assert report.ARTIFACT in tracker.list_files(parent)
    with pytest.raises(InputError, match="--out"):
        report.write("s", folder)


def test_columns_are_written_compactly():
    frame = pd.DataFrame({"a": ["x", "x", "y", "x", "x"], "b": [1.0, 0.123456789, np.nan, 2, 3], "c": [1, 1, 1, 1, 1]})
    words_, numbers_, constant = encode_columns(frame, {}, {})
    assert (words_["levels"], words_["codes"]) == (["x", "y"], [0, 0, 1, 0, 0])
    assert numbers_["values"] == [1, 0.123457, None, 2, 3]
    assert constant["constant"] == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "50%"), (0.9544, "95.44%"), (0.999, "99.9%"), (0.99995, "99.995%"), (1.0, "100%")]
)
def test_sparsities_in_percent(value, text):
    assert format_percent(value) == text

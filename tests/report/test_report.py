"""The text of the page."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from shared_constants import DEFAULT_OBJECTIVES

from forcetune import report
from forcetune.errors import InputError
from forcetune.report import evidence, numbers, results
from forcetune.report.columns import encode_columns
from forcetune.report.page import render_page
from forcetune.tracking import Epoch, Tracker

MALICIOUS_NAME = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(2)>&amp;"


def read_data(text):
    """Return the data of a page that page.js reads."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def remove_scripts(text):
    """Return the page without its scripts and styles."""
    return re.sub(r"(?s)<(script|style).*?</\1>", "", text)


@pytest.fixture(scope="module")
def page(make_evidence):
    return render_page(make_evidence())


def test_the_summary_comes_first(page):
    text = re.sub("<[^>]+>", "", remove_scripts(page))
    assert "40 trials of 4 methods: 31 trained, 8 stopped early, 1 collapsed" in text
    assert "mlp reaches 98.0% ± 2.5 validation accuracy (mean of 3 runs)." in text
    assert "The search is finished and took 30 min 00 s of device time." in text


def test_every_figure_is_there(page):
    assert [figure["id"] for figure in read_data(page)["figures"]] == [
        *("main", "methods", "iterations", "layers", "growth", "curves", "forest")
    ]
    assert "layers without a weight: last" in remove_scripts(page)
    assert "Not shown" not in remove_scripts(page)


def test_figures_are_what_plotly_takes(page):
    from plotly.graph_objects import Figure

    for figure in read_data(page)["figures"]:
        # this call raises an error where Plotly does not know a name or a value
        Figure(data=figure["data"], layout=figure["layout"])


def test_every_number_stands_once(page):
    page_data = read_data(page)
    for figure in page_data["figures"]:
        for trace in figure["data"]:
            meta = trace.get("meta")
            assert meta or trace["name"].startswith(("dense", "expected", "random twins")), (
                "only points that are no trial of the study have no source"
            )
            if meta:
                source = page_data["sources"][meta["source"]]
                names = {column["name"] for column in source["columns"]}
                assert {meta[key] for key in ("x", "y", "z", "low", "high", "gap") if key in meta} <= names
                assert max(meta["rows"]) < source["rows"]


def test_the_band_of_the_dial_is_drawn(page):
    main = read_data(page)["figures"][0]
    outline, line = (trace for trace in main["data"] if trace.get("name", "").startswith("expected of a run"))
    assert len(outline["x"]) == len(outline["y"]) == 2 * len(line["x"])
    assert min(outline["y"]) < min(line["y"]) < max(line["y"]) < max(outline["y"])


def test_the_page_loads_nothing_from_elsewhere(page):
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", remove_scripts(page))
    assert "default-src 'none'" in page
    assert 4e6 < len(page) < 10e6


def test_random_twins_are_drawn(page):
    assert "random_erk: 0.75, mean over 2 seeds at 90%" in page


def test_the_front_is_also_a_plain_table(page):
    front = page[page.index('<div class="front">') :].split("</table>")[0]
    assert front.count("<tr>") == 1 + int(re.search(r"(\d+) are on the front", remove_scripts(page))[1])
    assert '<th scope="col" class="words">trial</th>' in front


def test_names_are_escaped(make_study, make_evidence):
    rows = [(MALICIOUS_NAME, 0.1 / (1 + index), 0.9 - index / 10, "trained") for index in range(4)]
    rows.append(("snip", 0.05, np.nan, "failed"))
    study_evidence = make_evidence(make_study(rows, model=MALICIOUS_NAME, reason=MALICIOUS_NAME))
    study_evidence = replace(study_evidence, study=MALICIOUS_NAME, curve_metric=MALICIOUS_NAME)
    text = render_page(study_evidence)
    assert "<script>alert" not in text
    assert "<img" not in remove_scripts(text)
    assert MALICIOUS_NAME in {
        str(level) for column in read_data(text)["sources"]["trials"]["columns"] for level in column.get("levels", [])
    }
    names = [trace["name"] for figure in read_data(text)["figures"] for trace in figure["data"] if "name" in trace]
    assert not any("<" in name for name in names)  # because Plotly interprets tags


ODD_STUDIES = {
    "one trial": [("snip", 0.1, 0.9, "trained")],
    "all collapsed": [("snip", 0.01, 0.1, "collapsed"), ("force", 0.02, 0.1, "collapsed")],
    "all failed": [("snip", 0.01, np.nan, "failed")],
    "a density of nothing": [("snip", 0.0, 0.1, "collapsed"), ("snip", 0.5, 0.9, "trained")],
    "infinite": [("snip", 0.1, np.inf, "trained"), ("snip", 0.2, 0.9, "trained")],
    "still running": [("snip", 0.1, 0.9, "trained"), ("snip", 0.2, 0.5, None), (None, np.nan, np.nan, None)],
    "unpruned": [("random", 1.0, 0.99, "trained"), ("snip", 0.9, 0.99, "trained")],
    "equal": [("snip", 0.1, 0.9, "trained")] * 3,
}


@pytest.mark.parametrize("rows", ODD_STUDIES.values(), ids=ODD_STUDIES)
def test_odd_studies_have_a_page(make_study, rows):
    text = render_page(evidence.Evidence("s", numbers.prepare_trials(make_study(rows))))
    assert "<h2" in text
    assert "Not shown" in text
    assert len(read_data(text)["sources"]["trials"]["columns"]) > 5


def test_other_objectives(make_study):
    rows = [("snip", 0.1, 0.9, "trained"), ("force", 0.05, 0.8, "trained"), ("random", 0.2, 0.5, "trained")]
    objectives = {"val_f1": "max", "latency_ms": "min"}
    study_results = make_study(rows, objectives, val_f1=[0.8, 0.7, 0.2], latency_ms=[3.0, 2.0, 4.0])
    text = render_page(evidence.Evidence("s", numbers.prepare_trials(replace(study_results, references={}))))
    assert [figure["id"] for figure in read_data(text)["figures"]][:2] == ["main", "objectives"]
    assert "The front is over validation f1 and latency ms; rings mark its points." in text
    assert "because no reference is set" in text


def test_missing_columns(make_study):
    study_results = make_study([("snip", 0.1, 0.9, "trained")])
    trials = study_results.trials.drop(columns=["val_accuracy", "model", "device_seconds"])
    text = render_page(evidence.Evidence("s", numbers.prepare_trials(replace(study_results, trials=trials))))
    assert "sparsity against validation accuracy, because no trial" in text


def test_twenty_five_methods_differ_in_colour_or_shape(make_study):
    rows = [(f"my.module:fn{index}", 0.01 + index / 100, 0.5 + index / 100, "trained") for index in range(25)]
    text = render_page(evidence.Evidence("s", numbers.prepare_trials(make_study(rows))))
    main = read_data(text)["figures"][0]
    looks = {(t["marker"]["color"], t["marker"]["symbol"]) for t in main["data"] if t.get("meta", {}).get("points")}
    assert len(looks) == 25


def test_several_networks_have_a_heat_map_each(make_evidence, make_study):
    study_evidence = make_evidence(
        make_study([("snip", 0.1, 0.9, "trained"), ("snip", 0.05, 0.8, "trained")], model=["a", "b"])
    )
    first, second = study_evidence.layers
    layers = {first: study_evidence.layers[first], second: study_evidence.layers[second][:1]}
    text = render_page(evidence.Evidence("s", study_evidence.results, layers=layers))
    assert "Density by layer: a" in text
    assert "Density by layer: b" in text


def test_a_study_without_an_ended_trial_is_refused(make_study, monkeypatch):
    for rows in ([], [("snip", 0.1, 0.5, None)]):
        unfinished = make_study(rows)
        monkeypatch.setattr(results, "load", lambda _, unfinished=unfinished: unfinished)
        with pytest.raises(InputError, match="study 's' has nothing to report"):
            report.write("s")


@pytest.fixture
def stored(folder):
    """Log a study of two trials to MLflow, with layers and curves; return the tracker and the id of the parent run."""
    tracker = Tracker("s", f"sqlite:///{folder / 'mlflow.db'}")
    parent = tracker.open_study(DEFAULT_OBJECTIVES, {})
    for number, (density, accuracy) in enumerate([(0.1, 0.9), (0.01, 0.6)]):
        run = tracker.open_trial(parent, number, f"key{number}", {"outcome": "trained"}, 1000)
        epochs = [Epoch(n, 1000 + n, {"val_accuracy": accuracy * n / 3, "density": density}) for n in (1, 2, 3)]
        fields = {"method": "snip", "density": density, "dataset": "digits", "model": "mlp"}
        tracker.log(run, epochs, fields, {"forcetune.outcome": "trained"})
        folder.joinpath("layers.json").write_text('[{"layer": "a.weight", "shape": [2], "weights": 2, "kept": 1}]')
        tracker.log_file(run, folder / "layers.json")
        tracker.close(run)
    study = {"study": "s", "objectives": DEFAULT_OBJECTIVES, "trial": {"density": 0.1}}
    tracker.describe(parent, study, {"val_accuracy": 0.1, "density": 0.5}, "")
    tracker.close(parent)
    return tracker, parent


def test_from_the_store_to_a_file_and_an_artifact(stored, folder):
    tracker, parent = stored
    path = report.write("s")
    assert path.name == "report-s.html"
    text = path.read_text()
    assert [figure["id"] for figure in read_data(text)["figures"]] == ["main", "layers", "growth", "curves"]
    assert report.ARTIFACT in tracker.list_files(parent)
    with pytest.raises(InputError, match="--out"):
        report.write("s", folder)


def test_columns_are_written_compactly():
    frame = pd.DataFrame({"a": ["x", "x", "y", "x", "x"], "b": [1.0, 0.123456789, np.nan, 2, 3], "c": [1, 1, 1, 1, 1]})
    text_column, number_column, constant_column = encode_columns(frame, {}, {})
    assert (text_column["levels"], text_column["codes"]) == (["x", "y"], [0, 0, 1, 0, 0])
    assert number_column["values"] == [1, 0.123457, None, 2, 3]
    assert constant_column["constant"] == 1

"""Companions as they travel."""

import json

import pytest

from forcetune.errors import InputError
from forcetune.study import Companion, CompanionRuns, Study, Trial, load_companion_runs

FIELDS = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1}


def test_an_errand_is_the_same_after_it_was_written(tmp_path):
    trial = Trial(**FIELDS)
    runs = [Companion(trial, "of", {"arm": "champion"}), Companion(trial, "of", {"again": "2026-11-26"})]
    companion_runs = CompanionRuns(Study.from_dict({"study": "s", "trial": FIELDS}), runs, "2026-11-26", 0.5)
    (tmp_path / "errand.json").write_text(json.dumps(companion_runs.plain()))
    assert load_companion_runs(tmp_path / "errand.json") == companion_runs
    assert [one.key for one in runs] == [trial.key, f"{trial.key}@2026-11-26"]


def test_what_is_none_is_refused(tmp_path):
    (tmp_path / "errand.json").write_text('{"study": {}}')
    with pytest.raises(InputError, match="errand.json cannot be read as a list of companions"):
        load_companion_runs(tmp_path / "errand.json")

"""The file in which companions are sent to a job."""

import json

import pytest

from forcetune.errors import InputError
from forcetune.study import Companion, CompanionRuns, Study, Trial, load_companion_runs

COMPANION_FIELDS = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1}


def test_companion_runs_are_the_same_after_they_were_written(tmp_path):
    trial = Trial(**COMPANION_FIELDS)
    companions = [Companion(trial, "of", {"arm": "champion"}), Companion(trial, "of", {"again": "2026-11-26"})]
    companion_runs = CompanionRuns(
        Study.from_dict({"study": "s", "trial": COMPANION_FIELDS}), companions, "2026-11-26", 0.5
    )
    (tmp_path / "errand.json").write_text(json.dumps(companion_runs.plain()))
    assert load_companion_runs(tmp_path / "errand.json") == companion_runs
    assert [companion.key for companion in companions] == [trial.key, f"{trial.key}@2026-11-26"]


def test_a_file_that_lists_no_companions_is_refused(tmp_path):
    (tmp_path / "errand.json").write_text('{"study": {}}')
    with pytest.raises(InputError, match="errand.json cannot be read as a list of companions"):
        load_companion_runs(tmp_path / "errand.json")

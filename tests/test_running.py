"""The last lines that a search prints."""

import pandas as pd
import pytest

from forcetune import run
from forcetune.cli import running


def make_table(*outcomes):
    return pd.DataFrame({"outcome": outcomes})


@pytest.mark.parametrize(
    ("complete", "message"),
    [
        (False, "the study asks for 4 trials, and its search space has only 2\n"),
        (True, "2 of 4 trials no longer have a run in MLflow; `forcetune doctor s`"),
    ],
)
def test_the_reason_for_fewer_trials_than_requested_is_printed(make_study, monkeypatch, capsys, complete, message):
    monkeypatch.setattr(run, "is_complete", lambda study: complete)
    running.report_end(make_study(search={"trials": 4}), make_table("trained", "trained"), None)
    assert capsys.readouterr().out.startswith(message)


def test_failed_trials_are_counted_with_the_command_that_runs_them_again(make_study, capsys):
    running.report_end(make_study(search={"trials": 2}), make_table("trained", "failed"), None)
    output = capsys.readouterr().out
    assert output.startswith("1 failed: the reason is in the tag forcetune.reason")
    assert "`forcetune search FILE --retry-failed` runs them again" in output
    with pytest.raises(SystemExit) as exit_info:
        running.report_end(make_study(search={"trials": 1}), make_table("failed"), None)
    assert exit_info.value.code == 1


def test_a_study_whose_runs_are_all_gone_is_no_failed_one(make_study, monkeypatch, capsys):
    monkeypatch.setattr(run, "is_complete", lambda study: True)
    running.report_end(make_study(search={"trials": 2}), make_table(), None)
    assert capsys.readouterr().out.startswith("2 of 2 trials no longer have a run in MLflow")

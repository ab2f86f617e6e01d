"""What the last lines of a search say."""

import pandas as pd
import pytest

from forcetune import run
from forcetune.cli import running


def table(*outcomes):
    return pd.DataFrame({"outcome": outcomes})


@pytest.mark.parametrize(
    ("complete", "said"),
    [
        (False, "the study asks for 4 trials, and its search space has only 2\n"),
        (True, "2 of 4 trials no longer have a run in MLflow; `forcetune doctor s`"),
    ],
)
def test_why_there_are_fewer_trials_than_were_asked_for(make_study, monkeypatch, capsys, complete, said):
    monkeypatch.setattr(run, "is_complete", lambda study: complete)
    running.report_end(make_study(search={"trials": 4}), table("trained", "trained"), None)
    assert capsys.readouterr().out.startswith(said)


def test_failed_trials_are_counted_and_how_to_run_them_again(make_study, capsys):
    running.report_end(make_study(search={"trials": 2}), table("trained", "failed"), None)
    said = capsys.readouterr().out
    assert said.startswith("1 failed: the reason is in the tag forcetune.reason")
    assert "`forcetune search FILE --retry-failed` runs them again" in said
    with pytest.raises(SystemExit) as ended:
        running.report_end(make_study(search={"trials": 1}), table("failed"), None)
    assert ended.value.code == 1

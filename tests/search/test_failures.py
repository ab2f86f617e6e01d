"""Searches whose trials fail: when a search is given up, and how it goes on."""

import yaml
from click.testing import CliRunner
from commands import SequentialSession
from drivers import drain, end, make_driver, optuna_trials

from forcetune import run
from forcetune.cli import main
from forcetune.run import is_over


def fail_trials(driver, count):
    for _ in range(count):
        end(driver, driver.issue(), "failed", reason="RuntimeError: mine")


def test_five_equal_failures_end_a_search_and_the_next_driver_continues_it(folder, make_study):
    study = make_study(search={"trials": 12})
    driver = make_driver(study)
    fail_trials(driver, 3)
    driver.close()
    assert driver.failure_reason is None
    driver = make_driver(study)  # a restart in between changes nothing
    fail_trials(driver, 1)
    running = driver.issue()
    fail_trials(driver, 1)
    assert driver.failure_reason == "the last 5 trials failed for the same reason: RuntimeError: mine"
    assert driver.issue() is None
    assert not driver.is_finished, "a running trial may end"
    end(driver, running)
    assert driver.is_finished
    driver.close()
    assert is_over(study), "no supervisor starts it again"

    next_driver = make_driver(study)
    assert next_driver.failure_reason is None
    assert not next_driver.is_finished
    end(next_driver, next_driver.issue())
    assert not is_over(study)
    drain(next_driver)
    assert len(optuna_trials()) == 12
    assert next_driver.failure_reason is None
    assert is_over(study)


def test_a_search_whose_last_trials_fail_has_not_been_given_up(folder, make_study):
    driver = make_driver(make_study(search={"trials": 5}))
    fail_trials(driver, 5)
    driver.close()
    assert driver.is_finished
    assert driver.failure_reason is None


def test_max_failures_allows_more_failures(folder, make_study):
    driver = make_driver(make_study(search={"trials": 12, "max_failures": 7}))
    fail_trials(driver, 8)
    assert driver.issue() is None
    assert driver.failure_reason.startswith(
        "8 of 8 trials failed, more than `search.max_failures: 7` allows; the last failure:"
    )
    driver.close()


class FailingSession(SequentialSession):
    """A session in which each trial fails."""

    def drive(self, driver):
        while assignment := driver.issue():
            end(driver, assignment, "failed", reason="RuntimeError: mine")
        driver.close()


def test_a_hopeless_study_ends_with_its_reason_and_exit_code_1(folder, make_study, monkeypatch):
    monkeypatch.setattr(run, "RaySession", FailingSession)
    study_file = make_study(search={"trials": 12}).model_dump(include={"study", "trial"})
    (folder / "s.yaml").write_text(yaml.safe_dump({**study_file, "search": {"trials": 12}}))
    for trials in (5, 10):  # the second command continues the study
        result = CliRunner().invoke(main, ["search", "s.yaml"])
        assert result.exit_code == 1
        reason = "the last 5 trials failed for the same reason: RuntimeError: mine."
        assert f"forcetune: the search was given up: {reason}" in result.stderr
        assert "the same command continues with the remaining trials" in result.stderr
        assert len(optuna_trials()) == trials
    result = CliRunner().invoke(main, ["search", "s.yaml"])
    assert (result.exit_code, len(optuna_trials())) == (1, 12), "the last two failures are fewer than five"
    assert isinstance(result.exception, SystemExit)
    assert "12 failed" in result.output

"""The trials that a driver starts: as many as the study asks for, none of them twice, those under `start` first."""

from drivers import drain, make_driver, optuna_trials

from forcetune.tracking import load_table


def test_patience_and_budget_end_a_search(folder, make_study):
    driver = make_driver(make_study(search={"trials": 50, "patience": {"trials": 4, "gain": 0.5}}))
    drain(driver)
    assert "over 4 trials the hypervolume grew by" in driver.end_reason
    assert 5 <= len(optuna_trials()) < 50
    restarted = make_driver(make_study(search={"trials": 50, "patience": {"trials": 4, "gain": 0.5}}))
    assert restarted.is_finished
    assert restarted.end_reason == driver.end_reason
    over_budget = make_driver(make_study(search={"trials": 50, "budget": {"device_hours": 1e-9}}))
    assert over_budget.end_reason is None
    assert over_budget.issue() is None
    assert over_budget.end_reason == "the budget of 1e-09 device hours is used up", (
        "the time of earlier drivers counts too"
    )


def test_a_search_with_all_its_trials_has_not_ended_early(folder, make_study):
    driver = make_driver(make_study(search={"trials": 4, "patience": {"trials": 4, "gain": 99.0}}))
    drain(driver)
    assert (driver.end_reason, len(optuna_trials())) == (None, 4)


def test_more_trials_go_on_in_the_same_study(folder, make_study):
    drain(make_driver(make_study(search={"trials": 3})))
    drain(make_driver(make_study(search={"trials": 5})))
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"] * 5
    assert len(load_table("s").trials["trial"].unique()) == 5


def test_a_repeated_proposal_is_pruned_and_does_not_count(folder, make_study):
    study = make_study({"density": 0.1, "method": ["random", "snip"]}, search={"trials": 5, "sampler": "random"})
    driver = make_driver(study)
    drain(driver)
    states = [trial.state.name for trial in optuna_trials()]
    assert states.count("COMPLETE") == 2, "the space has no more"
    assert states.count("PRUNED") == len(states) - 2 > 0
    assert driver.is_finished
    assert len(load_table("s").trials) == 2


def test_start_configurations_run_once_and_more_may_follow(folder, make_study):
    first = {"method": "force", "density": 0.25}
    drain(make_driver(make_study(search={"trials": 2, "start": [first]})))
    more_configurations = [{"method": "snip"}, {"method": "force", "density": 0.125}, first]
    drain(make_driver(make_study(search={"trials": 4, "start": more_configurations})))
    fields = [trial.user_attrs["fields"] for trial in optuna_trials()]
    assert [(f["method"], f["density"]) for f in (fields[0], fields[3])] == [("force", 0.25), ("force", 0.125)]
    assert fields[2]["method"] == "snip"
    assert len(fields) == 4


def test_a_start_configuration_that_the_study_has_is_not_run_again(folder, make_study):
    drain(make_driver(make_study(search={"trials": 1})))
    params = optuna_trials()[0].params
    for _ in range(2):
        drain(make_driver(make_study(search={"trials": 3, "start": [params]})))
    trials = optuna_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert trials[1].user_attrs["key"] == trials[0].user_attrs["key"]

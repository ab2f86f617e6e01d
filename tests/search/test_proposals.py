"""The proposals: every branch of a conditional space, and nothing of an earlier run again."""

import math

import pytest
from optuna.trial import TrialState, create_trial

from forcetune.ledger.messages import PriorTrial
from forcetune.search import proposals as proposals_module
from forcetune.search.proposals import GridProposals, SampledProposals, make_proposals, select_fitting
from forcetune.search.samplers import count_start_trials

CONDITIONAL_SPACE = {
    "method": ["random", "snip", "force", "synflow"],
    "iterations": {"low": 2, "high": 50, "log": True, "when": {"method": ["force", "synflow"]}},
    "lr": {"low": 0.01, "high": 1.0, "log": True},
}


def drive(proposals, count):
    """Ask for proposals and tell their values; accuracy equals density, so that all are on the front."""
    drawn = []
    for _ in range(count):
        proposal = proposals.ask()
        proposals.tell(proposal, [proposal.trial.density, proposal.trial.density])
        drawn.append(proposal)
    return drawn


@pytest.mark.parametrize(
    ("sampler", "count"),
    [
        ("tpe", 30), ("front", 30), ("nsga2", 30), ("random", 30), ("optuna:QMCSampler", 30),
        ("optuna:GPSampler", 15),  # a model for each but the first ten, which takes a second
    ],
)  # fmt: skip
def test_samplers_keep_to_the_space(make_study, sampler, count):
    drawn = drive(make_proposals(make_study(CONDITIONAL_SPACE, search={"sampler": sampler}), []), count)
    for proposal in drawn:
        trial = proposal.trial
        assert 0.05 <= trial.density <= 0.5
        assert 0.01 <= trial.lr <= 1
        assert ("iterations" in proposal.params) == (trial.method in ("force", "synflow"))
        assert set(proposal.params) == set(proposal.distributions)
    assert len({proposal.trial.key for proposal in drawn}) > count * 2 // 3, (
        "NSGA-II repeats some, which the driver drops"
    )


def test_each_choice_comes_up_equally_often_at_the_start(make_study):
    study = make_study(CONDITIONAL_SPACE)
    methods = [proposal.trial.method for proposal in drive(SampledProposals(study, []), count_start_trials(study))]
    for lap in (methods[:4], methods[4:8]):
        assert sorted(lap) == ["force", "random", "snip", "synflow"]


def test_the_sampler_is_free_after_the_start(make_study):
    study = make_study(CONDITIONAL_SPACE, search={"sampler": "random"})
    start = count_start_trials(study)
    methods = [proposal.trial.method for proposal in drive(SampledProposals(study, []), start + 40)][start:]
    laps = [methods[index : index + 4] for index in range(0, 40, 4)]
    assert any(len(set(lap)) < 4 for lap in laps), "choices are no longer dealt out in turn"


def test_the_sampler_learns(make_study):
    """With accuracy alone as the objective and a peak at lr 0.1, later proposals come closer than the first."""
    study = make_study(
        {"method": "snip", "density": 0.1, "lr": CONDITIONAL_SPACE["lr"]}, objectives={"val_accuracy": "max"}
    )
    proposals = SampledProposals(study, [])
    misses = []
    for _ in range(60):
        proposal = proposals.ask()
        miss = abs(math.log10(proposal.trial.lr) + 1)
        proposals.tell(proposal, [-miss])
        misses.append(miss)
    assert sum(misses[40:]) < 0.5 * sum(misses[:20])


def test_density_counts_by_its_logarithm(make_study):
    proposals = SampledProposals(make_study(), [])
    proposal = proposals.ask()
    proposals.tell(proposal, [0.9, 0.001])
    assert proposals._memory_study.trials[0].values == [0.9, -3.0]


def test_off_front_is_told_as_a_constraint(make_study):
    proposals = SampledProposals(make_study(), [])
    good, bad = proposals.ask(), proposals.ask()
    proposals.tell(good, [0.5, 0.5])
    proposals.tell(bad, [0.9, 0.1], on_front=False)
    assert [trial.number for trial in proposals._memory_study.best_trials] == [good.optuna_trial.number]


def test_same_seed_same_proposals_and_a_restart_goes_on(make_study):
    study = make_study(CONDITIONAL_SPACE)
    first = drive(SampledProposals(study, []), 12)
    repeated = drive(SampledProposals(study, []), 12)
    assert [p.trial for p in first] == [p.trial for p in repeated]
    history = make_history(first)
    resumed = drive(SampledProposals(study, history), 12)
    assert not {p.trial.key for p in first} & {p.trial.key for p in resumed}


START_CONFIGURATIONS = [{"method": "force", "iterations": 7}, {"method": "random", "lr": 0.5, "density": 0.25}]


def make_history(proposals, values=(0.5, 0.5)):
    """Return the trials that the ledger has of proposals that have ended."""
    return [
        create_trial(
            state=TrialState.COMPLETE,
            params=p.params,
            distributions=p.distributions,
            values=list(values),
            user_attrs={"key": p.trial.key, "fields": p.trial.fields(), **({"start": p.start} if p.start else {})},
        )
        for p in proposals
    ]


@pytest.mark.parametrize("sampler", ["tpe", "front", "nsga2", "random", "optuna:GPSampler", "optuna:QMCSampler"])
def test_start_configurations_come_first_and_once(make_study, sampler):
    study = make_study(CONDITIONAL_SPACE, search={"sampler": sampler, "start": START_CONFIGURATIONS})
    drawn = drive(make_proposals(study, []), 5)
    first, second = drawn[0].trial, drawn[1].trial
    assert (first.method, first.iterations) == ("force", 7)
    assert (second.method, second.lr, second.density) == ("random", 0.5, 0.25)
    assert [proposal.start is None for proposal in drawn] == [False, False, True, True, True]
    after_one = drive(make_proposals(study, make_history(drawn[:1])), 2)
    assert [p.trial.key == second.key for p in after_one] == [True, False]
    assert all(proposal.start is None for proposal in drive(make_proposals(study, make_history(drawn)), 3))


def test_start_configurations_take_no_choice_from_the_startup_trials(make_study):
    study = make_study(CONDITIONAL_SPACE, search={"start": START_CONFIGURATIONS})
    methods = [proposal.trial.method for proposal in drive(SampledProposals(study, []), 2 + 8)][2:]
    for lap in (methods[:4], methods[4:]):
        assert sorted(lap) == ["force", "random", "snip", "synflow"]


def test_a_grid_has_start_configurations_first(make_study):
    start = [{"density": 0.2, "method": "snip"}, {"method": "force"}]
    study = make_study({"density": [0.1, 0.2]}, search={"sampler": "grid", "start": start})
    trials = [proposal.trial for proposal in iter(make_proposals(study, []).ask, None)]
    assert [(trial.method, trial.density) for trial in trials[:3]] == [("snip", 0.2), ("force", 0.1), ("force", 0.2)]
    assert len({trial.key for trial in trials}) == len(trials) == 6


def test_prior_trials_that_fit_are_selected(make_study):
    study = make_study(CONDITIONAL_SPACE)
    fields = {**make_study(CONDITIONAL_SPACE).make_trial({"method": "snip", "density": 0.1, "lr": 0.3}).fields()}
    changes_that_do_not_fit = [
        {"density": 0.6},
        {"method": "grasp"},
        {"lr": 2.0},
        {"epochs": 5},
        {"weight_decay": 0.0},
        {"method": "force", "iterations": 99},
    ]
    prior_trials = [
        PriorTrial({**fields, **change}, [0.5, 0.1], True) for change in [{}, {"seed": 3}, *changes_that_do_not_fit]
    ]
    assert select_fitting(study, prior_trials) == prior_trials[:2]


def test_a_study_learns_from_another(make_study):
    """After 40 trials of another study with a peak of accuracy at lr 0.1, the first proposals are near it."""
    study = make_study(
        {"method": "snip", "density": 0.1, "lr": CONDITIONAL_SPACE["lr"]}, objectives={"val_accuracy": "max"}
    )
    prior_trials = []
    for step in range(40):
        trial = study.make_trial({"lr": 10 ** (-2 + 2 * step / 39)})
        prior_trials.append(PriorTrial(trial.fields(), [-abs(math.log10(trial.lr) + 1)], True))
    informed, uninformed = SampledProposals(study, [], select_fitting(study, prior_trials)), SampledProposals(study, [])
    misses = [
        sum(abs(math.log10(proposals.ask().trial.lr) + 1) for _ in range(9)) for proposals in (informed, uninformed)
    ]
    assert misses[0] < 0.5 * misses[1]


def test_tpe_looks_at_the_front_and_the_last_trials(make_study, monkeypatch):
    monkeypatch.setattr(proposals_module, "TPE_WINDOW_TRIALS", 20)
    monkeypatch.setattr(proposals_module, "TPE_WINDOW_SLACK_TRIALS", 5)
    study = make_study(CONDITIONAL_SPACE)
    proposals = SampledProposals(study, [])
    best, waiting = proposals.ask(), proposals.ask()
    proposals.tell(best, [1.0, 0.05])
    for _ in range(60):
        proposal = proposals.ask()
        proposals.tell(proposal, [0.5, proposal.trial.density + 0.1])
    proposals.tell(waiting, [0.4, 0.3])
    complete_trials = proposals._memory_study.get_trials(states=[TrialState.COMPLETE])
    assert 20 < len(complete_trials) <= 20 + 5 + 1 + 2
    assert [trial.values for trial in proposals._memory_study.best_trials] == [[1.0, math.log10(0.05)]]
    assert [0.4, math.log10(0.3)] in [trial.values for trial in complete_trials], (
        "it was told after a cut had removed it"
    )
    first, *later = drive(SampledProposals(study, []), 40)
    resumed = SampledProposals(study, [*make_history([first], (1.0, 0.05)), *make_history(later)])
    resumed.ask()
    assert len(resumed._memory_study.get_trials(states=[TrialState.COMPLETE])) <= 21 + 1


def test_a_grid_names_no_value_that_it_does_not_choose(make_study):
    iterations = {"choices": [2, 8], "when": {"method": "force"}}
    study = make_study(
        {"method": ["force", "synflow"], "density": 0.1, "iterations": iterations}, search={"sampler": "grid"}
    )
    proposals = GridProposals(study, [])
    drawn = [proposals.ask() for _ in range(3)]
    assert [proposal.params for proposal in drawn] == [
        {"method": "force", "iterations": 2},
        {"method": "force", "iterations": 8},
        {"method": "synflow"},
    ]
    assert drawn[2].trial.iterations == 20, "the default, which no choice has"
    for proposal in drawn:
        create_trial(
            params=proposal.params, distributions=proposal.distributions, value=0.0
        )  # raises where a distribution is missing


def test_a_grid_skips_what_the_ledger_has(make_study):
    study = make_study({"density": [0.1, 0.2]}, search={"sampler": "grid"})
    proposals = make_proposals(study, [])
    assert isinstance(proposals, GridProposals)
    first = proposals.ask()
    assert first.params == {"method": "random", "density": 0.1}
    ended_trial = create_trial(value=0.0, user_attrs={"key": first.trial.key})
    resumed = GridProposals(study, [ended_trial])
    remaining_keys = [proposal.trial.key for proposal in iter(resumed.ask, None)]
    assert len(remaining_keys) == 5
    assert first.trial.key not in remaining_keys

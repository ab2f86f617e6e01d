"""What is proposed: every branch of a conditional space, nothing of the first run again."""

import math

import pytest
from optuna.trial import TrialState, create_trial

from forcetune.search.proposals import Grid, Sampled, make_proposals, startup_trials

SPACE = {
    "method": ["random", "snip", "force", "synflow"],
    "iterations": {"low": 2, "high": 50, "log": True, "when": {"method": ["force", "synflow"]}},
    "lr": {"low": 0.01, "high": 1.0, "log": True},
}


def drive(proposals, count):
    """Ask and tell; accuracy grows with density, so that the front is everything."""
    asked = []
    for _ in range(count):
        proposal = proposals.ask()
        proposals.tell(proposal, [proposal.trial.density, proposal.trial.density])
        asked.append(proposal)
    return asked


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_samplers_keep_to_the_space(make_study, sampler):
    asked = drive(make_proposals(make_study(SPACE, search={"sampler": sampler}), []), 30)
    for proposal in asked:
        trial = proposal.trial
        assert 0.05 <= trial.density <= 0.5
        assert 0.01 <= trial.lr <= 1
        assert ("iterations" in proposal.params) == (trial.method in ("force", "synflow"))
        assert set(proposal.params) == set(proposal.distributions)
    assert len({proposal.trial.key for proposal in asked}) > 20, "NSGA-II repeats some; the driver sorts them out"


def test_each_choice_comes_up_equally_often_at_the_start(make_study):
    study = make_study(SPACE)
    asked = [proposal.trial.method for proposal in drive(Sampled(study, []), startup_trials(study))]
    for lap in (asked[:4], asked[4:8]):
        assert sorted(lap) == ["force", "random", "snip", "synflow"]


def test_the_sampler_learns(make_study):
    """With accuracy alone as the objective and a peak at lr 0.1, later proposals come closer than the first."""
    study = make_study({"method": "snip", "density": 0.1, "lr": SPACE["lr"]}, objectives={"val_accuracy": "max"})
    proposals = Sampled(study, [])
    misses = []
    for _ in range(60):
        proposal = proposals.ask()
        miss = abs(math.log10(proposal.trial.lr) + 1)
        proposals.tell(proposal, [-miss])
        misses.append(miss)
    assert sum(misses[40:]) < 0.5 * sum(misses[:20])


def test_density_counts_by_its_logarithm(make_study):
    proposals = Sampled(make_study(), [])
    proposal = proposals.ask()
    proposals.tell(proposal, [0.9, 0.001])
    assert proposals._shadow.trials[0].values == [0.9, -3.0]


def test_off_front_is_told_as_a_constraint(make_study):
    proposals = Sampled(make_study(), [])
    good, bad = proposals.ask(), proposals.ask()
    proposals.tell(good, [0.5, 0.5])
    proposals.tell(bad, [0.9, 0.1], on_front=False)
    assert [trial.number for trial in proposals._shadow.best_trials] == [good.asked]


def test_same_seed_same_proposals_and_a_restart_goes_on(make_study):
    study = make_study(SPACE)
    first = drive(Sampled(study, []), 12)
    again = drive(Sampled(study, []), 12)
    assert [p.trial for p in first] == [p.trial for p in again]
    history = [
        create_trial(
            state=TrialState.COMPLETE,
            params=p.params,
            distributions=p.distributions,
            values=[p.trial.density, p.trial.density],
            user_attrs={"key": p.trial.key},
        )
        for p in first
    ]
    resumed = drive(Sampled(study, history), 12)
    assert not {p.trial.key for p in first} & {p.trial.key for p in resumed}


def test_a_grid_skips_what_the_ledger_has(make_study):
    study = make_study({"density": [0.1, 0.2]}, search={"sampler": "grid"})
    proposals = make_proposals(study, [])
    assert isinstance(proposals, Grid)
    first = proposals.ask()
    assert first.params == {"method": "random", "density": 0.1}
    known = create_trial(value=0.0, user_attrs={"key": first.trial.key})
    rest = Grid(study, [known])
    left = [proposal.trial.key for proposal in iter(rest.ask, None)]
    assert len(left) == 5
    assert first.trial.key not in left

"""Champions against their twins, once."""

import pytest

from forcetune import baseline, tracking
from forcetune.baseline.bench import ChampionStudy
from forcetune.baseline.twins import get_comparison_seed
from forcetune.errors import InputError
from forcetune.names import COMPANION

EDGES = (0.7, 0.9, 1.0)


def better(fields):
    """SNIP is three points better than chance, which shuffling takes away; FORCE is as good as its twins."""
    noise = (fields["seed"] * 7 % 5) * 0.002
    own = fields["method"] == "snip" and not fields.get("shuffle") and not fields.get("small_dense")
    return 0.6 + noise + 0.03 * own


@pytest.fixture
def compared(searched, lab):
    """Run with so many seeds, the verdicts by champion and twin."""
    searched()
    lab.accuracy = better

    def run(seeds=12, **options):
        bench = ChampionStudy("s", 1, EDGES)
        assert baseline.run(bench, lab, seeds) is None
        return baseline.conclude(bench, seeds, **options)

    return run


def verdict(found, method, against):
    (row,) = found[(found["method"] == method) & (found["against"] == against)].to_dict("records")
    return row


def test_a_champion_that_is_better_beats_its_twins_and_one_that_is_not_ties(compared):
    found = compared()
    for against in ("random_uniform", "random_erk", "shuffled", "small_dense", "tuned_random"):
        assert verdict(found, "snip", against)["verdict"] == "beats"
        assert verdict(found, "force", against)["verdict"] == "ties"
    row = verdict(found, "snip", "random_erk")
    assert row["mean"] == pytest.approx(3.0), "in points"
    assert row["accuracy"] - row["twin_accuracy"] == pytest.approx(0.03)
    assert (row["pairs"], row["lost"]) == (12, 0)


def test_nothing_is_run_twice_and_more_seeds_add_to_what_is_there(compared, lab):
    compared(4)
    before = len(lab.ran)
    compared(4)
    assert len(lab.ran) == before
    compared(5)
    assert len(lab.ran) == before + 2 * 6, "a champion and its five twins, for each of two"
    assert len({tuple(sorted(map(str, fields.items()))) for fields in lab.ran}) == len(lab.ran)


def test_only_fresh_seeds_are_compared(compared, lab):
    compared(3)
    bench = ChampionStudy("s", 1, EDGES)
    seeds = {fields["seed"] for fields in lab.ran}
    assert seeds == {*(get_comparison_seed(bench.study, place) for place in range(3)), 0}, "0 are tuning runs"
    pairs = [pair for _, found in bench.list_evidence() for pair in found]
    assert {pair.seed for pair in pairs} == seeds - {0}


def test_an_interrupted_comparison_goes_on(compared, lab):
    lab.dies_after = 7
    with pytest.raises(KeyboardInterrupt):
        compared(4)
    lab.dies_after = None
    found = compared(4)
    assert (found["pairs"] == 4).all()
    assert len({tuple(sorted(map(str, fields.items()))) for fields in lab.ran}) == len(lab.ran)


def test_a_seed_whose_run_fails_says_nothing(compared, lab):
    lab.outcome = lambda fields: "failed" if fields["method"] == "random_erk" and fields["seed"] % 2 else "trained"
    row = verdict(compared(4), "snip", "random_erk")
    assert (row["pairs"], row["lost"]) == (2, 2)


def test_a_training_that_diverges_counts_at_chance(compared, lab):
    lab.outcome = lambda fields: "failed" if fields["method"] == "random_erk" and fields["seed"] % 2 else "trained"
    lab.reason = "Diverged: the training loss became nan in epoch 1"
    row = verdict(compared(4), "snip", "random_erk")
    assert (row["pairs"], row["lost"], row["diverged"]) == (4, 0, 2)
    assert row["twin_accuracy"] < 0.45, "half of the twins at 0.25"


def test_without_options_it_is_sized_for_an_hour(searched, lab, monkeypatch):
    searched()
    bench, seeds = baseline.check("s", None, None, None)
    planned = baseline.plan(bench, seeds)
    assert planned.device_hours <= 1
    assert (len(planned.champions), seeds, bench.left_out_count) == (1, 12, 2), (
        "36 s a run: 74 runs of one champion fit"
    )
    ending = baseline.run(bench, lab, seeds)
    assert ending is None
    assert planned.runs == len(lab.ran)
    again, same = baseline.check("s", None, None, None)
    assert ([one.key for one in again.champions], same) == ([one.key for one in bench.champions], seeds)
    assert baseline.plan(again, same).runs == 0


def test_a_comparison_is_never_smaller_than_a_verdict_takes(searched, monkeypatch):
    from forcetune.baseline import sizing

    searched()
    monkeypatch.setattr(sizing, "MAX_DEVICE_HOURS", 0.01)
    bench, seeds = baseline.check("s", None, None, None)
    assert (len([one for one in bench.champions if not one.exclusion_reason]), seeds) == (1, 8), "2 / 2**8 * 5 < 0.05"
    monkeypatch.setattr(sizing, "MAX_DEVICE_HOURS", 100)
    bench, seeds = baseline.check("s", None, None, None)
    assert (len([one for one in bench.champions if not one.exclusion_reason]), seeds, bench.left_out_count) == (
        3,
        12,
        0,
    )


def test_what_is_asked_for_is_not_sized(searched):
    searched()
    bench, seeds = baseline.check("s", 1, None, None)
    assert (seeds, bench.left_out_count) == (12, 0)
    assert baseline.check("s", None, None, 7)[1] == 7


def test_the_plan_says_what_its_pairs_can_show(compared, lab):
    bench = ChampionStudy("s", 1, EDGES)
    effect, points = baseline.plan(bench, 12).detectable_difference
    assert points is None
    assert effect == pytest.approx(1.26, abs=0.05), "Student's test of 12 pairs at 0.05 / 10"
    assert baseline.plan(bench, 8).detectable_difference[0] == float("inf"), "2 / 2**8 * 10 > 0.05"
    lab.accuracy = lambda fields: 0.5 + 0.02 * (fields["seed"] % 2) * (fields["method"] == "random_erk")
    baseline.run(bench, lab, 4)
    effect, points = baseline.plan(ChampionStudy("s", 1, EDGES), 12).detectable_difference
    assert points / effect == pytest.approx(0.52, abs=0.05), "one of five comparisons has a deviation of 1.15 points"


def test_champions_of_a_method_and_band_are_judged_together(searched, lab):
    searched([("snip", 0.3, 0.9), ("snip", 0.28, 0.8), ("random", 0.25, 0.6), ("random", 0.2, 0.5)])
    lab.accuracy = better
    bench = ChampionStudy("s", 2, (0.7, 0.9))
    baseline.run(bench, lab, 6)
    found = baseline.conclude(bench, 6, pool=True)
    (row,) = found[found["champion"].str.contains("2 champions") & (found["against"] == "shuffled")].to_dict("records")
    assert row["pairs"] == 6, "seeds, of which both champions have the same: not twelve"
    assert row["mean"] == pytest.approx(3.0)


def test_comparisons_are_apart_from_the_study_and_kept(compared):
    compared(2)
    assert len(tracking.load_table("s")) == 8, "no companion counts as a trial of the study"
    again = tracking.load_reruns("s")
    assert len(again) == 0, "nor as a fresh seed by which a champion is chosen"
    (record,) = tracking.list_records("s" + COMPANION, "baseline")
    assert record["status"] == "FINISHED"
    told = tracking.read_json(record["id"], "verdicts.json")
    assert {row["verdict"] for row in told} <= {"beats", "ties", "loses", "undecided"}
    assert len(told) == 10


def test_the_plan_counts_what_follows_the_tuning(searched, lab):
    searched()
    bench = ChampionStudy("s", 1, EDGES)
    planned = baseline.plan(bench, 3)
    baseline.run(bench, lab, 3)
    assert planned.runs_after_tuning == 6, "the tuned twins of both champions"
    assert planned.runs == len(lab.ran)
    assert planned.comparisons == 10
    assert planned.device_hours == pytest.approx(len(lab.ran) / 100), "36 s on one core each"


def test_one_seed_is_refused():
    with pytest.raises(InputError, match="--seeds 1: one pair .* allowed: at least 2, and 6 before"):
        baseline.check("s", None, EDGES, 1)


def test_bands_rise():
    with pytest.raises(InputError, match="--bands: 0.9, 0.8; allowed: at least two rising edges"):
        baseline.check("s", None, (0.9, 0.8), 12)

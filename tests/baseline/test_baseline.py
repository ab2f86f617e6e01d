"""A single comparison of champions with their twins."""

import pytest

from forcetune import baseline, tracking
from forcetune.baseline.champion_study import ChampionStudy
from forcetune.baseline.twins import get_comparison_seed
from forcetune.cli import terminal
from forcetune.errors import InputError
from forcetune.names import COMPANION

BAND_EDGES = (0.7, 0.9, 1.0)


def compute_accuracy(fields):
    """Return an accuracy: SNIP gains three points from its mask, and FORCE gains nothing."""
    noise = (fields["seed"] * 7 % 5) * 0.002
    has_gain = fields["method"] == "snip" and not fields.get("shuffle") and not fields.get("small_dense")
    return 0.6 + noise + 0.03 * has_gain


def make_comparison(runner):
    """Return a function that compares with a number of seeds and returns the verdicts by champion and twin."""
    runner.accuracy = compute_accuracy

    def run(seeds):
        champion_study = ChampionStudy("s", 1, BAND_EDGES)
        assert baseline.run(champion_study, runner, seeds) is None
        return baseline.conclude(champion_study, seeds)

    return run


@pytest.fixture
def compare(search_study, table_runner):
    search_study()
    return make_comparison(table_runner)


@pytest.fixture
def compare_in_stores(search_study, companion_runner):
    search_study()
    return make_comparison(companion_runner)


def select_verdict(verdicts, method, against):
    (row,) = verdicts[(verdicts["method"] == method) & (verdicts["against"] == against)].to_dict("records")
    return row


def test_a_champion_that_is_better_beats_its_twins_and_one_that_is_not_ties(compare):
    verdicts = compare(12)
    for against in ("random_uniform", "random_erk", "shuffled", "small_dense", "tuned_random"):
        assert select_verdict(verdicts, "snip", against)["verdict"] == "beats"
        assert select_verdict(verdicts, "force", against)["verdict"] == "ties"
    row = select_verdict(verdicts, "snip", "random_erk")
    assert row["mean"] == pytest.approx(3.0), "in points"
    assert row["accuracy"] - row["twin_accuracy"] == pytest.approx(0.03)
    assert (row["pairs"], row["lost"]) == (12, 0)


def test_nothing_is_run_twice_and_more_seeds_add_to_what_is_there(compare_in_stores, companion_runner):
    compare_in_stores(2)
    run_count = len(companion_runner.run_fields)
    compare_in_stores(2)
    assert len(companion_runner.run_fields) == run_count
    compare_in_stores(3)
    assert len(companion_runner.run_fields) == run_count + 2 * 6, (
        "a champion and its five twins, for each of two champions"
    )
    assert len({tuple(sorted(map(str, fields.items()))) for fields in companion_runner.run_fields}) == len(
        companion_runner.run_fields
    )


def test_only_fresh_seeds_are_compared(compare, table_runner):
    compare(3)
    champion_study = ChampionStudy("s", 1, BAND_EDGES)
    seeds = {fields["seed"] for fields in table_runner.run_fields}
    assert seeds == {*(get_comparison_seed(champion_study.study, index) for index in range(3)), 0}, (
        "tuning runs have seed 0"
    )
    pairs = [pair for _, evidence in champion_study.list_evidence() for pair in evidence]
    assert {pair.seed for pair in pairs} == seeds - {0}


def test_an_interrupted_comparison_goes_on(compare_in_stores, companion_runner):
    companion_runner.interrupt_after_runs = 7
    with pytest.raises(KeyboardInterrupt):
        compare_in_stores(2)
    companion_runner.interrupt_after_runs = None
    verdicts = compare_in_stores(2)
    assert (verdicts["pairs"] == 2).all()
    assert len({tuple(sorted(map(str, fields.items()))) for fields in companion_runner.run_fields}) == len(
        companion_runner.run_fields
    )


def fail_odd_erk(fields):
    return "failed" if fields["method"] == "random_erk" and fields["seed"] % 2 else "trained"


def test_a_seed_with_a_failed_run_is_no_pair(compare, table_runner):
    table_runner.outcome = fail_odd_erk
    row = select_verdict(compare(4), "snip", "random_erk")
    assert (row["pairs"], row["lost"]) == (2, 2)


def test_a_training_that_diverges_counts_as_a_collapse(compare, table_runner):
    table_runner.outcome = fail_odd_erk
    table_runner.reason = "Diverged: the training loss became nan in epoch 1"
    row = select_verdict(compare(4), "snip", "random_erk")
    assert (row["pairs"], row["live_pairs"], row["lost"], row["diverged"]) == (4, 2, 0, 2)
    assert (row["champion_collapses"], row["twin_collapses"]) == (0, 2)
    assert row["twin_accuracy"] > 0.59, "the mean over the pairs in which both runs live"
    assert row["mean"] == pytest.approx(3.0)


def test_a_network_that_collapses_or_guesses_counts_as_a_collapse(compare, table_runner):
    """Compare twins of which one seed has no path left, and another one is trained and guesses one of four classes."""
    collapsed_seed, guessing_seed = (get_comparison_seed(ChampionStudy("s").study, index) for index in (0, 1))
    table_runner.outcome = lambda fields: (
        "collapsed" if fields["method"] == "random_erk" and fields["seed"] == collapsed_seed else "trained"
    )
    table_runner.accuracy = lambda fields: (
        0.26 if fields["method"] == "random_erk" and fields["seed"] == guessing_seed else compute_accuracy(fields)
    )
    row = select_verdict(compare(4), "snip", "random_erk")
    assert (row["pairs"], row["live_pairs"], row["twin_collapses"], row["diverged"]) == (4, 2, 2, 0)
    assert row["mean"] == pytest.approx(3.0)
    assert row["statement"] == "undecided"


def test_the_table_shows_both_parts(compare, capsys):
    terminal.verdicts(compare(12), 0.5, 0.2)
    table = capsys.readouterr().out
    assert "both arms count as collapsing equally often below 20 %" in table
    assert "beats where both" in table
    assert "ties where both" in table
    assert table.count("0 : 0 of 12") == 10


def test_a_wider_margin_of_collapses_needs_fewer_pairs(compare, table_runner):
    champion_study = ChampionStudy("s", 1, (0.7, 0.9))
    assert baseline.plan(champion_study, 12).collapse_pairs == 44, "log(0.05 / 5) / log(0.9)"
    assert baseline.plan(champion_study, 12, 0.4).collapse_pairs == 10
    table_runner.accuracy = compute_accuracy
    baseline.run(champion_study, table_runner, 12)
    narrow, wide = (baseline.conclude(champion_study, 12, collapse_margin=margin) for margin in (0.1, 0.4))
    assert set(narrow["statement"]) == {"beats where both live; collapses: at most 32 %"}
    assert set(wide["statement"]) == {"beats"}


def test_without_options_it_is_sized_for_an_hour(search_study, table_runner, monkeypatch):
    search_study()
    champion_study, seeds = baseline.check("s", None, None, None)
    planned = baseline.plan(champion_study, seeds)
    assert planned.device_hours <= 1
    assert (len(planned.champions), seeds, champion_study.left_out_count) == (1, 12, 2), (
        "36 s a run: 74 runs of one champion fit"
    )
    early_end = baseline.run(champion_study, table_runner, seeds)
    assert early_end is None
    assert planned.runs == len(table_runner.run_fields)
    second_study, second_seeds = baseline.check("s", None, None, None)
    assert ([champion.key for champion in second_study.champions], second_seeds) == (
        [champion.key for champion in champion_study.champions],
        seeds,
    )
    assert baseline.plan(second_study, second_seeds).runs == 0


def test_a_comparison_is_never_smaller_than_a_verdict_takes(search_study, monkeypatch):
    from forcetune.baseline import sizing

    search_study()
    monkeypatch.setattr(sizing, "MAX_DEVICE_HOURS", 0.01)
    champion_study, seeds = baseline.check("s", None, None, None)
    assert (len([champion for champion in champion_study.champions if not champion.exclusion_reason]), seeds) == (
        1,
        8,
    ), "2 / 2**8 * 5 < 0.045"
    monkeypatch.setattr(sizing, "MAX_DEVICE_HOURS", 100)
    champion_study, seeds = baseline.check("s", None, None, None)
    assert (
        len([champion for champion in champion_study.champions if not champion.exclusion_reason]),
        seeds,
        champion_study.left_out_count,
    ) == (
        3,
        12,
        0,
    )


def test_given_sizes_are_kept(search_study):
    search_study()
    champion_study, seeds = baseline.check("s", 1, None, None)
    assert (seeds, champion_study.left_out_count) == (12, 0)
    assert baseline.check("s", 1, BAND_EDGES, 9)[1] == 9


def test_the_plan_has_the_detectable_difference_of_its_pairs(compare, table_runner):
    champion_study = ChampionStudy("s", 1, BAND_EDGES)
    effect, points = baseline.plan(champion_study, 12).detectable_difference
    assert points is None
    assert effect == pytest.approx(1.26, abs=0.05), "Student's test of 12 pairs at 0.045 / 10"
    assert baseline.plan(champion_study, 8).detectable_difference[0] == float("inf"), "2 / 2**8 * 10 > 0.045"
    table_runner.accuracy = lambda fields: 0.5 + 0.02 * (fields["seed"] % 2) * (fields["method"] == "random_erk")
    baseline.run(champion_study, table_runner, 4)
    planned = baseline.plan(ChampionStudy("s", 1, BAND_EDGES), 12)
    effect, points = planned.detectable_difference
    assert planned.noise.source == "40 pairs that have run"
    assert points / effect == pytest.approx(0.52, abs=0.05), "one of five comparisons has a deviation of 1.15 points"


def test_champions_of_a_method_and_band_are_judged_together(search_study, table_runner):
    search_study([("snip", 0.3, 0.9), ("snip", 0.28, 0.8), ("random", 0.25, 0.6), ("random", 0.2, 0.5)])
    table_runner.accuracy = compute_accuracy
    champion_study = ChampionStudy("s", 2, (0.7, 0.9))
    baseline.run(champion_study, table_runner, 6)
    verdicts = baseline.conclude(champion_study, 6, pool=True)
    (row,) = verdicts[verdicts["champion"].str.contains("2 champions") & (verdicts["against"] == "shuffled")].to_dict(
        "records"
    )
    assert row["pairs"] == 6, "both champions have the same six seeds"
    assert row["mean"] == pytest.approx(3.0)


def test_comparisons_are_apart_from_the_study_and_kept(compare_in_stores):
    compare_in_stores(2)
    assert len(tracking.load_table("s").trials) == 8, "no companion counts as a trial of the study"
    reruns = tracking.load_reruns("s")
    assert len(reruns) == 0, "no companion is a re-run by which a champion is chosen"
    (record,) = tracking.list_records("s" + COMPANION, "baseline")
    assert record["status"] == "FINISHED"
    verdicts = tracking.read_json(record["id"], "verdicts.json")
    assert {row["verdict"] for row in verdicts} <= {"beats", "ties", "loses", "undecided"}
    assert len(verdicts) == 10


def test_the_plan_counts_the_runs_after_the_tuning(search_study, companion_runner):
    search_study()
    champion_study = ChampionStudy("s", 1, BAND_EDGES)
    planned = baseline.plan(champion_study, 3)
    baseline.run(champion_study, companion_runner, 3)
    assert planned.runs_after_tuning == 6, "the tuned twins of both champions"
    assert planned.runs == len(companion_runner.run_fields)
    assert planned.comparisons == 10
    assert planned.device_hours == pytest.approx(len(companion_runner.run_fields) / 100), "36 s on one core each"


@pytest.mark.parametrize("seeds", [1, 8])
def test_pairs_that_allow_no_verdict_are_refused_by_name_and_number(search_study, seeds):
    search_study()
    message = (
        rf"--seeds {seeds}: trial-0000 \(snip at 70.00%\), trial-0005 \(force at 95.00%\), each against "
        rf"random_uniform, .*{seeds} pairs? allows? no verdict over 10 comparisons .*at least 9 pairs"
    )
    with pytest.raises(InputError, match=message):
        baseline.check("s", 1, BAND_EDGES, seeds)
    assert baseline.check("s", 1, BAND_EDGES, 9)[1] == 9, "2 / 2**9 * 10 < 0.045"


def test_champions_without_a_number_of_pairs_get_as_many_as_a_verdict_needs(search_study, monkeypatch):
    search_study()
    monkeypatch.setattr("forcetune.baseline.comparing.DEFAULT_SEEDS", 2)
    assert baseline.check("s", 1, BAND_EDGES, None)[1] == 9


def test_bands_rise():
    with pytest.raises(InputError, match="--bands: 0.9, 0.8; allowed: at least two rising edges"):
        baseline.check("s", None, (0.9, 0.8), 12)

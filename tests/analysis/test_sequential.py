"""Verdicts on evidence that grows night by night: both parts, their flips, and what they carry over."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from shared_constants import MARGIN_POINTS

from forcetune.analysis import Pairs, combine_parts, describe_standing, follow
from forcetune.analysis.collapse_nights import bound_rate
from forcetune.analysis.live_nights import STAKES
from forcetune.analysis.sequential import LIVE_LEVEL
from forcetune.analysis.wealth import BET_LIMIT, FIRST_SHARE

NIGHT_DATES = [f"2026-{month:02d}-{day:02d}" for month in range(1, 7) for day in range(1, 29)]


def make_pairs(differences=(), champion_collapses=0, twin_collapses=0):
    """Return live pairs, and behind them pairs in which one run collapsed."""
    live, collapsed = len(differences), champion_collapses + twin_collapses
    champion, twin = np.zeros((2, live + collapsed), bool)
    champion[live : live + champion_collapses] = True
    twin[live + champion_collapses :] = True
    return Pairs(np.array(differences, float), champion, twin)


def make_evidence(*nights):
    """Return the evidence of one comparison from the differences, or the pairs, of each night."""
    pairs = [night if isinstance(night, Pairs) else make_pairs(night) for night in nights]
    return {"one": dict(zip(NIGHT_DATES, pairs, strict=False))}


def draw_evidence(generator, means, deviation, pairs=2):
    return make_evidence(*(mean + deviation * generator.standard_normal(pairs) for mean in means))


def follow_one(*nights):
    return follow(make_evidence(*nights), MARGIN_POINTS)["one"]


def list_verdicts(standings):
    return [(standing.holds, standing.since, standing.flipped) for standing in standings]


def test_equal_differences_by_hand():
    """Follow differences of 2 points without spread: after two pairs, each one wins the limit of all stakes."""
    (standing,) = follow_one([2.0] * 7)
    assert standing.p_difference == pytest.approx(2 / (FIRST_SHARE * (1 + BET_LIMIT) ** 5), rel=0.01)
    assert (standing.pairs, standing.live_pairs, standing.holds) == (7, 7, "undecided")
    assert (standing.nearest, standing.p_equivalence) == ("beats", 1)
    decided = follow_one([2.0] * 8)[0]
    assert (decided.holds, decided.since, decided.flipped) == ("beats", NIGHT_DATES[0], False)


def test_the_first_bet_by_hand():
    """Follow 0, 2 and 9: the deviation before the third pair is that of a step of 2, taken larger."""
    standing = follow_one([0.0, 2.0, 9.0])[0]
    outcome = 9 / np.sqrt(2 * 3)
    wealth = FIRST_SHARE * np.mean([1 + min(stake * outcome, BET_LIMIT) for stake in STAKES])
    assert standing.nearest == "beats"
    assert standing.progress == pytest.approx(np.log(wealth) / np.log(2 / LIVE_LEVEL))
    assert standing.p_difference == 1, "two-sided"
    nothing = follow_one([0.0, 2.0])[0]
    assert (nothing.progress, nothing.needed, describe_standing(nothing)) == (0, None, "no verdict is near")


def test_no_difference_ties_at_last():
    generator = np.random.default_rng(0)
    standings = follow(draw_evidence(generator, [0] * 90, 1.0), MARGIN_POINTS)["one"]
    assert standings[-1].holds == "ties"
    assert standings[-1].collapses == "ties"
    assert describe_standing(standings[-1]) == "under symmetric differences"


def test_a_confirmed_verdict_keeps_its_first_night():
    standings = follow_one([2.0] * 16, [2.0] * 9, [2.0] * 3)
    assert list_verdicts(standings) == [("beats", NIGHT_DATES[0], False)] * 3


def test_a_verdict_flips_when_later_evidence_contradicts_it():
    nights = [[2.0, 1.9] * 8, [-2.0, -1.9] * 12, [0.0, 0.1] * 30, [0.0, 0.1] * 9]
    standings = follow_one(*nights)
    assert [standing.holds for standing in standings] == ["beats", "loses", "ties", "ties"]
    assert [standing.flipped for standing in standings] == [False, True, True, False]
    assert [standing.since for standing in standings] == [*NIGHT_DATES[:3], NIGHT_DATES[2]]


def test_a_tie_gives_way_only_to_a_difference_that_matters():
    generator = np.random.default_rng(1)
    small, large = ([0.0] * 60 + [mean] * 60 for mean in (0.25, 1.5))
    assert follow(draw_evidence(generator, small, 0.8), MARGIN_POINTS)["one"][-1].holds == "ties"
    assert follow(draw_evidence(generator, large, 0.8), MARGIN_POINTS)["one"][-1].holds == "beats"


def test_a_champion_that_falls_does_not_tie_on_its_way():
    """Follow a fall from +2 to -2: the early pairs speak against a large loss, the later ones against a large gain."""
    generator = np.random.default_rng(2)
    for _ in range(20):
        standings = follow(draw_evidence(generator, [2.0] * 30 + [-2.0] * 30, 1.0, pairs=1), MARGIN_POINTS)["one"]
        assert list(dict.fromkeys(s.holds for s in standings)) == ["undecided", "beats", "loses"]


def test_comparisons_are_corrected_for_each_other():
    alone = follow(make_evidence([2.0] * 12), MARGIN_POINTS)["one"][0]
    pairs = make_pairs([2.0] * 12)
    family = follow(
        {"a": {"": pairs}, "b": {"": pairs, NIGHT_DATES[0]: make_pairs([2.0])}, "c": {NIGHT_DATES[0]: pairs}},
        MARGIN_POINTS,
    )
    assert [standing.night for standing in family["b"]] == ["", NIGHT_DATES[0]]
    assert family["a"][0].p_difference == pytest.approx(2 * alone.p_difference), "c has no pair yet"
    assert family["c"][0].p_difference > 2 * alone.p_difference
    assert follow({}, MARGIN_POINTS) == {}
    assert follow({"none": {}}, MARGIN_POINTS) == {"none": []}


@settings(max_examples=10)
@given(st.permutations(["a", "b", "c", "d"]))
def test_the_order_of_comparisons_does_not_matter(names):
    generator = np.random.default_rng(3)
    evidence = {
        name: draw_evidence(generator, [mean] * 12, 1.0)["one"] for name, mean in zip("abcd", range(4), strict=True)
    }
    mixed = follow({name: evidence[name] for name in names}, MARGIN_POINTS)
    assert {name: mixed[name] for name in "abcd"} == follow(evidence, MARGIN_POINTS)


def test_later_nights_change_no_earlier_standing():
    evidence = draw_evidence(np.random.default_rng(4), [1.0] * 40, 1.0)["one"]
    standings = follow({"one": evidence}, MARGIN_POINTS)["one"]
    for count in (1, 7, 20):
        first = dict(list(evidence.items())[:count])
        assert follow({"one": first}, MARGIN_POINTS)["one"] == standings[:count]


# Collapses


def test_collapses_do_not_enter_the_differences():
    """Follow a comparison whose twin collapses now and then: the live differences stay as they are."""
    generator = np.random.default_rng(5)
    live = [generator.standard_normal(2) for _ in range(40)]
    collapses = [make_pairs(values, twin_collapses=night % 4 == 0) for night, values in enumerate(live)]
    plain, mixed = follow_one(*live)[-1], follow_one(*collapses)[-1]
    assert (mixed.live, mixed.p_difference, mixed.live_pairs) == (plain.live, plain.p_difference, plain.live_pairs)
    assert (mixed.pairs, mixed.twin_collapses, mixed.champion_collapses) == (90, 10, 0)
    assert mixed.bound > plain.bound


def test_an_arm_that_collapses_more_often_decides():
    standing = follow_one(*[make_pairs([3.0, -3.0], champion_collapses=1)] * 15)[-1]
    assert (standing.live, standing.collapses, standing.holds) == ("undecided", "loses", "loses")
    assert "the champion collapses more often: 15 against 0 of 45 runs" in describe_standing(standing)
    assert "symmetric" not in describe_standing(standing), "the test of collapses assumes nothing of differences"


def test_parts_that_contradict_each_other_give_no_verdict():
    standings = follow_one([2.0] * 20, *[make_pairs([2.0], champion_collapses=1)] * 20)
    assert (standings[0].holds, standings[-1].holds) == ("beats", "undecided")
    assert (standings[-1].since, standings[-1].flipped) == (None, False)
    assert any(standing.flipped for standing in standings)
    assert describe_standing(standings[-1]).startswith("beats where both live; the champion collapses more often")


def test_a_tie_says_what_is_open():
    standing = replace(
        follow(draw_evidence(np.random.default_rng(0), [0] * 90, 1.0), MARGIN_POINTS)["one"][-1],
        collapses="undecided",
        bound=0.22,
    )
    assert describe_standing(standing) == "under symmetric differences; where both live; collapses: at most 22 %"


def test_a_state_says_what_contradicts_a_verdict_or_no_longer_supports_it():
    standing = replace(
        follow_one([2.0] * 8)[0], pairs=213, champion_collapses=8, twin_collapses=1, collapses="ties", progress=0.0
    )
    assert standing.live == "beats"
    contradicted = replace(standing, holds="undecided", since=None)
    assert describe_standing(contradicted) == "beats where both live; collapses 8 : 1 of 213"
    left = replace(standing, holds="loses", live="undecided")
    assert describe_standing(left) == "no part says so any more"


@pytest.mark.parametrize(
    ("live", "collapses", "leanings", "combined"),
    [
        ("beats", "ties", ("beats", "undecided"), "beats"),
        ("beats", "undecided", ("beats", "undecided"), "beats"),
        ("beats", "undecided", ("beats", "loses"), "undecided"),
        ("undecided", "loses", ("undecided", "loses"), "loses"),
        ("undecided", "loses", ("beats", "loses"), "undecided"),
        ("ties", "beats", ("undecided", "beats"), "beats"),
        ("ties", "undecided", ("undecided", "undecided"), "ties"),
        ("ties", "undecided", ("undecided", "loses"), "undecided"),
        ("ties", "ties", ("beats", "loses"), "ties"),
        ("undecided", "ties", ("beats", "undecided"), "undecided"),
        ("beats", "beats", ("beats", "beats"), "beats"),
        ("beats", "loses", ("beats", "loses"), "undecided"),
        ("loses", "beats", ("loses", "beats"), "undecided"),
    ],
)
def test_both_parts_are_combined(live, collapses, leanings, combined):
    assert combine_parts(live, collapses, *leanings) == combined


def test_a_part_that_leans_the_other_way_delays_a_verdict():
    """Follow a champion that collapses five times in a row before its live runs are shown to be better."""
    standings = follow_one(make_pairs([2.0] * 7, champion_collapses=5), [2.0] * 9)
    assert [(standing.live, standing.holds) for standing in standings] == [
        ("undecided", "undecided"),
        ("beats", "undecided"),
    ]
    assert "beats where both live" in describe_standing(standings[-1])


def test_a_bound_of_a_rate_holds_on_all_nights():
    """Look after each of 150 runs, at rates that are rare, frequent and even."""
    generator, series = np.random.default_rng(6), 1000
    for rate in (0.02, 0.2, 0.5):
        counts = np.cumsum(generator.random((150, series)) < rate, axis=0)
        runs = np.arange(1, 151)[:, None]
        bounds = bound_rate(counts, runs, 0.05)
        is_missed = (bounds < rate).any(0)
        assert is_missed.mean() <= stats.binom.ppf(0.999, series, 0.05) / series
        assert (bounds >= counts / runs).all()


def test_no_collapse_in_forty_pairs_shows_that_the_rates_are_alike():
    assert bound_rate(np.array(0), np.array(0), 0.05) == pytest.approx(1)
    assert bound_rate(np.array(0), np.array(40), 0.05) < 0.1
    assert bound_rate(np.array(0), np.array(25), 0.05) > 0.1


# States


def test_a_state_names_the_nearest_verdict_and_the_pairs_to_it():
    generator = np.random.default_rng(7)
    standings = follow(draw_evidence(generator, [1.0] * 40, 1.0), MARGIN_POINTS)["one"]
    decided = next(index for index, standing in enumerate(standings) if standing.holds == "beats")
    halfway = next(standing for standing in standings if standing.progress > 0.5)
    assert halfway.nearest == "beats"
    assert halfway.needed == pytest.approx(standings[decided].live_pairs, rel=0.6)
    assert " of the way to beats, about " in describe_standing(halfway)
    progress = [standing.progress for standing in standings[:decided]]
    assert progress == sorted(progress), "evidence that was shown counts"


def test_a_verdict_that_takes_years_is_not_near():
    standing = replace(follow_one([2.0] * 7)[0], progress=0.01)
    assert describe_standing(replace(standing, needed=1007)) == "1% of the way to beats, about 1000 more pairs"
    assert describe_standing(replace(standing, needed=1008)) == "no verdict is near"


def test_a_new_verdict_is_not_contested():
    standings = follow_one([2.0, 2.1] * 8, [2.0, 2.1])
    assert [(standing.holds, standing.progress, standing.needed) for standing in standings] == [("beats", 0, None)] * 2
    assert not any(standing.is_contested for standing in standings)


def test_a_contested_verdict_says_so():
    generator = np.random.default_rng(8)
    standings = follow(draw_evidence(generator, [2.0] * 15 + [-2.0] * 15, 1.0), MARGIN_POINTS)["one"]
    contested = [standing for standing in standings if standing.is_contested and standing.night >= NIGHT_DATES[15]]
    assert contested
    assert "of the way to" in describe_standing(contested[0])

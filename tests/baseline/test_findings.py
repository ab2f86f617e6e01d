"""The findings of a night: the p that stands beside a verdict."""

from forcetune.analysis import Standing
from forcetune.baseline.findings import _decision_columns


def make_standing(night, live, holds, since, p_equivalence=1.0, p_collapses=1.0):
    return Standing(
        night=night,
        pairs=10,
        live_pairs=10,
        live=live,
        collapses="undecided",
        holds=holds,
        since=since,
        flipped=False,
        p_difference=1.0,
        p_equivalence=p_equivalence,
        p_collapses=p_collapses,
        champion_collapses=0,
        twin_collapses=0,
        bound=0.2,
        nearest="ties",
        progress=1.0,
        needed=None,
    )


def test_the_p_is_that_of_the_night_on_which_the_part_decided():
    """The live part ties on the second night, and waits until the third one for the collapses."""
    standings = [
        make_standing("2026-11-01", "undecided", "undecided", None, 0.2),
        make_standing("2026-11-02", "ties", "undecided", None, 0.01),
        make_standing("2026-11-03", "ties", "ties", "2026-11-03"),
        make_standing("2026-11-04", "ties", "ties", "2026-11-03"),
    ]
    assert _decision_columns(standings)["p"] == 0.01


def test_the_p_of_collapses_stands_beside_a_verdict_that_rests_on_them():
    standings = [make_standing("2026-11-01", "undecided", "loses", "2026-11-01", p_collapses=0.003)]
    assert _decision_columns(standings)["p"] == 0.003


def test_without_a_verdict_there_is_no_p_of_a_decision():
    assert _decision_columns([make_standing("2026-11-01", "undecided", "undecided", None)]) == {}

"""Slots of a cluster divided among studies."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forcetune.execution import shares
from forcetune.execution.shares import Claim, allocate_slots


def claim(study, wants=100, fits=4, priority="normal", **more):
    return Claim(study, priority, min(wants, fits), fits, **more)


def slots(*claims):
    return {study: allotment.slots for study, allotment in allocate_slots(claims).items()}


def test_one_study_has_all_that_it_wants():
    assert slots(claim("a")) == {"a": 4}
    assert slots(claim("a", wants=3)) == {"a": 3}


def test_equal_studies_have_equal_parts():
    assert slots(claim("a"), claim("b")) == {"a": 2, "b": 2}


def test_what_one_does_not_want_goes_to_the_others():
    assert slots(claim("a", wants=1), claim("b"), claim("c", wants=1)) == {"a": 1, "b": 2, "c": 1}


def test_trials_of_different_size_have_equal_parts_of_the_cluster():
    assert slots(claim("small", fits=8), claim("large", fits=2)) == {"small": 4, "large": 1}


def test_low_priority_has_what_the_others_leave():
    low = claim("low", priority="low")
    assert slots(claim("a", wants=3), low) == {"a": 3, "low": 1}
    assert slots(claim("a"), low) == {"a": 4, "low": 0}
    assert slots(low) == {"low": 4}


def test_a_slot_that_is_nobodys_whole_goes_to_whom_it_is_owed():
    assert slots(claim("a", fits=3), claim("b", fits=3)) == {"a": 2, "b": 1}
    assert slots(claim("a", fits=3), claim("b", fits=3, owed=1.0)) == {"a": 1, "b": 2}


def test_and_stays_there_for_a_turn():
    holder, other = claim("a", fits=1, extra=True), claim("b", fits=1)
    assert slots(holder, replace(other, owed=shares.TURN_SLOT_SECONDS - 1)) == {"a": 1, "b": 0}
    assert slots(holder, replace(other, owed=shares.TURN_SLOT_SECONDS + 1)) == {"a": 0, "b": 1}


def test_who_wants_nothing_has_nothing():
    assert slots(claim("a", wants=0), claim("b")) == {"b": 4}


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 9), st.sampled_from(["normal", "low"]), st.floats(-60, 60)),
        max_size=6,
    )
)
def test_no_more_is_given_than_there_is_or_is_wanted(drawn):
    claims = [claim(str(i), wants, fits, priority, owed=owed) for i, (wants, fits, priority, owed) in enumerate(drawn)]
    given_away = allocate_slots(claims)
    assert sum(given_away[one.study].slots / one.fits for one in claims if one.study in given_away) <= 1 + 1e-6
    assert all(given_away[one.study].slots <= one.wants for one in claims if one.study in given_away)


@pytest.mark.parametrize(("fits", "studies"), [(1, 2), (2, 3), (3, 2), (4, 3), (5, 4)])
def test_over_some_turns_all_have_had_the_same(fits, studies):
    claims = [claim(str(i), fits=fits) for i in range(studies)]
    had, changes, seconds, before = dict.fromkeys(map(str, range(studies)), 0.0), 0, 1200, None
    for _ in range(int(seconds / shares.CLAIM_INTERVAL_S)):
        found = allocate_slots(claims)
        claims = [
            replace(
                one,
                owed=one.owed + shares.CLAIM_INTERVAL_S * (found[one.study].share - found[one.study].slots),
                extra=found[one.study].extra,
            )
            for one in claims
        ]
        had = {study: had[study] + shares.CLAIM_INTERVAL_S * found[study].slots for study in had}
        now = {study: allotment.slots for study, allotment in found.items()}
        changes, before = changes + (now != before), now
    share = fits * seconds / studies
    assert all(abs(seconds_had - share) < 0.1 * share for seconds_had in had.values())
    assert changes < seconds / shares.TURN_SLOT_SECONDS * fits, (
        "turns are long, since a trial that is handed back loses some work"
    )


@pytest.fixture
def told(monkeypatch):
    """What studies say of themselves, in a dictionary in place of Ray's store."""
    said = {}
    monkeypatch.setattr(shares, "_write_claim", lambda claim: said.update({claim.study: claim}))
    monkeypatch.setattr(shares, "_read_claims", lambda: list(said.values()))
    monkeypatch.setattr(shares, "_delete_claim", lambda study: said.pop(study, None))
    return said


def test_a_study_shares_with_those_that_speak_and_forgets_those_that_do_not(told):
    with shares.FairShare("a", "normal", None, lambda: 4) as mine:
        assert mine.slots == 4
        told["b"] = claim("b", time=told["a"].time)
        mine._update()
        assert (mine.slots, mine.contested) == (2, True)
        told["b"] = replace(told["b"], time=told["a"].time - shares.CLAIM_LIFETIME_S)
        mine._update()
        assert (mine.slots, mine.contested) == (4, False)
        mine.set_wanted(1)
        mine._update()
        assert mine.slots == 1
    assert "a" not in told


def test_concurrent_bounds_what_a_study_wants(told):
    with shares.FairShare("a", "normal", 3, lambda: 8) as mine:
        mine.set_wanted(20)
        mine._update()
        assert (mine.slots, told["a"].wants) == (3, 3)


def test_companions_have_slots_after_the_study_wants_no_more(told):
    share = shares.FairShare("a", "normal", None, lambda: 4)
    with share:
        share.set_wanted(0)
        share._update()
        assert share.slots == 0
    with share:
        assert share.slots == 4


def test_a_study_takes_the_room_of_nodes_that_come_and_waits_where_there_is_none(told):
    room = [0]
    with shares.FairShare("a", "normal", None, lambda: room[0]) as mine:
        assert mine.slots == 1, "one trial waits for a node"
        room[0] = 6
        mine._update()
        assert mine.slots == 6
        room[0] = 3
        mine._update()
        assert (mine.slots, mine.contested) == (3, False), "a node is gone, and nobody wants what ran on the others"

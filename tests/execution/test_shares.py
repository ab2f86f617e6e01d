"""The division of a cluster's slots among studies, and the board on which they publish their claims."""

import sqlite3
import time
from contextlib import closing, nullcontext
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forcetune.execution import environment

environment.prepare()  # Ray reads these variables while it is imported

import ray  # noqa: E402
from rich.console import Console  # noqa: E402

from forcetune.execution import claim_board, cluster, shares  # noqa: E402
from forcetune.execution.claim_board import BOARD_NAME, BOARD_NAMESPACE, Board, SharedBoard  # noqa: E402
from forcetune.execution.session import RaySession  # noqa: E402
from forcetune.execution.shares import Claim, allocate_slots  # noqa: E402
from forcetune.ledger.ledger import Ledger  # noqa: E402


def make_claim(study, wants=100, fits=4, priority="normal", **turn_state):
    return Claim(study, priority, min(wants, fits), fits, **turn_state)


def make_share(claimant, priority="normal", max_trials=None, count_fitting=lambda: 4):
    share = shares.FairShare(priority, max_trials, count_fitting)
    share.set_claimant(claimant)
    return share


def count_slots(*claims):
    return {study: allocation.slots for study, allocation in allocate_slots(claims).items()}


def test_one_study_has_all_that_it_wants():
    assert count_slots(make_claim("a")) == {"a": 4}
    assert count_slots(make_claim("a", wants=3)) == {"a": 3}


def test_equal_studies_have_equal_shares():
    assert count_slots(make_claim("a"), make_claim("b")) == {"a": 2, "b": 2}


def test_slots_that_a_study_does_not_want_go_to_the_others():
    assert count_slots(make_claim("a", wants=1), make_claim("b"), make_claim("c", wants=1)) == {"a": 1, "b": 2, "c": 1}


def test_studies_with_trials_of_different_size_have_equal_shares_of_the_cluster():
    assert count_slots(make_claim("small", fits=8), make_claim("large", fits=2)) == {"small": 4, "large": 1}


def test_low_priority_has_what_the_others_leave():
    low = make_claim("low", priority="low")
    assert count_slots(make_claim("a", wants=3), low) == {"a": 3, "low": 1}
    assert count_slots(make_claim("a"), low) == {"a": 4, "low": 0}
    assert count_slots(low) == {"low": 4}


def test_a_slot_that_cannot_be_divided_goes_to_the_study_that_it_is_owed_to():
    assert count_slots(make_claim("a", fits=3), make_claim("b", fits=3)) == {"a": 2, "b": 1}
    assert count_slots(make_claim("a", fits=3), make_claim("b", fits=3, owed=1.0)) == {"a": 1, "b": 2}


def test_a_slot_that_cannot_be_divided_stays_with_a_study_for_a_turn():
    holder, other = make_claim("a", fits=1, extra=True), make_claim("b", fits=1)
    assert count_slots(holder, replace(other, owed=shares.TURN_SLOT_SECONDS - 1)) == {"a": 1, "b": 0}
    assert count_slots(holder, replace(other, owed=shares.TURN_SLOT_SECONDS + 1)) == {"a": 0, "b": 1}


def test_a_study_that_wants_no_slots_has_none():
    assert count_slots(make_claim("a", wants=0), make_claim("b")) == {"b": 4}


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 9), st.sampled_from(["normal", "low"]), st.floats(-60, 60)),
        max_size=6,
    )
)
def test_no_more_slots_are_allocated_than_there_are_or_are_wanted(drawn):
    claims = [
        make_claim(str(i), wants, fits, priority, owed=owed) for i, (wants, fits, priority, owed) in enumerate(drawn)
    ]
    allocations = allocate_slots(claims)
    assert (
        sum(allocations[claim.study].slots / claim.fits for claim in claims if claim.study in allocations) <= 1 + 1e-6
    )
    assert all(allocations[claim.study].slots <= claim.wants for claim in claims if claim.study in allocations)


@pytest.mark.parametrize(("fits", "studies"), [(1, 2), (2, 3), (3, 2), (4, 3), (5, 4)])
def test_over_some_turns_all_studies_have_equal_slot_seconds(fits, studies):
    claims = [make_claim(str(i), fits=fits) for i in range(studies)]
    slot_seconds, changes, seconds, previous_slots = dict.fromkeys(map(str, range(studies)), 0.0), 0, 1200, None
    for _ in range(int(seconds / shares.CLAIM_INTERVAL_S)):
        allocations = allocate_slots(claims)
        claims = [
            replace(
                claim,
                owed=claim.owed
                + shares.CLAIM_INTERVAL_S * (allocations[claim.study].share - allocations[claim.study].slots),
                extra=allocations[claim.study].extra,
            )
            for claim in claims
        ]
        slot_seconds = {
            study: slot_seconds[study] + shares.CLAIM_INTERVAL_S * allocations[study].slots for study in slot_seconds
        }
        current_slots = {study: allocation.slots for study, allocation in allocations.items()}
        changes, previous_slots = changes + (current_slots != previous_slots), current_slots
    share = fits * seconds / studies
    assert all(abs(study_seconds - share) < 0.1 * share for study_seconds in slot_seconds.values())
    assert changes < seconds / shares.TURN_SLOT_SECONDS * fits, (
        "turns are long, since a trial that is handed back loses work"
    )


@pytest.fixture
def clock(monkeypatch):
    """Return the time of the board as a list of one number, which a test sets."""
    now = [time.monotonic()]
    monkeypatch.setattr(claim_board.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def board(monkeypatch):
    """Return the board of all studies, which needs no Ray."""
    board = Board()
    monkeypatch.setattr(shares, "SharedBoard", lambda: board)
    return board


def publish(board, claim):
    """Publish a claim, and return the studies that the board knows."""
    return {peer["study"] for peer in board.exchange(claim.study, asdict(claim))}


def test_a_study_shares_with_those_that_claim_and_forgets_those_that_stop(board, clock):
    with make_share("a") as share:
        assert share.slots == 4
        publish(board, make_claim("b"))
        share._update()
        assert (share.slots, share.contested) == (2, True)
        clock[0] += claim_board.CLAIM_LIFETIME_S + 1
        share._update()
        assert (share.slots, share.contested) == (4, False)
        share.set_wanted(1)
        share._update()
        assert share.slots == 1
    assert publish(board, make_claim("b")) == {"b"}


class StubDriver:
    """A driver of a study, whose trials nobody runs."""

    is_finished = False
    progress = nullcontext()

    def __init__(self, ledger):
        self.ledger = ledger

    def describe(self):
        return

    def close(self):
        return


def drive_with_share(monkeypatch, study, uri, look):
    """Drive a study on a cluster of four slots; `look` is called with its share while it claims slots."""
    session = RaySession(study, Console(quiet=True), "normal")
    session._placement = study.resources, shares.FairShare("normal", None, lambda: 4)
    monkeypatch.setattr(cluster, "run", lambda driver, resources, share, worker: look(share))
    session.drive(StubDriver(Ledger(study, uri)))


def test_studies_of_one_name_in_different_stores_share_a_cluster(board, monkeypatch, make_study, tmp_path):
    stores = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "other")]
    slots = []

    def look_at_second(share):
        slots.append(share.slots)

    def look_at_first(share):
        drive_with_share(monkeypatch, make_study(), stores[1], look_at_second)
        publish(board, replace(make_claim("of a third study"), wants=0))
        share._update()
        slots.append(share.slots)

    drive_with_share(monkeypatch, make_study(), stores[0], look_at_first)
    assert slots == [2, 4], "the second one has its half, and then leaves it to the first one"
    assert publish(board, make_claim("b")) == {"b", "of a third study"}


def test_a_later_driver_takes_over_the_claim_of_the_one_before(board, monkeypatch, make_study, tmp_path):
    uri, slots = f"sqlite:///{tmp_path}/optuna.db", []
    monkeypatch.setattr(board, "withdraw", lambda study: None)  # the first driver is killed
    for _ in range(2):
        drive_with_share(monkeypatch, make_study(), uri, lambda share: slots.append(share.slots))
    assert slots == [4, 4]
    assert len(publish(board, make_claim("b"))) == 2


def test_a_copy_of_a_store_claims_for_itself(make_study, tmp_path):
    original = Ledger(make_study(), f"sqlite:///{tmp_path}/optuna.db")
    (tmp_path / "copy").mkdir()
    with closing(sqlite3.connect(tmp_path / "optuna.db")) as connection:
        connection.execute("vacuum into ?", (str(tmp_path / "copy" / "optuna.db"),))
    copied = Ledger(make_study(), f"sqlite:///{tmp_path}/copy/optuna.db")
    assert copied.folder.name == original.folder.name
    assert copied.claimant != original.claimant
    assert Ledger(make_study(), f"sqlite:///{tmp_path}/optuna.db").claimant == original.claimant


def test_a_board_that_has_lost_its_claims_leaves_the_slots_as_they_are_until_all_are_there(board, clock, monkeypatch):
    publish(board, make_claim("b"))
    with make_share("a") as share:
        assert share.slots == 2
        restarted = Board(restarted=True)
        share._board = restarted
        share._update()
        assert share.slots == 2, "the claim of the other study may be missing"
        clock[0] += 2 * claim_board.CLAIM_INTERVAL_S
        publish(restarted, make_claim("b"))
        share._update()
        assert (share.slots, share.contested) == (2, True)


def test_while_the_board_is_away_the_slots_stay_as_they_are(board, monkeypatch):
    publish(board, make_claim("b"))
    with make_share("a") as share:
        monkeypatch.setattr(board, "exchange", lambda study, claim: 1 / 0)
        share._try_update()
        assert share.slots == 2


def test_concurrent_bounds_what_a_study_wants(board):
    with make_share("a", max_trials=3, count_fitting=lambda: 8) as share:
        share.set_wanted(20)
        share._update()
        assert (share.slots, board.exchange("b", asdict(make_claim("b")))[0]["wants"]) == (3, 3)


def test_companions_have_slots_after_the_study_wants_no_more(board):
    share = make_share("a")
    with share:
        share.set_wanted(0)
        share._update()
        assert share.slots == 0
    with share:
        assert share.slots == 4


def test_a_study_takes_the_slots_of_new_nodes_and_waits_where_there_are_none(board):
    capacity = [0]
    with make_share("a", count_fitting=lambda: capacity[0]) as share:
        assert (share.slots, share.fits) == (1, False), "one trial waits for a node"
        capacity[0] = 6
        share._update()
        assert (share.slots, share.fits) == (6, True)
        capacity[0] = 3
        share._update()
        assert (share.slots, share.contested) == (3, False), "a node is gone, and no other study wants slots"


@pytest.fixture(scope="module")
def ray_head():
    """Start a Ray of one node."""
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def find_board():
    """Return the actor of the board, None where there is none."""
    try:
        return ray.get_actor(BOARD_NAME, BOARD_NAMESPACE)
    except ValueError:
        return None


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


@pytest.mark.long  # it starts Ray, and an actor of it again and again
def test_the_actor_of_the_board_comes_back_where_it_dies_and_ends_with_the_last_claim(ray_head):
    with make_share("a") as first:
        assert first.slots == 4
        assert ray.available_resources()["CPU"] == 1, "the board takes no core"
        with make_share("b") as second:
            wait_until(lambda: (first.slots, second.slots) == (2, 2))
            ray.kill(find_board(), no_restart=False)
            slots = set()
            until = time.monotonic() + 3 * claim_board.CLAIM_INTERVAL_S
            while time.monotonic() < until:
                slots.add((first.slots, second.slots))
                time.sleep(0.05)
            assert slots == {(2, 2)}, "the shares stay while the board is away, and after it"
            ray.kill(find_board())
            wait_until(find_board)
            wait_until(lambda: (first.slots, second.slots) == (2, 2))
        wait_until(lambda: first.slots == 4)
    wait_until(lambda: find_board() is None)
    lone = SharedBoard()
    assert lone.exchange("c", asdict(make_claim("c")))[0]["study"] == "c"
    lone.withdraw("d")
    assert find_board()

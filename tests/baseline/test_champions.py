"""Which trials are compared."""

import pytest

from forcetune import tracking
from forcetune.baseline.bench import ChampionStudy
from forcetune.baseline.champions import Champion, find_band, select_champions
from forcetune.errors import InputError
from forcetune.study import Trial

FIELDS = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.05}


def test_a_band_holds_its_lower_edge_and_not_its_upper_one():
    edges = (0.9, 0.95, 1.0)
    assert find_band(1 - 0.05, edges) == (0.95, 1.0), "1 - 0.05 is a little less than 0.95"
    assert find_band(0.9, edges) == (0.9, 0.95)
    assert find_band(0.89, edges) is None


def test_the_front_or_the_best_of_each_band(searched):
    searched()
    table = tracking.load_table("s")
    assert [one.label for one in select_champions("s", table)] == ["snip", "random", "snip", "force"]
    found = select_champions("s", table, top=2, edges=(0.7, 0.9, 1.0))
    assert [(one.label, one.trial.density) for one in found] == [
        *(("snip", 0.3), ("random", 0.29)),
        *(("force", 0.06), ("force", 0.05)),
    ]
    assert select_champions("s", table, top=1, edges=(0.99, 1.0)) == []


def test_a_champion_has_the_key_of_its_trial(searched):
    searched()
    table = tracking.load_table("s")
    assert {one.key for one in select_champions("s", table, top=9)} == {*table["trial"]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"method": "random_erk"}, "random mask (random_erk)"),
        ({"shuffle": True}, "random mask (snip+shuffle)"),
        ({"small_dense": "macs"}, "small dense network"),
    ],
)
def test_what_was_chosen_by_chance_is_compared_with_nothing(changed, words):
    champion = Champion("s", "trial-0001", Trial(**{**FIELDS, **changed}), 0.95, (0.9, 1.0))
    assert words in champion.exclusion_reason
    assert "trial-0001 at 95.00%" in champion.exclusion_reason


def test_a_study_without_a_trained_trial(searched):
    searched(trials=[])
    with pytest.raises(InputError, match="'s' has no trial that was trained to its end"):
        ChampionStudy("s")

"""The selection of the champions of a study."""

import pytest

from forcetune import tracking
from forcetune.baseline.champion_study import ChampionStudy
from forcetune.baseline.champions import Champion, find_band, select_champions
from forcetune.errors import InputError
from forcetune.study import Trial

SNIP_FIELDS = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.05}


def test_a_band_holds_its_lower_edge_and_not_its_upper_one():
    edges = (0.9, 0.95, 1.0)
    assert find_band(1 - 0.05, edges) == (0.95, 1.0), "1 - 0.05 is a little less than 0.95"
    assert find_band(0.9, edges) == (0.9, 0.95)
    assert find_band(0.89, edges) is None


def test_the_front_or_the_best_of_each_band(search_study):
    search_study()
    table = tracking.load_table("s")
    assert [champion.label for champion in select_champions("s", table)] == ["snip", "random", "snip", "force"]
    champions = select_champions("s", table, top=2, edges=(0.7, 0.9, 1.0))
    assert [(champion.label, champion.trial.density) for champion in champions] == [
        *(("snip", 0.3), ("random", 0.29)),
        *(("force", 0.06), ("force", 0.05)),
    ]
    assert select_champions("s", table, top=1, edges=(0.99, 1.0)) == []


def test_a_champion_has_the_key_of_its_trial(search_study):
    search_study()
    table = tracking.load_table("s")
    assert {champion.key for champion in select_champions("s", table, top=9)} == {*table.trials["trial"]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"method": "random_erk"}, "random mask (random_erk)"),
        ({"shuffle": True}, "random mask (snip+shuffle)"),
        ({"small_dense": "macs"}, "small dense network"),
    ],
)
def test_random_and_small_dense_champions_are_not_compared(changed, words):
    champion = Champion("s", "trial-0001", Trial(**{**SNIP_FIELDS, **changed}), 0.95, (0.9, 1.0))
    assert words in champion.exclusion_reason
    assert "trial-0001 at 95.00%" in champion.exclusion_reason


def test_a_study_without_a_trained_trial(search_study):
    search_study(trials=[])
    with pytest.raises(InputError, match="'s' has no trial that was trained to its end"):
        ChampionStudy("s")

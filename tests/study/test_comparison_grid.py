"""The grid study of a comparison, and its file."""

import pytest
from comparisons import COMPARED_FILE, make_study

from forcetune.errors import InputError
from forcetune.study import comparison


@pytest.fixture
def study():
    return make_study()


def test_the_grid_has_the_random_controls_and_every_seed(study):
    trials = list(study.grid())
    assert len(trials) == 4 * 2 * 2
    assert [*dict.fromkeys(study.trial["method"])] == ["snip", "random", "random_uniform", "random_erk"]
    assert {trial.seed for trial in trials} == {0, 1}
    assert {trial.epochs for trial in trials} == {3}
    assert (study.search.sampler, study.stopping, study.resources.cpus) == ("grid", "none", 1)


def test_a_grid_without_seeds_has_five():
    fields = {name: value for name, value in COMPARED_FILE["trial"].items() if name != "seed"}
    assert comparison.make_grid({**COMPARED_FILE, "trial": fields})["trial"]["seed"] == [0, 1, 2, 3, 4]


def test_the_grid_of_a_grid_is_the_same():
    grid = comparison.make_grid(COMPARED_FILE)
    assert grid["study"] == "compare-x"
    assert comparison.make_grid(grid) == grid


def test_the_controls_prune_channels_where_the_methods_do():
    """Random weights would be no control of whole channels."""
    study = make_study(method=["snap", "snap_it"])
    assert all(trial.prunes_channels for trial in study.grid())
    assert not any(trial.prunes_channels for trial in make_study(method=["snip"]).grid())
    for granularity in ("weight", "channel"):
        trials = make_study(method=["snap", "snip"], granularity=granularity).grid()
        controls = [trial for trial in trials if trial.method == "random"]
        assert {trial.granularity for trial in controls} == {granularity}
    with pytest.raises(InputError, match="snap prunes whole channels and snip single weights.*write `granularity"):
        make_study(method=["snap", "snip"])


def test_a_method_may_have_settings_of_its_own():
    study = make_study(method=["snip", "force"], iterations={"choices": [7], "when": {"method": "force"}})
    assert {trial.iterations for trial in study.grid() if trial.method == "force"} == {7}
    assert len(list(study.grid())) == 5 * 2 * 2


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"lr": [0.1, 0.2]}, ["trial.lr: varies (one of 0.1, 0.2)", "method, density, seed"]),
        ({"lr": {"low": 0.1, "high": 0.2}, "width": [8, 9]}, ["trial.lr: varies", "trial.width: varies"]),
        ({"density": {"low": 0.1, "high": 0.2}}, ["trial.density: is a range (0.1 to 0.2)"]),
        ({"method": "snop"}, ["trial.method: unknown method 'snop'"]),
        ({"densty": 1}, ["trial.densty: unknown key"]),
    ],
)
def test_a_study_that_varies_otherwise_is_refused(change, messages):
    with pytest.raises(InputError) as error:
        make_study(**change)
    assert [message for message in messages if message not in str(error.value)] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": {"trials": 3}}, "without trials; allowed: sampler: grid, "),
        ({"search": {"sampler": "tpe", "stopping": "pareto"}}, "without sampler, stopping; allowed: "),
        ({"constraints": {"macs": 1000}}, "constraints: "),
        ({"search": {"sampler": "grid", "stopping": "none", "max_failures": 3, "budget": {"hours": 1}}}, None),
    ],
)
def test_a_study_whose_trials_may_end_early_is_refused(change, message):
    if message is None:
        assert comparison.make_grid({**COMPARED_FILE, **change})["search"] == change["search"]
        return
    with pytest.raises(InputError) as error:
        comparison.make_grid({**COMPARED_FILE, **change})
    assert message in str(error.value)


def test_a_study_file_is_never_overwritten_by_another_study(tmp_path):
    path = comparison.write_study(tmp_path / "new" / "x.yaml", {"study": "x"})
    assert comparison.write_study(path, {"study": "x"}) == path, "the same study is accepted again"
    with pytest.raises(InputError, match=r"x.yaml .* another study; .*--out.*`study:` in FILE"):
        comparison.write_study(path, {"study": "y"})
    assert path.read_text() == "study: x\n"
    comparison.write_study(path, {"study": "x", "resources": {"cpus": 2}})
    assert path.read_text() == "study: x\nresources:\n  cpus: 2\n", "resources may change"
    comparison.write_study(path, {"study": "x", "search": {"max_failures": 3}})
    assert path.read_text() == "study: x\nsearch:\n  max_failures: 3\n", "and so may the search"
    path.write_text("[not, a, study]")
    with pytest.raises(InputError, match="another study"):
        comparison.write_study(path, {"study": "x"})
    path.write_bytes(b"\xff: {")
    with pytest.raises(InputError, match="--out: .*x.yaml cannot be"):
        comparison.write_study(path, {"study": "x"})


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out: .* cannot be written"):
        comparison.write_study(tmp_path / "file" / "x.yaml", {"study": "x"})

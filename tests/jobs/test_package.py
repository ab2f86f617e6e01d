"""What is shipped with a job."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from forcetune.errors import InputError
from forcetune.jobs import package
from forcetune.spec import Study

TRIAL = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1}
NET = "from torch import nn\n\ndef build(shape, classes):\n    return nn.Linear(2, classes)\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: code of one's own, and much that is not to be shipped."""
    monkeypatch.chdir(tmp_path)
    files = {
        "mine.yaml": "study: s\n",
        "mine_nets.py": NET,
        "helpers/__init__.py": "",
        "helpers/sizes.json": "{}",
        "helpers/.hidden": "x",
        "helpers/__pycache__/a.pyc": "x",
        "notes.txt": "x",
        ".git/config": "x",
        ".venv/pyvenv.cfg": "x",
        "environment/pyvenv.cfg": "x",
        "environment/__init__.py": "x",
        "data/images.npz": "x",
        "mlflow.db": "x",
        "mlruns/0/meta": "x",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def shipped(folder, trial=None, **top):
    """The names in the archive of a study."""
    study = Study.from_dict({"study": "s", "trial": {**TRIAL, **(trial or {})}, **top})
    made = package.pack(Path("mine.yaml"), study, folder.parent / "code.zip")
    with zipfile.ZipFile(made.path) as archive:
        assert [Path(name) for name in archive.namelist()] == made.files
        return archive.namelist()


def test_a_study_without_code_of_ones_own_goes_alone(folder):
    assert shipped(folder) == ["mine.yaml"]


def test_of_code_of_ones_own_go_the_modules_and_packages_of_the_folder(folder):
    expected = ["mine.yaml", "helpers/__init__.py", "helpers/sizes.json", "mine_nets.py"]
    assert shipped(folder, {"model": "mine_nets:build"}) == expected


def test_code_says_what_goes(folder):
    assert shipped(folder, code=["notes.txt"]) == ["mine.yaml", "notes.txt"]
    assert shipped(folder, code={"paths": ["mine_nets.py"], "pip": ["timm"]}) == ["mine.yaml", "mine_nets.py"]


def test_a_whole_folder_goes_without_history_environments_stores_and_data(folder):
    found = shipped(folder, code=["."])
    assert found == ["mine.yaml", "helpers/__init__.py", "helpers/sizes.json", "mine_nets.py", "notes.txt"]
    (folder / "pictures").mkdir()
    (folder / "pictures" / "one.png").write_text("x")
    assert "pictures/one.png" in shipped(folder, code=["."])
    assert shipped(folder, {"data_root": str(folder / "pictures")}, code=["."]) == found


def test_masks_that_layers_come_from_go_too(folder):
    np.savez(folder / "masks.npz", a=np.zeros(1))
    assert shipped(folder, {"layers_from": "masks.npz"}) == ["mine.yaml", "masks.npz"]


def test_the_same_content_makes_the_same_archive(folder):
    shipped(folder, code=["helpers"])
    before = (folder.parent / "code.zip").read_bytes()
    (folder / "helpers" / "sizes.json").touch()
    shipped(folder, code=["helpers"])
    assert (folder.parent / "code.zip").read_bytes() == before


def test_a_study_elsewhere_lies_at_the_top(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "away.yaml"
    other.write_text("study: s\n")
    assert package.placed(other, folder) == Path("away.yaml")
    assert package.placed(folder / "helpers" / "a.yaml", folder) == Path("helpers/a.yaml")


@pytest.mark.parametrize(
    ("code", "trial", "message"),
    [
        (["nowhere"], {}, "code.0: there is no nowhere in"),
        (["helpers", "../.."], {}, "code.1: ../.. lies outside"),
        ([], {"data_root": "data"}, "trial.data_root: data is looked for from the current folder"),
        ([], {"data_root": ["/images", "data"]}, "allowed in a job: the absolute path of a folder that all of them"),
    ],
)
def test_what_cannot_be_shipped_is_refused(folder, code, trial, message):
    with pytest.raises(InputError, match=message):
        shipped(folder, trial, code=code)


def test_what_is_larger_than_ray_takes_is_refused(folder, monkeypatch):
    monkeypatch.setattr(package, "LIMIT", 1000)
    (folder / "helpers" / "large.bin").write_bytes(np.random.default_rng(0).bytes(2000))
    with pytest.raises(InputError, match=r"has 2\.\d KiB, and Ray takes 1\.0 KiB; the largest files: helpers/large"):
        shipped(folder, code=["helpers"])

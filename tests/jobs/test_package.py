"""What is shipped with a job."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from forcetune.cli import main
from forcetune.errors import InputError
from forcetune.jobs import package
from forcetune.study import Study

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
    assert package.locate_in_archive(other, folder) == Path("away.yaml")
    assert package.locate_in_archive(folder / "helpers" / "a.yaml", folder) == Path("helpers/a.yaml")


@pytest.mark.parametrize(
    ("code", "trial", "message"),
    [
        (["nowhere"], {}, "code.0: there is no nowhere in"),
        (["helpers", "../.."], {}, "code.1: ../.. is outside"),
        ([], {"data_root": "data"}, "trial.data_root: data is relative to the current folder"),
        ([], {"data_root": ["/images", "data"]}, "allowed in a job: the absolute path of a folder that all of them"),
    ],
)
def test_what_cannot_be_shipped_is_refused(folder, code, trial, message):
    with pytest.raises(InputError, match=message):
        shipped(folder, trial, code=code)


# Put together here, so that no scanner of this repository takes them for real.
GITHUB = "gh" + "p_" + "a1B2" * 9
AWS = "AK" + "IA" + "ABCD1234" * 2
KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3Bl\n"
SECRETS = {
    "server.pem": "x",
    "Server.KEY": "x",
    "id_rsa": "x",
    "id_ed25519.old": "x",
    "prod.env": "A=b",
    "prod.env.bak": "A=b",
    "credentials.json": "{}",
    "notes.md": f"first\nthe key is {AWS}\n",
    "keys/backup.txt": KEY,
    "settings.json": f'{{"token": "{GITHUB}"}}',
}
HARMLESS = {"id_rsa.pub": "x", "prod.env.example": "A=", "keys.txt": "none", "monkey": "x", "data.bin": f"\0{GITHUB}"}


def packed(folder, **top):
    study = Study.from_dict({"study": "s", "trial": {**TRIAL, "model": "mine_nets:build"}, **top})
    return package.pack(Path("mine.yaml"), study, folder.parent / "code.zip")


@pytest.mark.parametrize("code", [{}, {"code": ["helpers", "mine_nets.py"]}], ids=["found", "folder"])
def test_secrets_are_left_out_of_packages_and_folders(folder, code):
    for name, text in {**SECRETS, **HARMLESS}.items():
        (folder / "helpers" / name).parent.mkdir(exist_ok=True)
        (folder / "helpers" / name).write_text(text)
    made = packed(folder, **code)
    assert {str(path) for path in made.left_out} == {f"helpers/{name}" for name in SECRETS}
    assert made.left_out[Path("helpers/notes.md")] == "holds an access key of AWS in line 2"
    assert made.left_out[Path("helpers/server.pem")] == "is named like a certificate, perhaps with its key"
    with zipfile.ZipFile(made.path) as archive:
        names = archive.namelist()
        everything = b"".join(archive.read(name) for name in names if name != "helpers/data.bin")
    assert names == [str(path) for path in made.files]
    assert {f"helpers/{name}" for name in HARMLESS} < {*names}
    assert not {f"helpers/{name}" for name in SECRETS} & {*names}
    assert GITHUB.encode() not in everything
    assert b"PRIVATE KEY" not in everything


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_named_is_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(SECRETS[name])
    with pytest.raises(InputError, match=f"code.1: {name} (holds|is named like) "):
        packed(folder, code=["mine_nets.py", name])
    (folder / "link.txt").symlink_to(folder / name)
    with pytest.raises(InputError, match=f"code.0: {name}"):
        packed(folder, code=["link.txt"])


@pytest.mark.parametrize(
    "code", [{}, {"code": ["."]}, {"code": ["helpers/upload.py"]}], ids=["found", "folder", "named"]
)
@pytest.mark.parametrize("secret", [GITHUB, AWS, KEY])
def test_a_module_with_a_token_is_refused_with_its_line(folder, code, secret):
    (folder / "helpers" / "upload.py").write_text(f'import os\n\nTOKEN = """{secret}"""\n')
    with pytest.raises(InputError, match="helpers/upload.py holds .* in line 3, ") as refused:
        packed(folder, **code)
    assert secret not in str(refused.value)


def test_a_study_file_or_a_requirement_with_a_secret_is_refused(folder):
    (folder / "mine.yaml").write_text(f"study: s\n# {GITHUB}\n")
    with pytest.raises(InputError, match="the study file: mine.yaml holds a token of GitHub in line 2"):
        packed(folder)
    (folder / "mine.yaml").write_text("study: s\n")
    for pip in ("mine @ https://me:secret@example.org/mine.whl", f"git+https://{GITHUB}@example.org/mine.git"):
        with pytest.raises(InputError, match="code.pip.1: this requirement has a password") as refused:
            packed(folder, code={"paths": ["mine_nets.py"], "pip": ["timm", pip]})
        assert pip not in str(refused.value)
    assert packed(folder, code={"pip": ["git+https://me:${TOKEN}@example.org/mine.git"]}).files


def test_a_dry_run_lists_what_is_sent_and_what_is_left_out(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "mine.yaml").write_text(
        "study: s\ntrial: {dataset: synthetic, model: mlp, method: snip, density: 0.1}\ncode: [helpers]\n"
    )
    (folder / "helpers" / "server.key").write_text("x")
    said = CliRunner().invoke(main, ["submit", "mine.yaml", "--dry-run"])
    assert (said.exit_code, said.output.splitlines()) == (
        0,
        [
            "mine.yaml",
            "helpers/__init__.py",
            "helpers/sizes.json",
            "not sent: helpers/server.key (it is named like a private key)",
        ],
    )
    told = json.loads(CliRunner().invoke(main, ["submit", "mine.yaml", "--dry-run", "--json"]).output)
    assert told["files"] == said.output.splitlines()[:3]
    assert [*told["left_out"]] == ["helpers/server.key"]
    assert told["bytes"] > 0


def test_what_is_larger_than_ray_takes_is_refused(folder, monkeypatch):
    monkeypatch.setattr(package, "MAX_ARCHIVE_BYTES", 1000)
    (folder / "helpers" / "large.bin").write_bytes(np.random.default_rng(0).bytes(2000))
    with pytest.raises(InputError, match=r"has 2\.\d KiB, .* 1\.0 KiB; the largest files: helpers/large"):
        shipped(folder, code=["helpers"])

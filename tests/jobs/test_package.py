"""The archive that is shipped with a job."""

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

PACKED_TRIAL_FIELDS = {"dataset": "synthetic", "model": "mlp", "method": "snip", "density": 0.1}
NETWORK_CODE = "from torch import nn\n\ndef build(shape, classes):\n    return nn.Linear(2, classes)\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the current folder, which has user code and many files that must not be shipped."""
    monkeypatch.chdir(tmp_path)
    files = {
        "mine.yaml": "study: s\n",
        "mine_nets.py": NETWORK_CODE,
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


def list_shipped(folder, trial=None, **top):
    """Return the names in the archive of a study."""
    study = Study.from_dict({"study": "s", "trial": {**PACKED_TRIAL_FIELDS, **(trial or {})}, **top})
    package_made = package.pack(Path("mine.yaml"), study, folder.parent / "code.zip")
    with zipfile.ZipFile(package_made.path) as archive:
        assert [Path(name) for name in archive.namelist()] == package_made.files
        return archive.namelist()


def test_a_study_without_user_code_is_shipped_alone(folder):
    assert list_shipped(folder) == ["mine.yaml"]


def test_user_code_is_shipped_with_the_modules_and_packages_of_the_folder(folder):
    expected = ["mine.yaml", "helpers/__init__.py", "helpers/sizes.json", "mine_nets.py"]
    assert list_shipped(folder, {"model": "mine_nets:build"}) == expected


def test_the_key_code_names_what_is_shipped(folder):
    assert list_shipped(folder, code=["notes.txt"]) == ["mine.yaml", "notes.txt"]
    assert list_shipped(folder, code={"paths": ["mine_nets.py"], "pip": ["timm"]}) == ["mine.yaml", "mine_nets.py"]


def test_a_folder_is_shipped_without_history_environments_stores_and_data(folder):
    names = list_shipped(folder, code=["."])
    assert names == ["mine.yaml", "helpers/__init__.py", "helpers/sizes.json", "mine_nets.py", "notes.txt"]
    (folder / "pictures").mkdir()
    (folder / "pictures" / "one.png").write_text("x")
    assert "pictures/one.png" in list_shipped(folder, code=["."])
    assert list_shipped(folder, {"data_root": str(folder / "pictures")}, code=["."]) == names


def test_the_masks_of_layers_from_are_shipped(folder):
    np.savez(folder / "masks.npz", a=np.zeros(1))
    (folder / "masks.safetensors").write_bytes(b"")
    masks = [None, "a" * 32, "masks.npz", "masks.safetensors"]
    assert list_shipped(folder, {"layers_from": masks}) == ["mine.yaml", "masks.npz", "masks.safetensors"]


def test_the_same_content_makes_the_same_archive(folder):
    list_shipped(folder, code=["helpers"])
    before = (folder.parent / "code.zip").read_bytes()
    (folder / "helpers" / "sizes.json").touch()
    list_shipped(folder, code=["helpers"])
    assert (folder.parent / "code.zip").read_bytes() == before


def test_a_study_file_outside_the_folder_is_at_the_top_of_the_archive(folder, tmp_path_factory):
    outside_file = tmp_path_factory.mktemp("other") / "away.yaml"
    outside_file.write_text("study: s\n")
    assert package.locate_in_archive(outside_file, folder) == Path("away.yaml")
    assert package.locate_in_archive(folder / "helpers" / "a.yaml", folder) == Path("helpers/a.yaml")


def test_a_file_of_the_folder_takes_the_place_of_no_study_file(folder, tmp_path_factory):
    outside_file = tmp_path_factory.mktemp("other") / "mine.yaml"
    outside_file.write_text("study: s\n")
    study = Study.from_dict({"study": "s", "trial": PACKED_TRIAL_FIELDS, "code": ["."]})
    with pytest.raises(InputError, match=r"mine.yaml would take the place of .*/mine.yaml in the job; rename one"):
        package.pack(outside_file, study, folder.parent / "code.zip")


def test_a_schedule_of_the_users_own_is_shipped(folder):
    (folder / "mine_schedules.py").write_text("def fast(t, iterations, density):\n    return density\n")
    trial = {"method": "force", "schedule": "mine_schedules:fast"}
    assert "mine_schedules.py" in list_shipped(folder, trial)


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
        list_shipped(folder, trial, code=code)


# They are put together here, so that no scanner of this repository takes them for real secrets.
GITHUB_TOKEN = "gh" + "p_" + "a1B2" * 9
AWS_ACCESS_KEY = "AK" + "IA" + "ABCD1234" * 2
PRIVATE_KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3Bl\n"
SECRET_FILES = {
    "server.pem": "x",
    "Server.KEY": "x",
    "id_rsa": "x",
    "id_ed25519.old": "x",
    "prod.env": "A=b",
    "prod.env.bak": "A=b",
    "credentials.json": "{}",
    "notes.md": f"first\nthe key is {AWS_ACCESS_KEY}\n",
    "keys/backup.txt": PRIVATE_KEY,
    "settings.json": f'{{"token": "{GITHUB_TOKEN}"}}',
}
HARMLESS_FILES = {
    "id_rsa.pub": "x",
    "prod.env.example": "A=",
    "keys.txt": "none",
    "monkey": "x",
    "data.bin": f"\0{GITHUB_TOKEN}",
}


def pack_study(folder, **top):
    study = Study.from_dict({"study": "s", "trial": {**PACKED_TRIAL_FIELDS, "model": "mine_nets:build"}, **top})
    return package.pack(Path("mine.yaml"), study, folder.parent / "code.zip")


@pytest.mark.parametrize("code", [{}, {"code": ["helpers", "mine_nets.py"]}], ids=["found", "folder"])
def test_secrets_are_left_out_of_packages_and_folders(folder, code):
    for name, text in {**SECRET_FILES, **HARMLESS_FILES}.items():
        (folder / "helpers" / name).parent.mkdir(exist_ok=True)
        (folder / "helpers" / name).write_text(text)
    package_made = pack_study(folder, **code)
    assert {str(path) for path in package_made.left_out} == {f"helpers/{name}" for name in SECRET_FILES}
    assert package_made.left_out[Path("helpers/notes.md")] == "holds an access key of AWS in line 2"
    assert package_made.left_out[Path("helpers/server.pem")] == "is named like a certificate, perhaps with its key"
    with zipfile.ZipFile(package_made.path) as archive:
        names = archive.namelist()
        archive_content = b"".join(archive.read(name) for name in names if name != "helpers/data.bin")
    assert names == [str(path) for path in package_made.files]
    assert {f"helpers/{name}" for name in HARMLESS_FILES} < {*names}
    assert not {f"helpers/{name}" for name in SECRET_FILES} & {*names}
    assert GITHUB_TOKEN.encode() not in archive_content
    assert b"PRIVATE KEY" not in archive_content


@pytest.mark.parametrize("name", SECRET_FILES)
def test_a_secret_that_is_named_is_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(SECRET_FILES[name])
    with pytest.raises(InputError, match=f"code.1: {name} (holds|is named like) "):
        pack_study(folder, code=["mine_nets.py", name])
    (folder / "link.txt").symlink_to(folder / name)
    with pytest.raises(InputError, match=f"code.0: {name}"):
        pack_study(folder, code=["link.txt"])


@pytest.mark.parametrize(
    "code", [{}, {"code": ["."]}, {"code": ["helpers/upload.py"]}], ids=["found", "folder", "named"]
)
@pytest.mark.parametrize("secret", [GITHUB_TOKEN, AWS_ACCESS_KEY, PRIVATE_KEY])
def test_a_module_with_a_token_is_refused_with_its_line(folder, code, secret):
    (folder / "helpers" / "upload.py").write_text(f'import os\n\nTOKEN = """{secret}"""\n')
    with pytest.raises(InputError, match="helpers/upload.py holds .* in line 3, ") as refused:
        pack_study(folder, **code)
    assert secret not in str(refused.value)


def test_a_study_file_or_a_requirement_with_a_secret_is_refused(folder):
    (folder / "mine.yaml").write_text(f"study: s\n# {GITHUB_TOKEN}\n")
    with pytest.raises(InputError, match="the study file: mine.yaml holds a token of GitHub in line 2"):
        pack_study(folder)
    (folder / "mine.yaml").write_text("study: s\n")
    for pip in ("mine @ https://me:secret@example.org/mine.whl", f"git+https://{GITHUB_TOKEN}@example.org/mine.git"):
        with pytest.raises(InputError, match="code.pip.1: this requirement has a password") as refused:
            pack_study(folder, code={"paths": ["mine_nets.py"], "pip": ["timm", pip]})
        assert pip not in str(refused.value)
    assert pack_study(folder, code={"pip": ["git+https://me:${TOKEN}@example.org/mine.git"]}).files


def test_a_dry_run_lists_what_is_sent_and_what_is_left_out(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "mine.yaml").write_text(
        "study: s\ntrial: {dataset: synthetic, model: mlp, method: snip, density: 0.1}\ncode: [helpers]\n"
    )
    (folder / "helpers" / "server.key").write_text("x")
    result = CliRunner().invoke(main, ["submit", "mine.yaml", "--dry-run"])
    assert (result.exit_code, result.output.splitlines()) == (
        0,
        [
            "mine.yaml",
            "helpers/__init__.py",
            "helpers/sizes.json",
            "not sent: helpers/server.key (it is named like a private key)",
        ],
    )
    listing = json.loads(CliRunner().invoke(main, ["submit", "mine.yaml", "--dry-run", "--json"]).output)
    assert listing["files"] == result.output.splitlines()[:3]
    assert [*listing["left_out"]] == ["helpers/server.key"]
    assert listing["bytes"] > 0


def test_an_archive_larger_than_ray_takes_is_refused(folder, monkeypatch):
    monkeypatch.setattr(package, "MAX_ARCHIVE_BYTES", 1000)
    (folder / "helpers" / "large.bin").write_bytes(np.random.default_rng(0).bytes(2000))
    with pytest.raises(InputError, match=r"has 2\.\d KiB, .* 1\.0 KiB; the largest files: helpers/large"):
        list_shipped(folder, code=["helpers"])

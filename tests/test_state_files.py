"""The files of running trials, on a disk and in an object store; here that of fsspec, which lies in memory."""

import sys

import pytest
from upath import UPath

from forcetune import state_files
from forcetune.errors import InputError
from forcetune.ledger.checkpoints import Checkpoints, SupersededError, read_checkpoint
from forcetune.state_files import (
    StagedFile,
    check_writable,
    copy_folder,
    has_folder,
    list_folder,
    make_folder,
    on_disk,
    open_folder,
    read_file,
    remove_empty_folder,
    remove_file,
    remove_folder,
    write_whole,
)


@pytest.fixture(params=["disk", "object store"])
def state(request, tmp_path, monkeypatch):
    """Return a folder that does not exist yet, on a disk and in an object store in turn."""
    if request.param == "disk":
        return tmp_path / "state"
    monkeypatch.setitem(state_files.PACKAGES, "memory", "fsspec")
    return open_folder(f"memory://{tmp_path.name}/state")


def test_folders(state):
    assert not has_folder(state)
    assert list_folder(state) == []
    make_folder(state / "trial")
    assert has_folder(state)
    assert has_folder(state / "trial")
    assert list_folder(state / "trial") == [], "what stands for an empty folder is no file"
    assert [path.name for path in list_folder(state)] == ["trial"]
    write_whole(state / "trial" / "a.txt", b"a")
    copy_folder(state / "trial", state / "copy" / "trial")
    assert read_file(state / "copy" / "trial" / "a.txt") == b"a"
    remove_empty_folder(state / "trial")
    assert has_folder(state / "trial"), "it is not empty"
    remove_file(state / "trial" / "a.txt")
    remove_file(state / "trial" / "a.txt")
    remove_empty_folder(state / "trial")
    assert not has_folder(state / "trial")
    remove_folder(state)
    remove_folder(state)
    assert not has_folder(state)


def test_a_file_is_there_whole_or_not_at_all(state):
    make_folder(state)
    staged = StagedFile(state / "a.txt", b"new", synced=True)
    assert list_folder(state) == []
    with pytest.raises(FileNotFoundError):
        read_file(state / "a.txt")
    staged.commit()
    assert [path.name for path in list_folder(state)] == ["a.txt"]
    with on_disk(state / "a.txt") as path:
        assert path.name == "a.txt"
        assert path.read_bytes() == b"new"


def test_an_attempt_fences_the_earlier_ones_off(state):
    make_folder(state)
    first, second = (Checkpoints(str(state / "0001"), attempt, "key") for attempt in (1, 2))
    first.claim()
    first.save({"epoch": 1})
    second.claim()
    with pytest.raises(SupersededError):
        first.save({"epoch": 2})
    assert second.newest() == {"epoch": 1, "key": "key"}
    second.save({"epoch": 3})
    assert [path.name for path in list_folder(state / "0001")] == ["2"], "the folder of the first attempt is gone"
    assert Checkpoints(str(state / "0001"), 3, "other key").newest() is None
    remove_folder(state / "0001")
    with pytest.raises(SupersededError):
        second.save({"epoch": 4})
    assert not has_folder(state / "0001"), "a worker that was thought dead leaves nothing behind"


def test_without_the_folder_of_all_trials_nothing_is_kept(state):
    checkpoints = Checkpoints(str(state / "0001"), 1, "key")
    checkpoints.claim()
    checkpoints.save({"epoch": 1})
    assert checkpoints.newest() is None
    assert not checkpoints.is_due()


def test_addresses_of_disks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_folder("state") == open_folder(f"file://{tmp_path}/state") == tmp_path / "state"


def test_unknown_kinds_of_addresses_are_refused():
    with pytest.raises(InputError, match=r"FORCETUNE_STATE=ftp://host/x: .* ftp://; allowed: a path, .* s3://"):
        open_folder("ftp://host/x")


def test_a_password_in_an_address_is_refused_and_not_printed():
    with pytest.raises(InputError, match="has a password in it") as refused:
        open_folder("s3://key:secret@bucket/prefix")
    assert "secret" not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(InputError, match=r"pip install universal-pathlib s3fs.*forcetune\[s3\]"):
        open_folder("s3://bucket/prefix")


@pytest.fixture
def away(monkeypatch):
    """Return a folder in an object store that does not answer, in the words of a library of its own."""
    monkeypatch.setitem(state_files.PACKAGES, "memory", "fsspec")
    folder = UPath("memory://away")

    def fail(*args, **options):
        raise RuntimeError("no route to the host")

    for name in ("ls", "cat_file", "pipe_file", "rm", "info", "isdir", "open"):
        monkeypatch.setattr(folder.fs, name, fail)
    return folder


def test_an_object_store_that_does_not_answer_is_refused_before_the_start(away):
    with pytest.raises(InputError, match="FORCETUNE_STATE=memory://.*no route to the host.*Allowed: a bucket"):
        check_writable(away)


def test_no_trial_starts_anew_because_its_checkpoint_cannot_be_read(away, tmp_path):
    with pytest.raises(OSError, match="no route to the host"):
        read_checkpoint(away / "1" / "checkpoint.pt")
    assert read_checkpoint(tmp_path / "checkpoint.pt") is None, "there is none"
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    assert read_checkpoint(tmp_path / "checkpoint.pt") is None

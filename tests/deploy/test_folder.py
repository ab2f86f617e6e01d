"""The target folder of an export: all files appear at the end, or none."""

import pytest

from forcetune.deploy.folder import writing_to
from forcetune.errors import InputError


def test_files_appear_together_and_replace_earlier_ones(tmp_path):
    (tmp_path / "model").write_text("old")
    (tmp_path / "other").write_text("other")
    with writing_to(tmp_path) as folder:
        (folder / "model").write_text("new")
        (folder / "card").write_text("card")
        assert (tmp_path / "model").read_text() == "old"
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"model": "new", "other": "other", "card": "card"}


def write_and_raise(out, error):
    with writing_to(out) as folder:
        (folder / "model").write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken"), InputError("refused")])
def test_an_error_leaves_nothing_and_stays_what_it_is(tmp_path, error):
    with pytest.raises(type(error)):
        write_and_raise(tmp_path / "new" / "out", error)
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_existed_stays(tmp_path):
    with pytest.raises(ValueError, match="broken"):
        write_and_raise(tmp_path, ValueError("broken"))
    assert tmp_path.is_dir()
    assert [*tmp_path.iterdir()] == []


def test_a_runtime_that_finds_the_disk_full_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be written: SystemError: No space left on device; nothing is left"):
        write_and_raise(tmp_path, RuntimeError("SystemError: No space left on device"))

"""YAML: plain data alone, and errors that name the place."""

from pathlib import Path

import pytest

from forcetune.errors import InputError
from forcetune.study import load_study
from forcetune.study.reading import read_yaml

SPACES = Path(__file__).parents[2] / "search_spaces"


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_search_space_loads(path):
    assert load_study(path).study == path.stem


def test_numbers_as_people_write_them(write):
    written = read_yaml(write("a: 1e-3\nb: 2E+1\nc: 0.5\nd: 10\ne: -1e-4\nf: 1e3x\n"))
    assert written == {"a": 0.001, "b": 20.0, "c": 0.5, "d": 10, "e": -0.0001, "f": "1e3x"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "contains nothing"),
        ("- a\n- b\n", "contains list"),
        ("study: [a\ntrial: b\n", "line 2, column 6"),
        ("study: a\nstudy: b\n", "line 2, column 1.*'study' .*twice"),
        ("study: !!python/object/apply:os.system ['true']\n", "line 1, column 8.*could not determine a constructor"),
        (b"study: \xff\xfe\n", "not UTF-8 text"),
        ("study: a\x00b\n", "cannot be read as YAML"),
        ("[" * 20_000, "cannot be read as YAML"),
    ],
)
def test_unreadable(write, content, said):
    with pytest.raises(InputError, match=f"study.yaml.*{said}"):
        load_study(write(content))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nope.yaml: the file cannot be read \(No such file"):
        load_study(tmp_path / "nope.yaml")
    with pytest.raises(InputError, match="Is a directory"):
        load_study(tmp_path)

"""YAML: plain data alone, and errors that name the place."""

from pathlib import Path

import pytest

from forcetune.errors import InputError
from forcetune.spec import load
from forcetune.spec.reading import read_yaml

SPACES = Path(__file__).parents[2] / "search_spaces"


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_search_space_loads(path):
    assert load(path).study == path.stem


def test_numbers_as_people_write_them(write):
    written = read_yaml(write("a: 1e-3\nb: 2E+1\nc: 0.5\nd: 10\ne: -1e-4\nf: 1e3x\n"))
    assert written == {"a": 0.001, "b": 20.0, "c": 0.5, "d": 10, "e": -0.0001, "f": "1e3x"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds nothing"),
        ("- a\n- b\n", "holds list"),
        ("study: [a\ntrial: b\n", "line 2, column 6"),
        ("study: a\nstudy: b\n", "line 2, column 1.*'study' stands there twice"),
        ('study: a\n"\\ud800": 1\n', "line 2, column 1.*half of a character"),
        ('study: "a\\udfff"\n', "line 1, column 8.*half of a character"),
        ("study: !!python/object/apply:os.system ['true']\n", "line 1, column 8.*could not determine a constructor"),
        (b"study: \xff\xfe\n", "not a text file in UTF-8"),
        ("study: a\x00b\n", "not readable as YAML"),
        ("[" * 20_000, "not readable"),
    ],
)
def test_unreadable(write, content, said):
    with pytest.raises(InputError, match=f"study.yaml.*{said}"):
        load(write(content))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nope.yaml: the file cannot be read \(No such file"):
        load(tmp_path / "nope.yaml")
    with pytest.raises(InputError, match="Is a directory"):
        load(tmp_path)

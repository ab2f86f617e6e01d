"""YAML files: they hold plain data only, and errors name the position."""

import pytest
from shared_constants import SEARCH_SPACES

from forcetune.errors import InputError
from forcetune.study import load_study
from forcetune.study.reading import read_yaml


@pytest.mark.parametrize("path", sorted(SEARCH_SPACES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_search_space_loads(path):
    assert load_study(path).study == path.stem


def test_numbers_as_people_write_them(write_study_file):
    values = read_yaml(write_study_file("a: 1e-3\nb: 2E+1\nc: 0.5\nd: 10\ne: -1e-4\nf: 1e3x\n"))
    assert values == {"a": 0.001, "b": 20.0, "c": 0.5, "d": 10, "e": -0.0001, "f": "1e3x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "contains nothing"),
        ("- a\n- b\n", "contains list"),
        ("study: [a\ntrial: b\n", "line 2, column 6"),
        ("study: a\nstudy: b\n", "line 2, column 1.*'study' .*twice"),
        ('study: a\n"\\ud800": 1\n', "line 2, column 1.*half of a character"),
        ('study: "a\\udfff"\n', "line 1, column 8.*half of a character"),
        ("study: !!python/object/apply:os.system ['true']\n", "line 1, column 8.*could not determine a constructor"),
        (b"study: \xff\xfe\n", "not UTF-8 text"),
        ("study: a\x00b\n", "cannot be read as YAML"),
        ("[" * 20_000, "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_study_is_refused(write_study_file, content, message):
    with pytest.raises(InputError, match=f"study.yaml.*{message}"):
        load_study(write_study_file(content))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nope.yaml: the file cannot be read \(No such file"):
        load_study(tmp_path / "nope.yaml")
    with pytest.raises(InputError, match="Is a directory"):
        load_study(tmp_path)

"""The position in front of an error, and the characters that no terminal is to obey."""

import pytest

from forcetune.errors import InputError, escape_unprintable, locating


def test_a_position_is_put_in_front_of_a_refusal_and_of_nothing_else():
    with pytest.raises(InputError, match=r"^trial\.method snap: no channels$"), locating("trial.method snap"):
        raise InputError("no channels")
    with pytest.raises(InputError, match="^no channels$"), locating(None):
        raise InputError("no channels")
    with pytest.raises(ValueError, match="^no refusal$"), locating("trial"):
        raise ValueError("no refusal")


def test_what_a_terminal_obeys_is_escaped():
    assert escape_unprintable("a\x1b[31m\n\u202eb") == r"a\x1b[31m\n\u202eb"
    assert escape_unprintable("a\tb\n\x07", kept="\n\t") == "a\tb\n\\x07"

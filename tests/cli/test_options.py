"""The values of options that are read, and the output of the option --json."""

import json
import math

import pytest

from forcetune.cli.options import parse_sparsity, print_json
from forcetune.errors import InputError


def test_json_has_no_number_that_parsers_refuse(capsys):
    print_json([{"shift": math.nan, "losses": (math.inf, 1.5)}, {"runs": 2, "name": "nan"}])

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    written = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert written == [{"shift": None, "losses": [None, 1.5]}, {"runs": 2, "name": "nan"}]


@pytest.mark.parametrize(("text", "sparsity"), [("97.5%", 0.975), ("0.975", 0.975), (" 0 ", 0.0), ("99.99%", 0.9999)])
def test_a_sparsity_is_a_fraction_or_a_percentage(text, sparsity):
    assert parse_sparsity("--at", text) == pytest.approx(sparsity)


@pytest.mark.parametrize("text", ["97.5", "1", "100%", "-0.1", "nan", "inf", "", "%", "much", "97,5%"])
def test_what_is_no_sparsity_is_refused(text):
    with pytest.raises(InputError, match="--at .*is no sparsity; allowed: a fraction below 1 such as 0.975, or 97.5%"):
        parse_sparsity("--at", text)

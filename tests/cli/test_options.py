"""The output of the option --json."""

import json
import math

from forcetune.cli.options import print_json


def test_json_has_no_number_that_parsers_refuse(capsys):
    print_json([{"shift": math.nan, "losses": (math.inf, 1.5)}, {"runs": 2, "name": "nan"}])

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    written = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert written == [{"shift": None, "losses": [None, 1.5]}, {"runs": 2, "name": "nan"}]

"""Files of tests/cluster that share a fixture of minutes go to one worker."""

import ast

from shared_constants import REPOSITORY
from shared_setups import FILES_BY_FIXTURE, FIXTURE_BY_FILE

FIXTURES_BY_ARGUMENT = {**{name: name for name in FILES_BY_FIXTURE}, "study_copy": "searched_study"}


def list_arguments(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return {argument.arg for function in functions for argument in function.args.args}


def test_every_file_with_a_slow_fixture_has_its_worker():
    paths = sorted((REPOSITORY / "tests" / "cluster").glob("test_*.py"))
    used = {
        f"tests/cluster/{path.name}": FIXTURES_BY_ARGUMENT[argument]
        for path in paths
        for argument in FIXTURES_BY_ARGUMENT.keys() & list_arguments(path)
    }
    assert used == FIXTURE_BY_FILE

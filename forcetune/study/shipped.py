"""The search spaces that forcetune ships: study files to start from, and the schema beside them."""

from importlib.resources import files
from importlib.resources.abc import Traversable

from forcetune.errors import InputError
from forcetune.names import suggestion

SCHEMA_FILE = "study.schema.json"  # the first line of each shipped study file names it
EDITOR_COMMENT = "# yaml-language-server:"


def list_search_spaces() -> dict[str, str]:
    """Return a sentence on each shipped search space, from the head of its file, by name."""
    return {name: _summarize(file.read_text(encoding="utf-8")) for name, file in _find_files().items()}


def read_search_space(name: str) -> str:
    """Return the text of a shipped search space, a study file with comments.

    Args:
        name: The name of the search space.

    Raises:
        InputError: There is no such search space.
    """
    spaces = _find_files()
    if name not in spaces:
        raise InputError(f"unknown search space {name!r}{suggestion(name, spaces)}; allowed: {', '.join(spaces)}")
    return spaces[name].read_text(encoding="utf-8")


def read_shipped_schema() -> str:
    """Return the text of the JSON schema that lies beside the search spaces, which `make_schema` made."""
    return _find_folder().joinpath(SCHEMA_FILE).read_text(encoding="utf-8")


def _find_folder() -> Traversable:
    return files("forcetune").joinpath("search_spaces")


def _find_files() -> dict[str, Traversable]:
    shipped_files = sorted(_find_folder().iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file for file in shipped_files if file.name.endswith(".yaml")}


def _summarize(text: str) -> str:
    """Return the first line of a study file that is no instruction to editors, without the sign of a comment."""
    first_line = next(line for line in text.splitlines() if not line.startswith(EDITOR_COMMENT))
    return first_line.removeprefix("#").strip()

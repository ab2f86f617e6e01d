"""A safe reader of YAML: plain data only, numbers as in YAML 1.2, no key twice."""

import re
from pathlib import Path
from typing import Any

import yaml

from forcetune.errors import InputError
from forcetune.study.problems import LARGEST_INTEGER, show_value, summarize

FILE_BYTES = 2**20  # a larger file is not written by a person, and takes long to read
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character, which no store and no terminal accepts
YAML_NODES = 100_000  # values in a file; an alias counts as all values that it repeats


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which here also reads 1e-3 as a number (YAML 1.2) and refuses a key that is there twice."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # PyYAML's constructors of an explicit tag raise any error of Python
            kind = node.tag.rpartition(":")[2]
            raise _refusal(node, f"{show_value(node.value)} is not a valid {kind}") from error
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise _refusal(node, f"a whole number must be at most 2^63 - 1, but this has {len(node.value)} characters")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refusal(key_node, "a key must be text, not a list or a mapping")
            if key_node.value in seen:
                raise _refusal(key_node, f"the key {show_value(key_node.value)} is given twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _refusal(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml(path: str | Path) -> Any:
    """Return the content of a file as plain data.

    Args:
        path: The file, of at most 1 MiB.

    Raises:
        InputError: The file cannot be read, would construct objects or would grow without bound.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: the path has a NUL character
        reason = getattr(error, "strerror", None) or error
        raise InputError(summarize([f"{path}: the file cannot be read ({reason})"])) from error
    if len(content) > FILE_BYTES:
        raise InputError(f"{path}: the file is larger than 1 MiB")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"the file is not UTF-8 text ({error.reason} at byte {error.start})"
        raise InputError(summarize([f"{path}: {reason}"])) from error
    try:
        return _load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise InputError(summarize([f"{path}:{line} cannot be read as YAML: {error.problem}"])) from error
    except RecursionError as error:
        raise InputError(f"{path}: cannot be read as YAML: its lists or mappings are nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(summarize([f"{path}: cannot be read as YAML: {error}"])) from error


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count_nodes(node: yaml.Node, counts: dict[int, int]) -> int:
    """Count the values below a node, an alias as all values that it repeats; raise an error where they are too many."""
    if id(node) in counts:
        if not counts[id(node)]:
            raise _refusal(node, "an alias refers to a value that contains the alias")
        return counts[id(node)]
    if isinstance(node, yaml.ScalarNode) and LONE_SURROGATE.search(node.value):
        raise _refusal(node, "this has half of a character (\\ud800 to \\udfff), which cannot be written again")
    counts[id(node)] = 0  # while its children are counted, so that an alias to itself is seen
    children = [] if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in children for child in pair]
    count = 1 + sum(_count_nodes(child, counts) for child in children)
    if count > YAML_NODES:
        raise _refusal(node, f"the file has more than {YAML_NODES:,} values once its aliases are expanded")
    counts[id(node)] = count
    return count

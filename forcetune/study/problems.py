"""The problems of a file, reported all at once: the first twenty, each short enough to read."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from forcetune.errors import escape_unprintable

PROBLEM_CHARACTERS = 600  # of one problem
VALUE_CHARACTERS = 120  # of a value inside a problem
PROBLEMS_SHOWN = 20
LARGEST_INTEGER = 2**63 - 1  # that the stores take


class Problem(ValueError):
    """Something wrong at one position of a file.

    Args:
        position: The position in the file, as keys with dots between.
        message: What is written there, and what is allowed.
    """

    def __init__(self, position: str, message: str) -> None:
        super().__init__(f"{position}: {message}")


def collect(checks: Iterable[Callable[[], object]]) -> list[str]:
    """Run every check and return the messages of those that raise Problem."""
    messages = []
    for check in checks:
        try:
            check()
        except Problem as problem:
            messages.append(str(problem))
    return messages


def summarize(messages: Iterable[str]) -> str:
    """Return the messages as one paragraph: each shortened and without control characters, those beyond 20 counted."""
    texts = list(dict.fromkeys(_shorten(escape_unprintable(message), PROBLEM_CHARACTERS) for message in messages))
    beyond = len(texts) - PROBLEMS_SHOWN
    return "; ".join([*texts[:PROBLEMS_SHOWN], *([f"and {beyond} more errors"] if beyond > 0 else [])])


def show_value(value: Any) -> str:
    """Return a value as Python writes it, its middle left out where it is long."""
    if isinstance(value, Mapping | list | tuple | set):
        # never written out whole: a value with aliases is small in memory, and may be endless as text
        return f"{type(value).__name__} of {len(value)}" if _nested_size(value) > VALUE_CHARACTERS else _short(value)
    return _short(value)


def _short(value: Any) -> str:
    return _shorten(repr(value), VALUE_CHARACTERS)


def _nested_size(value: Any) -> int:
    """Count the values inside, no further than VALUE_CHARACTERS."""
    size, waiting = 0, [value]
    while waiting and size <= VALUE_CHARACTERS:
        current = waiting.pop()
        size += 1
        if isinstance(current, Mapping):
            waiting += [*current.values()][:VALUE_CHARACTERS]
        elif isinstance(current, list | tuple | set):
            waiting += [*current][:VALUE_CHARACTERS]
    return size


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = limit // 4
    return f"{text[: limit - tail - 5]} ... {text[-tail:]}"

"""Nights by systemd: a service that runs a night, and the timer that starts the service."""

from forcetune.errors import InputError
from forcetune.timers.night import Night
from forcetune.timers.template import fill_template


def systemd(night: Night) -> dict[str, str]:
    """Return the files of a service that runs a night, and of its timer, by their names.

    Args:
        night: The night that the timer starts.

    Raises:
        InputError: systemd cannot start this Python, since its path has quotes in it.
    """
    if {*night.command[0]} & {*"\"'"}:
        raise InputError(
            f"systemd cannot start {night.command[0]}, since its path contains quotes; install forcetune elsewhere, "
            "or use `forcetune schedule cron`"
        )
    texts = {
        "name": night.name,
        "description": _escape(f"forcetune nightly {night.file}"),
        "folder": _escape(str(night.folder)),
        "environment": "".join(
            f"Environment={_quote_word(f'{name}={value}')}\n" for name, value in night.variables.items()
        ),
        "command": " ".join(map(_quote_word, night.command)),
        "log": _escape(str(night.log)),
        "at": night.at,
    }
    return {f"{night.name}.{kind}": fill_template(f"nightly.{kind}", texts) for kind in ("service", "timer")}


def _escape(text: str) -> str:
    """Return a text for the rest of a line, which takes no quotes."""
    return text.replace("%", "%%")


def _quote_word(text: str) -> str:
    """Return a text in quotes as one word of a line. A dollar has no meaning, since a colon precedes the command."""
    escaped = _escape(text).replace('"', r"\"")
    return f'"{escaped}"'

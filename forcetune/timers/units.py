"""Nights by systemd: a service that runs a night, and the timer that starts the service."""

from string import Template

from forcetune.errors import InputError
from forcetune.timers.night import Night

SERVICE = Template("""\
# Started by $name.timer. Copy both to ~/.config/systemd/user, then
#   systemctl --user daemon-reload && systemctl --user enable --now $name.timer
#   loginctl enable-linger   # so that it also runs while you are not logged in
# Or copy them to /etc/systemd/system, with a line User=YOU below [Service], and leave --user out.
[Unit]
Description=$description
# Every exit code except 0 makes the unit fail, 3 (an alarm) too: OnFailure=UNIT here starts a unit that reports it.

[Service]
# systemd does not start a unit that still runs
Type=oneshot
WorkingDirectory=$folder
${environment}ExecStart=:$command
StandardOutput=append:$log
# a stop asks only forcetune itself to end; it then releases its running trials
KillMode=mixed
""")
TIMER = Template("""\
[Unit]
Description=$description, every night

[Timer]
# by the clock of the machine
OnCalendar=*-*-* $at:00
# a night that was missed because the machine was off starts when it is on again
Persistent=true

[Install]
WantedBy=timers.target
""")


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
    return {f"{night.name}.service": SERVICE.substitute(texts), f"{night.name}.timer": TIMER.substitute(texts)}


def _escape(text: str) -> str:
    """Return a text for the rest of a line, which takes no quotes."""
    return text.replace("%", "%%")


def _quote_word(text: str) -> str:
    """Return a text in quotes as one word of a line. A dollar has no meaning, since a colon precedes the command."""
    escaped = _escape(text).replace('"', r"\"")
    return f'"{escaped}"'

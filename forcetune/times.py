"""Time in words, and in the one form that programs read."""

from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """Seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def iso(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 has them, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def precise(seconds: float) -> str:
    """The same with tenths below a minute."""
    return duration(seconds) if seconds >= 60 else f"{seconds:.1f} s"

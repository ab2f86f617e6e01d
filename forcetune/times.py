"""Times in words, and in the one form that programs read."""

from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """Return a number of seconds in words."""
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole_seconds:02d} s" if minutes else f"{whole_seconds} s"


def iso(seconds: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def precise_duration(seconds: float) -> str:
    """Return a number of seconds in words, with tenths below a minute."""
    return duration(seconds) if seconds >= 60 else f"{seconds:.1f} s"

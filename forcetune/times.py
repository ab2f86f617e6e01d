"""Time in words."""


def duration(seconds: float) -> str:
    """Seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def precise(seconds: float) -> str:
    """The same with tenths below a minute."""
    return duration(seconds) if seconds >= 60 else f"{seconds:.1f} s"

"""Numbers as people read them: durations, times, and shares in percent."""

import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

MAX_SPARSITY_DIGITS = 12  # more than any network has weights for


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


def format_hours(hours: float) -> str:
    """Format a number of hours with two digits, or as a whole number from ten hours on."""
    return f"{hours:.2g}" if hours < 9.95 else f"{hours:,.0f}"


def format_percent(share: float) -> str:
    """Format a share in percent, with enough digits to distinguish a sparsity from 1."""
    if not 0.9 < share < 1:
        return f"{share * 100:.4g}%"
    digits = max(2, -math.floor(math.log10(1 - share)) - 1)
    return f"{share * 100:.{digits}f}".rstrip("0").rstrip(".") + "%"


def format_flops(count: float) -> str:
    """Format a number of floating-point operations with three digits and a prefix, such as 4.48 G."""
    prefixes = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
    count = float(f"{count:.3g}")  # before the prefix is chosen: 999.6 is 1 k
    power = min(max(math.floor(math.log10(count)) // 3, 0), len(prefixes) - 1) if count > 0 else 0
    return f"{count / 1000**power:.3g} {prefixes[power]}".rstrip()


def format_sparsity(sparsity: float) -> str:
    """Format a sparsity in percent with two digits, or with as many more as distinguish it from 1."""
    digits = 2
    while sparsity < 1 and digits < MAX_SPARSITY_DIGITS and float(f"{sparsity * 100:.{digits}f}") == 100:
        digits += 1
    return f"{sparsity:.{digits}%}"


def format_markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Collection[str] = ()
) -> str:
    """Return a table in Markdown, without a line break at its end.

    Args:
        header: The names of the columns.
        rows: The cells of each row.
        text_columns: The names of the columns that hold text, which stands on the left; numbers stand on the right.
    """
    # DataFrame.to_markdown needs another package, tabulate, for these lines.
    rule = ["---" if name in text_columns else "---:" for name in header]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def format_bytes(count: float) -> str:
    """Format a number of bytes with three digits and a prefix, such as 807 kB."""
    text = format_flops(count)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"

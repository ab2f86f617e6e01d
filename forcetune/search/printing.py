"""A line of text for the user, printed as it is."""

from rich.console import Console


def print_line(console: Console, text: str) -> None:
    """Print a text without line breaks, colours or markup of Rich's own.

    The text may hold a message of the user's code, and Rich would drop `[seed]` from it and fail on `[/data]`.

    Args:
        console: Where the text is printed.
        text: The text.
    """
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)

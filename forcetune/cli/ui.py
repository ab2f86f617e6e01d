"""The dashboards of this machine."""

from __future__ import annotations

import os
import signal
import sys
from threading import Event
from typing import TYPE_CHECKING

import click

from forcetune.cli.group import main, start_limit_option

if TYPE_CHECKING:
    from forcetune.ui.page import Page


@main.command()
@click.argument("study", required=False)
@click.option("--no-browser", is_flag=True, help="print the addresses alone")
@start_limit_option(60)
def ui(study: str | None, no_browser: bool, start_limit: float) -> None:
    """Open MLflow's UI, Optuna Dashboard and Ray's dashboard, as far as they exist here, until Ctrl-C.

    STUDY: whose pages the links lead to.
    """
    from forcetune import ui as dashboards

    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    browser = not no_browser and _has_screen()
    dashboards.run(study, stop, lambda page: _opened(page, browser), start_limit)


def _opened(page: Page, browser: bool) -> None:
    import webbrowser

    rows = {"all of them": page.address, **page.told()}
    for name, told in rows.items():
        click.echo(f"{name:<17} {told}")
    click.echo("Ctrl-C ends what was started here")
    sys.stdout.flush()
    if browser:
        webbrowser.open(page.address)


def _has_screen() -> bool:
    """Whether a browser would get a window; one in the terminal would take it over."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))

"""The command that opens the dashboards of this machine."""

from __future__ import annotations

import os
import signal
import sys
from threading import Event
from typing import TYPE_CHECKING

import click

from forcetune.cli.group import main, start_limit_option

if TYPE_CHECKING:
    from forcetune.local.page import Page


@main.command()
@click.argument("study", required=False)
@click.option("--no-browser", is_flag=True, help="only print the addresses")
@start_limit_option(60)
def ui(study: str | None, no_browser: bool, start_limit: float) -> None:
    """Open those of MLflow's UI, Optuna Dashboard and Ray's dashboard that exist here, until Ctrl-C.

    With STUDY, the links lead to the pages of that study.
    """
    from forcetune.local import ui as dashboards

    stop = Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop.set())
    opens_browser = not no_browser and _has_screen()
    dashboards.run(study, stop, lambda page: _show_page(page, opens_browser), start_limit)


def _show_page(page: Page, opens_browser: bool) -> None:
    import webbrowser

    rows = {"all dashboards": page.address, **page.link_texts()}
    for name, text in rows.items():
        click.echo(f"{name:<17} {text}")
    click.echo("Ctrl-C ends the dashboards that this command started")
    sys.stdout.flush()
    if opens_browser:
        webbrowser.open(page.address)


def _has_screen() -> bool:
    """Return whether a browser would open a window; without a screen a text browser would take over the terminal."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))

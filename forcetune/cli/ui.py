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
    from forcetune.local.dashboards import Link


@main.command()
@click.argument("study", required=False)
@click.option("--no-browser", is_flag=True, help="only print the addresses")
@start_limit_option(60)
def ui(study: str | None, no_browser: bool, start_limit: float) -> None:
    """Start MLflow's UI and Optuna Dashboard where they are missing, and print all addresses, until Ctrl-C.

    Ray's dashboard is printed where a cluster runs, and so is the address of each report that MLflow keeps. With STUDY,
    the addresses are those of the pages and the report of that study.
    """
    from forcetune.local import ui as dashboards

    stop = Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop.set())
    opens_browser = not no_browser and _has_screen()
    dashboards.run(study, stop, lambda links: _show_links(links, opens_browser), start_limit)


def _show_links(links: list[Link], opens_browser: bool) -> None:
    import webbrowser

    width = max(len(link.name) for link in links)
    for link in links:
        text = f"{link.address}  ({link.note})" if link.address and link.note else link.address or link.note
        click.echo(f"{link.name:<{width}}  {text}")
    click.echo("Ctrl-C ends the dashboards that this command started")
    sys.stdout.flush()
    if opens_browser:
        webbrowser.open(next(link.address for link in links if link.address))  # MLflow's where it is there


def _has_screen() -> bool:
    """Return whether a browser would open a window; without a screen a text browser would take over the terminal."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))

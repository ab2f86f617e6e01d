"""The page of links: what each dashboard shows, whether it answers now, and each study's pages in the two UIs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from forcetune.errors import InputError
from forcetune.service import LOOPBACK
from forcetune.ui.children import answer
from forcetune.ui.dashboards import MLFLOW, OPTUNA, SHOWS, Dashboard
from forcetune.ui.studies import experiments, ledgers
from forcetune.ui.template import PAGE

PATIENCE = 2.0  # seconds that a dashboard gets to say that it is there, while the page waits for all
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page:
    """Served on loopback until it is closed, from a thread of its own.

    study: whose pages the dashboards' links lead to; ended: whether a dashboard that was started here runs no more.
    """

    def __init__(
        self, dashboards: Sequence[Dashboard], study: str | None, ended: Callable[[str], bool], port: int
    ) -> None:
        self._dashboards = dashboards
        self._study = study
        self._ended = ended
        self._server = _Server((LOOPBACK, port), partial(_Handler, self))
        self._thread = Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://{LOOPBACK}:{self._server.server_port}/"

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def told(self) -> dict[str, str]:
        """Each dashboard's link, or why there is none, and what one should know of it."""
        pages, _ = self._pages()
        told = {}
        for each in self._dashboards:
            link = self._link(each, pages)
            told[each.name] = f"{link}  ({each.told})" if link and each.told else link or each.told
        return told

    def states(self) -> dict[str, str]:
        """What each dashboard does now, in words."""
        with ThreadPoolExecutor(len(self._dashboards)) as pool:
            states = pool.map(self._state, self._dashboards)
        return {each.name: state for each, state in zip(self._dashboards, states, strict=True)}

    def html(self) -> str:
        """The page, with what the stores say now."""
        pages, troubles = self._pages()
        states = self.states()
        title = f"Study {self._study}" if self._study else "Dashboards"
        return PAGE.substitute(
            title=escape(title),
            folder=escape(str(Path.cwd())),
            dashboards="\n".join(self._card(each, states[each.name], pages) for each in self._dashboards),
            studies=_table(pages, self._study) if pages or not troubles else "",
            troubles="".join(f'<p class="trouble">{escape(trouble)}</p>' for trouble in troubles),
        )

    def _state(self, dashboard: Dashboard) -> str:
        if not dashboard.address:
            return "none"
        if self._ended(dashboard.name):
            return "has ended: start forcetune ui again"
        status = answer(dashboard.probe, PATIENCE)
        if status is None:
            return "does not answer"
        return f"answers with an error ({status})" if status >= 500 else "answers"

    def _pages(self) -> tuple[dict[str, dict[str, str]], list[str]]:
        """Of each UI, the address of each study's page; and what could not be read."""
        pages: dict[str, dict[str, str]] = {}
        troubles = []
        for each in self._dashboards:
            read = {MLFLOW: partial(experiments, each.source), OPTUNA: partial(ledgers, each.address)}.get(each.name)
            if read and each.address:
                try:
                    pages[each.name] = {study: each.address + path for study, path in read().items()}
                except InputError as error:
                    troubles.append(str(error))
        return pages, troubles

    def _link(self, dashboard: Dashboard, pages: Mapping[str, Mapping[str, str]]) -> str:
        """To the study's page where it has one, else to its first."""
        return pages.get(dashboard.name, {}).get(self._study or "", dashboard.address)

    def _card(self, dashboard: Dashboard, state: str, pages: Mapping[str, Mapping[str, str]]) -> str:
        known = pages.get(dashboard.name)
        rows = [f"<p>{escape(SHOWS[dashboard.name])}</p>"]
        if dashboard.address:
            there = f", study {self._study}" if self._study in (known or {}) else ""
            link = escape(self._link(dashboard, pages))
            rows.append(f'<p><a class="main" href="{link}">{escape(dashboard.address + there)}</a></p>')
        if self._study and known is not None and self._study not in known:
            rows.append(f"<p>the study {escape(self._study)} is not there</p>")
        if dashboard.told:
            rows.append(f"<p>{_in_code(dashboard.told)}</p>")
        if dashboard.place not in ("", dashboard.address):
            rows.append(f'<p class="store">store <code>{escape(dashboard.place)}</code></p>')
        name = escape(dashboard.name)
        head = f'<h2>{name}</h2><p class="state" data-of="{name}" role="status">{escape(state)}</p>'
        return f"<li>{head}{''.join(rows)}</li>"


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a browser that goes away in the middle is none."""


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, page: Page, *given: Any) -> None:
        self._page = page
        super().__init__(*given)

    def do_GET(self) -> None:
        """The page, or the states as JSON."""
        if self.headers.get("Host") not in _hosts(self._page.address):  # a name that was pointed here from outside
            self.send_error(403)
        elif self.path == "/":
            self._send("text/html; charset=utf-8", self._page.html())
        elif self.path == "/states":
            self._send("application/json", json.dumps(self._page.states()))
        else:
            self.send_error(404)

    def log_message(self, format: str, *given: Any) -> None:
        """Nothing: the terminal shows the addresses."""

    def _send(self, kind: str, content: str) -> None:
        body = content.encode()
        self.send_response(200)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        for name, value in {**headers, "Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _hosts(address: str) -> set[str]:
    port = address.rstrip("/").rpartition(":")[2]
    return {f"{LOOPBACK}:{port}", f"localhost:{port}"}


def _table(pages: Mapping[str, Mapping[str, str]], chosen: str | None) -> str:
    """A row a study: its name and its page in each UI."""
    studies = list(dict.fromkeys(name for known in pages.values() for name in known))
    if not studies:
        return "<p>none yet</p>"
    names = [name for name in (MLFLOW, OPTUNA) if name in pages]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for study in studies:
        cells = "".join(f"<td>{_to(study, name, pages[name].get(study))}</td>" for name in names)
        current = ' aria-current="true"' if study == chosen else ""
        rows.append(f'<tr{current}><th scope="row">{escape(study)}</th>{cells}</tr>')
    return f'<table><thead><tr><th scope="col">Study</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _to(study: str, name: str, link: str | None) -> str:
    if not link:
        return '<span class="store">not there</span>'
    told = "trials" if name == MLFLOW else "front and history"
    return f'<a href="{escape(link)}" aria-label="{escape(f"{told} of {study} in {name}")}">{told}</a>'


def _in_code(told: str) -> str:
    """What stands between backticks as code."""
    parts = [escape(part) for part in told.split("`")]
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))

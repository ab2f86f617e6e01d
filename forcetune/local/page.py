"""The page of links: what each dashboard shows, whether it answers, and the pages of each study."""

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
from forcetune.local.children import http_status
from forcetune.local.dashboards import DASHBOARD_CONTENTS, MLFLOW, OPTUNA, Dashboard
from forcetune.local.service import LOOPBACK
from forcetune.local.studies import experiment_pages, ledger_pages
from forcetune.local.template import PAGE_TEMPLATE

PROBE_TIMEOUT_S = 2.0  # that a dashboard may take to answer; the page waits for all of them
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page:
    """A page that a thread serves on loopback until it is closed.

    Args:
        dashboards: The dashboards that it links to.
        study: The study whose pages the links lead to.
        has_ended: Tells by a dashboard's name whether it was started here and no longer runs.
        port: The port of the page.
    """

    def __init__(
        self, dashboards: Sequence[Dashboard], study: str | None, has_ended: Callable[[str], bool], port: int
    ) -> None:
        self._dashboards = dashboards
        self._study = study
        self._has_ended = has_ended
        self._server = _Server((LOOPBACK, port), partial(_Handler, self))
        self._thread = Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://{LOOPBACK}:{self._server.server_port}/"

    def close(self) -> None:
        """Stop serving the page."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def link_texts(self) -> dict[str, str]:
        """Return the link to each dashboard with a note, or why there is no link, by the dashboard's name."""
        pages, _ = self._pages()
        texts = {}
        for dashboard in self._dashboards:
            link = self._link(dashboard, pages)
            texts[dashboard.name] = f"{link}  ({dashboard.note})" if link and dashboard.note else link or dashboard.note
        return texts

    def states(self) -> dict[str, str]:
        """Return the state of each dashboard in words, by the dashboard's name."""
        with ThreadPoolExecutor(len(self._dashboards)) as pool:
            states = pool.map(self._state, self._dashboards)
        return {dashboard.name: state for dashboard, state in zip(self._dashboards, states, strict=True)}

    def html(self) -> str:
        """Return the page as HTML, with the studies that the stores have now."""
        pages, troubles = self._pages()
        states = self.states()
        title = f"Study {self._study}" if self._study else "Dashboards"
        return PAGE_TEMPLATE.substitute(
            title=escape(title),
            folder=escape(str(Path.cwd())),
            dashboards="\n".join(
                self._card(dashboard, states[dashboard.name], pages) for dashboard in self._dashboards
            ),
            studies=_study_table(pages, self._study) if pages or not troubles else "",
            troubles="".join(f'<p class="trouble">{escape(trouble)}</p>' for trouble in troubles),
        )

    def _state(self, dashboard: Dashboard) -> str:
        if not dashboard.address:
            return "none"
        if self._has_ended(dashboard.name):
            return "has ended: start forcetune ui again"
        status = http_status(dashboard.probe_address, PROBE_TIMEOUT_S)
        if status is None:
            return "does not answer"
        return f"answers with an error ({status})" if status >= 500 else "answers"

    def _pages(self) -> tuple[dict[str, dict[str, str]], list[str]]:
        """Return the pages of the studies, by dashboard and study, and the errors of stores that cannot be read."""
        pages: dict[str, dict[str, str]] = {}
        troubles = []
        for dashboard in self._dashboards:
            read = {
                MLFLOW: partial(experiment_pages, dashboard.source),
                OPTUNA: partial(ledger_pages, dashboard.address),
            }.get(dashboard.name)
            if read and dashboard.address:
                try:
                    pages[dashboard.name] = {study: dashboard.address + path for study, path in read().items()}
                except InputError as error:
                    troubles.append(str(error))
        return pages, troubles

    def _link(self, dashboard: Dashboard, pages: Mapping[str, Mapping[str, str]]) -> str:
        """Return the address of the study's page where it exists, else of the dashboard's first page."""
        return pages.get(dashboard.name, {}).get(self._study or "", dashboard.address)

    def _card(self, dashboard: Dashboard, state: str, pages: Mapping[str, Mapping[str, str]]) -> str:
        study_pages = pages.get(dashboard.name)
        rows = [f"<p>{escape(DASHBOARD_CONTENTS[dashboard.name])}</p>"]
        if dashboard.address:
            suffix = f", study {self._study}" if self._study in (study_pages or {}) else ""
            link = escape(self._link(dashboard, pages))
            rows.append(f'<p><a class="main" href="{link}">{escape(dashboard.address + suffix)}</a></p>')
        if self._study and study_pages is not None and self._study not in study_pages:
            rows.append(f"<p>it does not have the study {escape(self._study)}</p>")
        if dashboard.note:
            rows.append(f"<p>{_format_code(dashboard.note)}</p>")
        if dashboard.printable_store not in ("", dashboard.address):
            rows.append(f'<p class="store">store <code>{escape(dashboard.printable_store)}</code></p>')
        name = escape(dashboard.name)
        head = f'<h2>{name}</h2><p class="state" data-of="{name}" role="status">{escape(state)}</p>'
        return f"<li>{head}{''.join(rows)}</li>"


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that goes away before it has the whole answer."""


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, page: Page, *arguments: Any) -> None:
        self._page = page
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Send the page, or the states as JSON."""
        # a page of another server may reach this one by a host name that resolves to this machine
        if self.headers.get("Host") not in _hosts(self._page.address):
            self.send_error(403)
        elif self.path == "/":
            self._send("text/html; charset=utf-8", self._page.html())
        elif self.path == "/states":
            self._send("application/json", json.dumps(self._page.states()))
        else:
            self.send_error(404)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Do not log requests: the terminal shows the addresses."""

    def _send(self, kind: str, content: str) -> None:
        body = content.encode()
        self.send_response(200)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        for name, value in {
            **headers,
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            "Referrer-Policy": "no-referrer",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _hosts(address: str) -> set[str]:
    port = address.rstrip("/").rpartition(":")[2]
    return {f"{LOOPBACK}:{port}", f"localhost:{port}"}


def _study_table(pages: Mapping[str, Mapping[str, str]], chosen: str | None) -> str:
    """Return a table with one row for each study: its name, and links to its pages."""
    studies = list(dict.fromkeys(name for study_pages in pages.values() for name in study_pages))
    if not studies:
        return "<p>no studies yet</p>"
    names = [name for name in (MLFLOW, OPTUNA) if name in pages]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for study in studies:
        cells = "".join(f"<td>{_study_link(study, name, pages[name].get(study))}</td>" for name in names)
        current = ' aria-current="true"' if study == chosen else ""
        rows.append(f'<tr{current}><th scope="row">{escape(study)}</th>{cells}</tr>')
    return f'<table><thead><tr><th scope="col">Study</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _study_link(study: str, name: str, link: str | None) -> str:
    if not link:
        return '<span class="store">does not exist</span>'
    content = "trials" if name == MLFLOW else "front and history"
    return f'<a href="{escape(link)}" aria-label="{escape(f"{content} of {study} in {name}")}">{content}</a>'


def _format_code(text: str) -> str:
    """Return a text as HTML, with the words between backticks as code."""
    pieces = [escape(piece) for piece in text.split("`")]
    return "".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces))

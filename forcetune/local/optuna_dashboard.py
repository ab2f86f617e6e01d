"""Optuna Dashboard as a separate process; its own command would show the store's password among its arguments."""

from __future__ import annotations

import os
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Do not log requests: only failures are worth a line."""


def serve(host: str, port: int) -> None:
    """Serve the storage that FORCETUNE_STORAGE names, until the process ends."""
    from optuna_dashboard import wsgi  # type: ignore[import-untyped]

    app = wsgi(os.environ["FORCETUNE_STORAGE"])
    make_server(host, port, app, server_class=_Server, handler_class=_QuietHandler).serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))

"""A network between forcetune and a server of MLflow that loses, delays, repeats and reorders requests."""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

API = "/api/2.0/mlflow/"  # what is disturbed; health and artifacts pass
TIME_LIMIT_S = 2.0  # of a request, as the client has it
LATE_S = 3.0  # what is delayed comes so late


class Proxy:
    """Forwards requests, and does one of FAULTS to a share of them; `done` counts what was done.

    A request that is `late` is forwarded after the client has given it up; an answer that is `late answer` likewise.
    One that is `reordered` waits until another one has been forwarded.
    """

    FAULTS = ("lost request", "lost answer", "late request", "late answer", "repeated", "reordered")

    def __init__(self, server: str, share: float, seed: str, port: int = 5002) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.share = share
        self.done: Counter[str] = Counter()
        self._target = urlsplit(server)
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        self._late: list[threading.Thread] = []
        self._forwarded = threading.Condition()
        self._count = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Forward nothing more, once what is late has arrived."""
        self.settle()
        self._server.shutdown()
        self._server.server_close()

    def settle(self) -> None:
        """Wait until what is late has arrived."""
        for thread in self._late:
            thread.join()

    def draw(self, path: str) -> str | None:
        """What happens to a request."""
        with self._lock:
            fault = self._draw.choice(self.FAULTS) if self._draw.random() < self.share else None
        if not path.startswith(API):
            return None
        with self._lock:
            self.done[fault or "passed"] += 1
            if fault and path.endswith("/create"):
                self.done[f"{fault}, of a create request"] += 1
        return fault

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list, bytes]:
        """Send a request to the server; its status, headers and body."""
        connection = http.client.HTTPConnection(self._target.hostname, self._target.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()
            with self._forwarded:
                self._count += 1
                self._forwarded.notify_all()

    def forward_late(self, *request) -> None:
        """Send a request when its client no longer waits."""

        def send() -> None:
            time.sleep(LATE_S)
            self.forward(*request)

        self._late.append(threading.Thread(target=send))
        self._late[-1].start()

    def wait_for_another(self) -> None:
        """Wait until another request has been forwarded, at most half of what the client waits."""
        with self._forwarded:
            before = self._count
            self._forwarded.wait_for(lambda: self._count > before, timeout=TIME_LIMIT_S / 2)

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
                request = self.command, self.path, headers, body
                fault = proxy.draw(urlsplit(self.path).path)
                if fault == "lost request":
                    return self.reset()
                if fault == "late request":
                    proxy.forward_late(*request)
                    time.sleep(TIME_LIMIT_S)
                    return self.reset()
                if fault == "reordered":
                    proxy.wait_for_another()
                try:
                    for _ in range(2 if fault == "repeated" else 1):
                        status, answered, content = proxy.forward(*request)
                except OSError:  # the server is gone
                    return self.reset()
                if fault == "lost answer":
                    return self.reset()
                if fault == "late answer":
                    time.sleep(LATE_S)
                return self.answer(status, answered, content)

            def answer(self, status: int, headers: list, content: bytes) -> None:
                try:
                    self.send_response(status)
                    for name, value in headers:
                        if name.lower() not in HOP:
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # the client has given it up
                    self.close_connection = True

            def reset(self) -> None:
                """Break the connection off, as a network does."""
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True

            def log_message(self, *words) -> None:
                pass

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

        return Handler


HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "accept-encoding"}

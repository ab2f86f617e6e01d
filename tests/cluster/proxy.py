"""A proxy before a server, of MLflow or of an object store, that loses, delays, repeats and reorders requests."""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

MLFLOW_PATH = "/api/2.0/mlflow/"  # requests for health and artifacts pass undisturbed
CLIENT_TIMEOUT_S = 2.0
FAULT_DELAY_S = 3.0


class Proxy:
    """A proxy that forwards requests and makes one of FAULTS in a share of them; `counts` has the number of each.

    After `late request` the request is forwarded, and after `late answer` the response is sent, when the client no
    longer waits. A request that is `reordered` waits until another one has been forwarded.
    """

    FAULTS = ("lost request", "lost answer", "late request", "late answer", "repeated", "reordered")

    def __init__(
        self, server: str, share: float, seed: str, port: int = 5002, disturbed_path: str = MLFLOW_PATH
    ) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.share = share
        self.counts: Counter[str] = Counter()
        self._disturbed_path = disturbed_path
        self._target = urlsplit(server)
        self._generator = random.Random(seed)
        self._lock = threading.Lock()
        self._late_threads: list[threading.Thread] = []
        self._forwarded = threading.Condition()
        self._count = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._make_handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda request, address: None  # a client may reset its connection
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop the proxy, after all late requests have arrived."""
        self.settle()
        self._server.shutdown()
        self._server.server_close()

    def settle(self) -> None:
        """Wait until all late requests have arrived."""
        for thread in self._late_threads:
            thread.join()

    def draw_fault(self, path: str) -> str | None:
        """Draw the fault of a request, or None, and count it."""
        with self._lock:
            fault = self._generator.choice(self.FAULTS) if self._generator.random() < self.share else None
        if not path.startswith(self._disturbed_path):
            return None
        with self._lock:
            self.counts[fault or "passed"] += 1
            if fault and path.endswith("/create"):
                self.counts[f"{fault}, of a create request"] += 1
        return fault

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list, bytes]:
        """Send a request to the server, and return the status, headers and body of the response."""
        connection = http.client.HTTPConnection(self._target.hostname, self._target.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()
            with self._forwarded:
                self._count += 1
                self._forwarded.notify_all()

    def forward_late(self, *request) -> None:
        """Send a request later, when its client no longer waits."""

        def send() -> None:
            time.sleep(FAULT_DELAY_S)
            self.forward(*request)

        self._late_threads.append(threading.Thread(target=send))
        self._late_threads[-1].start()

    def wait_for_another(self) -> None:
        """Wait until another request has been forwarded, for at most half of the client's timeout."""
        with self._forwarded:
            count_before = self._count
            self._forwarded.wait_for(lambda: self._count > count_before, timeout=CLIENT_TIMEOUT_S / 2)

    def _make_handler(proxy) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {
                    name: value for name, value in self.headers.items() if name.lower() not in CONNECTION_HEADERS
                }
                request = self.command, self.path, headers, body
                fault = proxy.draw_fault(urlsplit(self.path).path)
                if fault == "lost request":
                    return self.reset()
                if fault == "late request":
                    proxy.forward_late(*request)
                    time.sleep(CLIENT_TIMEOUT_S)
                    return self.reset()
                if fault == "reordered":
                    proxy.wait_for_another()
                try:
                    for _ in range(2 if fault == "repeated" else 1):
                        status, response_headers, content = proxy.forward(*request)
                except OSError:  # the server is gone
                    return self.reset()
                if fault == "lost answer":
                    return self.reset()
                if fault == "late answer":
                    time.sleep(FAULT_DELAY_S)
                return self.respond(status, response_headers, content)

            def respond(self, status: int, headers: list, content: bytes) -> None:
                try:
                    self.send_response(status)
                    for name, value in headers:
                        if name.lower() not in CONNECTION_HEADERS:
                            self.send_header(name, value)
                    sizes = [value for name, value in headers if name.lower() == "content-length"]
                    size = sizes[0] if self.command == "HEAD" and sizes else str(len(content))
                    self.send_header("Content-Length", size)
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # the client no longer waits
                    self.close_connection = True

            def reset(self) -> None:
                """Reset the connection, as a broken network does."""
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True

            def log_message(self, *words) -> None:
                pass

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

        return Handler


CONNECTION_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "accept-encoding"}

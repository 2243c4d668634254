"""An HTTP server in a thread whose answers a function makes: for a control plane under test to ask."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: str
    authorization: str
    body: bytes


Answer = Callable[[Asked], tuple[int, bytes]]
"""Status and body."""


@contextlib.contextmanager
def http_stub(answer: Answer) -> Iterator[int]:
    """The port of a server on loopback that listens until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            url, authorization = urlsplit(self.path), self.headers.get("authorization", "")
            status, text = answer(Asked(str(self.command), url.path, url.query, authorization, body))
            self.send_response(status)
            if text.startswith(b"<"):
                self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            return

    for method in ("GET", "POST"):
        setattr(Handler, f"do_{method}", Handler.serve)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()

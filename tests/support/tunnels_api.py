"""The Tunnels API and the token exchange, small but real: HTTP over a socket, state in memory, faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from qanat.ids import make_id
from qanat.pki.judge import judge_ca
from qanat.pki.material import CertificateRefused, expiry, fingerprint

API_KEY = "sk-ant-oat01-a-tunnels-api-key"
AUDIENCE = "https://api.example.com"
RULE, ORGANIZATION = "fdrl_01rule", "2d5f1c9e-0000-4000-8000-000000000001"


class Refusal(Exception):
    def __init__(self, status: int, kind: str, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        error: dict[str, Any] = {"type": kind, "message": message}
        if code:
            error["details"] = {"error_code": code}
        self.body = {"type": "error", "error": error, "request_id": "req_01test"}


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """`create`, `get`, `list`, `register`, `certificates`, `reveal`, `rotate`, `archive` or `exchange`."""
        last = self.path.rpartition("/")[2]
        if last == "token":
            return "exchange"
        if last == "tunnels":
            return "create" if self.method == "POST" else "list"
        if last == "certificates":
            return "register" if self.method == "POST" else "certificates"
        return {"reveal_token": "reveal", "rotate_token": "rotate", "archive": "archive"}.get(last, "get")


@dataclass
class TunnelsAPI:
    """The server's state and what was asked of it."""

    url: str = ""
    tunnels: dict[str, dict[str, Any]] = field(default_factory=dict)
    certificates: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=lambda: {API_KEY})
    requests: list[Request] = field(default_factory=list)
    limit: int = 10
    before: Callable[[Request], None] = lambda request: None
    """Called before a request is carried out; may raise `Refusal`."""
    after: Callable[[Request], bool] = lambda request: True
    """Called after it was carried out; False drops the connection instead of answering."""

    def count(self) -> Counter[str]:
        """How often each call was made."""
        return Counter(request.name for request in self.requests)

    def live(self, tunnel_id: str) -> list[dict[str, Any]]:
        return [record for record in self.certificates[tunnel_id] if record["archived_at"] is None]

    def add_tunnel(self, name: str | None = None) -> str:
        identity = make_id("tnl", secrets.token_bytes(16))
        label = "t" + secrets.token_hex(4)[:7]
        domain = f"{label}.tunnel.example.net"
        self.tunnels[identity] = {
            "id": identity,
            "type": "tunnel",
            "display_name": name,
            "domain": domain,
            "created_at": _now(),
            "archived_at": None,
        }
        self.certificates[identity] = []
        self.rotate(identity)
        return identity

    def rotate(self, identity: str) -> str:
        fields = {"a": "0" * 32, "t": str(uuid4()), "s": base64.b64encode(secrets.token_bytes(32)).decode()}
        self.tokens[identity] = base64.b64encode(json.dumps(fields).encode()).decode()
        return self.tokens[identity]

    def handle(self, request: Request) -> dict[str, Any]:
        if request.path == "/v1/oauth/token":
            return self._exchange(request)
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.keys:
            raise Refusal(401, "authentication_error", "invalid bearer token")
        if request.headers.get("anthropic-version") != "2023-06-01":
            raise Refusal(400, "invalid_request_error", "anthropic-version: header is required")
        if "mcp-tunnels-2026-06-22" not in request.headers.get("anthropic-beta", ""):
            raise Refusal(400, "invalid_request_error", "anthropic-beta: mcp-tunnels-2026-06-22 is required")
        return self._tunnels(request)

    def _exchange(self, request: Request) -> dict[str, Any]:
        body = request.body
        if body.get("federation_rule_id") != RULE or body.get("organization_id") != ORGANIZATION:
            raise Refusal(401, "authentication_error", "Authentication failed")
        if body.get("assertion") != f"jwt for {AUDIENCE}":
            raise Refusal(401, "authentication_error", "Authentication failed")
        token = "sk-ant-oat01-" + secrets.token_urlsafe(32)
        self.keys.add(token)
        return {"access_token": token, "token_type": "Bearer", "expires_in": 600, "scope": "workspace:manage_tunnels"}

    def _tunnels(self, request: Request) -> dict[str, Any]:
        if request.path == "/v1/tunnels":
            return self._create(request.body) if request.method == "POST" else self._list_tunnels()
        match = re.fullmatch(r"/v1/tunnels/(tnl_\w+)(?:/(\w+))?", request.path)
        if match is None or match[1] not in self.tunnels:
            raise Refusal(404, "not_found_error", "tunnel not found")
        tunnel = self.tunnels[match[1]]
        if match[2] is None:
            return tunnel
        return self._on_tunnel(tunnel, match[2], request)

    def _on_tunnel(self, tunnel: dict[str, Any], verb: str, request: Request) -> dict[str, Any]:
        identity = tunnel["id"]
        if verb == "certificates" and request.method == "GET":
            with_archived = request.query.get("include_archived") == ["true"]
            return _page(self.certificates[identity] if with_archived else self.live(identity))
        if verb == "archive":
            tunnel["archived_at"] = tunnel["archived_at"] or _now()
            return tunnel
        if tunnel["archived_at"]:
            raise Refusal(400, "invalid_request_error", "tunnel is archived", "tunnel_archived")
        if verb == "certificates":
            return self._register(identity, request.body)
        token = self.rotate(identity) if verb == "rotate_token" else self.tokens[identity]
        return {"id": _token_id(token), "type": "tunnel_token", "tunnel_token": token}

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        if sum(1 for tunnel in self.tunnels.values() if not tunnel["archived_at"]) >= self.limit:
            text = f"Organization already has the maximum of {self.limit} non-archived Tunnels"
            raise Refusal(400, "invalid_request_error", text, "tunnel_limit_exceeded")
        return self.tunnels[self.add_tunnel(body.get("display_name"))]

    def _list_tunnels(self) -> dict[str, Any]:
        return _page([tunnel for tunnel in self.tunnels.values() if not tunnel["archived_at"]])

    def _register(self, identity: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            certificate = judge_ca(body.get("ca_certificate_pem"), datetime.now(UTC))
        except CertificateRefused as refusal:
            raise Refusal(400, "invalid_request_error", str(refusal)) from None
        digest, end = fingerprint(certificate), expiry(certificate)
        if any(record["fingerprint"] == digest for record in self.live(identity)):
            raise Refusal(409, "conflict_error", "certificate is already registered")
        if len(self.live(identity)) >= 2:
            text = "tunnel already has 2 certificates"
            raise Refusal(400, "invalid_request_error", text, "tunnel_certificate_limit_exceeded")
        record = {
            "id": make_id("tcrt", secrets.token_bytes(16)),
            "type": "tunnel_certificate",
            "tunnel_id": identity,
            "fingerprint": digest,
            "created_at": _now(),
            "archived_at": None,
            "expires_at": end.isoformat() if end else None,
        }
        self.certificates[identity].append(record)
        return record


def _token_id(token: str) -> str:
    return "ttkn_" + hashlib.sha256(token.encode()).hexdigest()


def _page(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"data": items[::-1], "next_page": None}


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class JSONHandler(BaseHTTPRequestHandler):
    """Reads a request with a JSON body, writes a JSON answer; what they mean is `answer`'s business."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet

    def answer(self, request: Request) -> tuple[int, dict[str, Any]] | None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, parts.path, parse_qs(parts.query), headers, json.loads(raw) if raw else {})
        answered = self.answer(request)
        if answered is None:
            self.close_connection = True
            return
        status, body = answered
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.send_header("request-id", "req_01test")
        self.end_headers()
        self.wfile.write(payload)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away is part of the tests


@contextmanager
def serving(handler: type[JSONHandler], tls: ssl.SSLContext | None = None) -> Iterator[ThreadingHTTPServer]:
    """A server on a loopback port, in a thread, until the context ends."""
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def tunnels_api() -> Iterator[TunnelsAPI]:
    """A running API."""
    api, lock = TunnelsAPI(), threading.Lock()

    class Handler(JSONHandler):
        def answer(self, request: Request) -> tuple[int, dict[str, Any]] | None:
            with lock:
                api.requests.append(request)
                try:
                    api.before(request)
                    body = api.handle(request)
                except Refusal as refusal:
                    return refusal.status, refusal.body
                return (200, body) if api.after(request) else None

    with serving(Handler) as server:
        api.url = f"http://127.0.0.1:{server.server_port}"
        yield api

"""The frame around every answer: request id, error envelope, body limit, one access line in the log.

Pure ASGI, outside the framework, so that nothing (a wrong path, a bug, a broken body) escapes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qanat.clock import Clock
from qanat.control.errors import Invalid, NotFound, Refused, TooLarge
from qanat.control.metrics import Metrics
from qanat.logger import get_logger

MAX_BODY = 64 * 1024
MAX_TOKEN_BODY = 128 * 1024
"""The token exchange takes an assertion of 16 KiB, which a form may carry percent-encoded."""
MAX_INTERNAL_BODY = 4 * 1024 * 1024
Networks = tuple[IPv4Network | IPv6Network, ...]
log = get_logger("qanat.control")


class Envelope:
    """Wraps the application. Puts `request_id` and `client_address` into `scope["state"]`."""

    def __init__(
        self, app: ASGIApp, make_request_id: Callable[[], str], clock: Clock, trusted: Networks, metrics: Metrics
    ) -> None:
        self._app, self._make_request_id, self._clock = app, make_request_id, clock
        self._trusted, self._metrics = trusted, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._make_request_id())
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = exchange.request_id
        state["headers"] = exchange.extra_headers
        state["client_address"] = client_address(scope, self._trusted)
        started = self._clock.monotonic()
        try:
            check_target(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            if not isinstance(error, Refused):
                log.exception("request failed", request_id=exchange.request_id, path=scope["path"])
            if not exchange.started:
                await exchange.send_error(error)
            elif not exchange.finished:
                raise  # half an answer is out: only breaking the connection can tell the client
        seconds = self._clock.monotonic() - started
        self._metrics.observe(getattr(scope.get("endpoint"), "__name__", "none"), exchange.status, seconds)
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=exchange.status,
            ms=round(seconds * 1000, 1),
            request_id=exchange.request_id,
            address=state["client_address"],
            actor=state.get("actor_id"),
        )


class _Exchange:
    """One request and its answer: counts the body, adds headers, remembers whether the answer began."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self._receive, self._send = receive, send
        self.request_id = request_id
        self.extra_headers: dict[str, str] = {}
        self.started = self.finished = False
        self.status = 0
        self._body_left = self._limit = body_limit(scope["path"])

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._body_left -= len(message.get("body", b""))
            if self._body_left < 0:
                raise TooLarge(self._limit)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            headers["request-id"] = self.request_id
            for name, value in self.extra_headers.items():
                headers[name] = value
        await self._send(message)
        self.finished = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def send_error(self, error: Exception) -> None:
        status, headers, body = error_answer(error, self.request_id)
        if isinstance(error, TooLarge):
            headers["connection"] = "close"
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


def check_target(scope: Scope) -> None:
    """Raises `NotFound` or `Invalid` for the one character that PostgreSQL takes in no text."""
    if "\0" in scope["path"]:
        raise NotFound("path")
    if b"%00" in scope["query_string"]:
        raise Invalid("", "query must not hold a NUL character")


def body_limit(path: str) -> int:
    if path.startswith("/internal/"):
        return MAX_INTERNAL_BODY
    return MAX_TOKEN_BODY if path == "/v1/oauth/token" else MAX_BODY


def error_answer(error: Exception, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for an error. What is no `Refused` is a bug, and tells nothing of itself."""
    headers = {"content-type": "application/json; charset=utf-8"}
    refused = as_refused(error)
    if refused is None:
        status, detail = 500, {"type": "api_error", "message": "internal error"}
        if isinstance(error, HTTPException):
            status, detail = error.status_code, {"type": "invalid_request_error", "message": str(error.detail).lower()}
            headers.update({name.lower(): value for name, value in (error.headers or {}).items()})
    else:
        status, detail = refused.status, {"type": refused.type, "message": str(refused)}
        _refusal_headers(refused, headers)
    answer: dict[str, Any] = {"type": "error", "error": detail, "request_id": request_id}
    if refused is not None and refused.show_code:
        answer["error"]["details"] = {"error_code": refused.code}
    return status, headers, json.dumps(answer).encode()


def _refusal_headers(refused: Refused, headers: dict[str, str]) -> None:
    retry_after = getattr(refused, "retry_after", None)
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    if refused.should_retry is not None:
        headers["x-should-retry"] = str(refused.should_retry).lower()


def as_refused(error: Exception) -> Refused | None:
    """The framework's own errors in our terms."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, RequestValidationError):
        problem = error.errors()[0]
        return Invalid(str(problem["loc"][-1]), str(problem["msg"]).removeprefix("Value error, ").lower())
    if isinstance(error, HTTPException) and error.status_code == 404:
        return NotFound("path")
    return None


def client_address(scope: Scope, trusted: Networks) -> str:
    """The peer's address, or what a trusted proxy in front of us says it is."""
    client = scope.get("client")
    address = str(client[0]) if client else ""
    forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    for hop in reversed([part.strip() for part in ",".join(forwarded).split(",") if part.strip()]):
        if not _within(address, trusted) or not _is_address(hop):
            break
        address = hop
    return address


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _within(address: str, networks: Networks) -> bool:
    return _is_address(address) and any(ip_address(address) in network for network in networks)

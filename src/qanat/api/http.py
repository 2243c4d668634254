"""One JSON call to an API: bounded, retried only where repeating is harmless, its refusals turned into errors.

Creating and rotating are tried once: an answer that got lost leaves `APIUnreachable(sent=True)`, and only the caller
knows how to find out what became of the request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import httpx2

from qanat import __version__
from qanat.errors import ConfigInvalid, QanatError

ATTEMPTS = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
LONGEST_RETRY_AFTER = 60.0
MAX_BODY = 1024 * 1024
CALL_TIMEOUT = timedelta(seconds=30)
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)


@dataclass(eq=False)
class APIRefused(QanatError):
    """The API answered with an error. `error_code` is stable, `message` is for people."""

    code = "api_refused"
    http_status: int
    error_type: str
    error_code: str | None
    message: str
    request_id: str | None

    def __str__(self) -> str:
        tail = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.message} [{self.http_status} {self.error_type}]{tail}"


@dataclass(eq=False)
class APIUnreachable(QanatError):
    """No usable answer. With `sent`, the request may have been carried out all the same."""

    code = "api_unreachable"
    retryable = True
    reason: str
    sent: bool

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Call:
    """One request; `idempotent` says that repeating it is harmless."""

    method: Literal["GET", "POST"]
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str | int] | None = None
    idempotent: bool = False


def check_base_url(text: str) -> str:
    """`text` without its last slash. `https` only, but `http` to a loopback host; no path. Raises `ConfigInvalid`."""
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        raise ConfigInvalid([f"api-url: not a URL: {text!r}"]) from None
    if url.scheme not in ("https", "http") or not url.host:
        raise ConfigInvalid(["api-url: must look like https://host"])
    if url.userinfo or url.query or url.fragment or url.path not in ("", "/"):
        raise ConfigInvalid(["api-url: only scheme, host and port belong here"])
    if url.scheme == "http" and not is_loopback(url.host):
        raise ConfigInvalid(["api-url: must be https:// (http:// is for a loopback host only)"])
    return text.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether `host` is `localhost` or a loopback address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class JSONClient:
    """Calls one API. Use as an async context manager.

    `trust`: a file with the CA certificates to believe instead of the system's.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        trust: Path | None = None,
        timeout: timedelta = CALL_TIMEOUT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.base_url = check_base_url(base_url)
        self._sleep = sleep
        self._http = httpx2.AsyncClient(
            base_url=self.base_url,
            headers={"user-agent": f"qanat/{__version__}", "accept": "application/json", **headers},
            verify=_tls(self.base_url, trust),
            timeout=timeout.total_seconds(),
            follow_redirects=False,
            trust_env=not is_loopback(httpx2.URL(self.base_url).host),
        )

    async def __aenter__(self) -> JSONClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(self, call: Call) -> dict[str, Any]:
        """The JSON object that answers. Raises `APIRefused` or `APIUnreachable`."""
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1 or not call.idempotent
            try:
                response = await self._send(call)
            except APIUnreachable:
                if last:
                    raise
                await self._sleep(pause(attempt, None))
                continue
            if response.status_code == 200:
                return _object(response)
            if last or not _worth_repeating(response.status_code):
                raise refusal(response)
            await self._sleep(pause(attempt, response.headers.get("retry-after")))
        raise AssertionError("the last attempt returns or raises")

    async def _send(self, call: Call) -> httpx2.Response:
        request = self._http.build_request(call.method, call.path, params=call.query, json=call.body)
        try:
            response = await self._http.send(request, stream=True)
            try:
                return await _bounded(response)
            finally:
                await response.aclose()
        except _NOT_SENT as error:
            raise APIUnreachable(f"cannot reach {self.base_url}: {_reason(error)}", sent=False) from error
        except httpx2.TransportError as error:
            raise APIUnreachable(f"no answer from {self.base_url}: {_reason(error)}", sent=True) from error


async def _bounded(response: httpx2.Response) -> httpx2.Response:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BODY:
            raise APIUnreachable("the answer is larger than 1 MiB", sent=True)
    return httpx2.Response(response.status_code, headers=_plain(response.headers), content=bytes(body))


def _plain(headers: httpx2.Headers) -> dict[str, str]:
    # The body is decoded by now: its old length and coding no longer describe it.
    return {name: value for name, value in headers.items() if name not in ("content-length", "content-encoding")}


def _worth_repeating(status: int) -> bool:
    return status == 429 or status >= 500


def pause(attempt: int, retry_after: str | None) -> float:
    """Seconds to wait after attempt number `attempt` (from 0): doubling with jitter, or what the server asks for."""
    if retry_after is not None and retry_after.isdecimal():
        return min(float(retry_after), LONGEST_RETRY_AFTER)
    ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**attempt)
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret


def _object(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise APIUnreachable("the answer is not a JSON object; is this the API's address?", sent=True)
    return body


def refusal(response: httpx2.Response) -> QanatError:
    """The error an answer other than 200 stands for."""
    status = response.status_code
    if 300 <= status < 400:
        return APIUnreachable(f"the server answered with a redirect ({status}), which is refused", sent=True)
    try:
        error = json.loads(response.content)["error"]
        details = error.get("details") or {}
        fields = (str(error["type"]), details.get("error_code"), str(error["message"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        fields = ("unknown", None, f"HTTP {status} without an explanation")
    return APIRefused(status, *fields, response.headers.get("request-id"))


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "timed out"
    return str(error) or type(error).__name__


def _tls(base_url: str, trust: Path | None) -> ssl.SSLContext:
    if base_url.startswith("http://"):  # loopback: nothing to verify, so spare loading the system's roots
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context = ssl.create_default_context(cafile=trust)
    except (OSError, ssl.SSLError) as error:
        raise ConfigInvalid([f"ca-file: {trust}: {error.strerror or error}"]) from error
    return context

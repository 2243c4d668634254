"""A route's whole policy as one filter, in this order: sign-in, rate, body, credentials; the audit line at the end."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

from qanat.errors import QanatError
from qanat.net.http1_fields import Header, Headers, values
from qanat.proxy.errors import ProxyError, Reply
from qanat.proxy.filters import BodyTooLarge, FilteredRequest, RequestOutcome, ResponseFilter
from qanat.proxy.policy.audit import arguments_hash
from qanat.proxy.policy.auditfile import AuditFile
from qanat.proxy.policy.auth import RouteAuth, Times, named_among
from qanat.proxy.policy.config import PolicyConfig
from qanat.proxy.policy.credentials import HeaderInjector
from qanat.proxy.policy.inspect import STATELESS_ERA, BodyRefused, RPCMessage, check_headers, read_messages
from qanat.proxy.policy.ratelimit import RateLimiter
from qanat.proxy.policy.token import Caller, ScopeMissing, check_scopes
from qanat.proxy.policy.tools import EventStreamFilter, ToolPolicy


class UpstreamAuthFailed(ProxyError):
    """The upstream refused the credential that the proxy puts in: a new sign-in of the caller's cannot mend that."""

    code, status, message = "upstream_auth", 502, "Upstream refused the proxy's credential"
    log_level, log_phrase = "error", "upstream refused the injected credential"


class PolicyUnavailable(ProxyError):
    """Something the policy needs is not there, so nothing is let through."""

    code, status, message = "policy_unavailable", 503, "Not available for now"
    log_level, log_phrase, retry_after = "error", "policy unavailable", 5


class RoutePolicy:
    """Implements the proxy's `RouteFilter` for one route."""

    def __init__(
        self,
        config: PolicyConfig,
        times: Times,
        auth: RouteAuth | None,
        audit: AuditFile | None,
        max_body: int,
        count: Callable[[str], None],
    ) -> None:
        self._config, self._times, self._auth, self._audit, self._max_body = config, times, auth, audit, max_body
        self._count = count
        self._tools = config.tool_policy
        self._injector = HeaderInjector(config.headers)
        self._limiter = RateLimiter(config.rate_limit.limit) if config.rate_limit else None

    @property
    def own_paths(self) -> Collection[str]:
        """See `RouteFilter`."""
        return () if self._auth is None else self._auth.own_paths

    async def admit(self, request: FilteredRequest) -> Reply | None:
        """See `RouteFilter`."""
        try:
            return await self._judge(request)
        except BodyRefused as refused:
            request.notes["decision"] = "denied"
            return _rpc_reply(refused)
        except ScopeMissing as missing:
            assert self._auth is not None
            request.notes["decision"] = "denied"
            return self._auth.scope_challenge(missing)
        except (ProxyError, BodyTooLarge):
            raise
        except QanatError as error:  # keys, credentials or the audit log are out of reach
            raise PolicyUnavailable(str(error)) from error

    async def _judge(self, request: FilteredRequest) -> Reply | None:
        if self._audit is not None and self._config.audit is not None and self._config.audit.required:
            self._audit.check()
        if self._auth is not None:
            if (reply := await self._auth.answer_itself(request)) is not None:
                return reply
            caller = await self._auth.sign_in(request)
            if isinstance(caller, Reply):
                request.notes["decision"] = "denied"
                return caller
            request.notes["caller"] = caller
            request.expires_at = caller.expires_at + self._auth.policy.leeway
        if (reply := self._check_rate(request)) is not None:
            return reply
        if self._config.reads_bodies:
            await self._read(request)
        self._rewrite_headers(request)
        request.notes["decision"] = "allowed"
        return None

    def filter_response(self, request: FilteredRequest, status: int, headers: Headers) -> ResponseFilter | None:
        """See `RouteFilter`. Raises `UpstreamAuthFailed`."""
        if status == 401 and b"authorization" in (name.encode() for name in self._injector.touched):
            raise UpstreamAuthFailed
        caller = request.notes.get("caller")
        if self._auth is not None and isinstance(caller, Caller):
            for session in values(headers, b"mcp-session-id"):
                self._auth.bind_session(session, caller)
        if self._tools is None or not 200 <= status < 300:
            return None
        if values(headers, b"content-encoding") not in ([], [b"identity"]):
            raise PolicyUnavailable("the upstream compressed an answer that has to be read")
        content_type = b"".join(values(headers, b"content-type")[:1]).lower()
        if content_type.startswith(b"text/event-stream"):
            return _StreamFilter(self._tools)
        return _DocumentFilter(self._tools, self._max_body) if content_type.startswith(b"application/json") else None

    def finished(self, request: FilteredRequest, outcome: RequestOutcome) -> None:
        """See `RouteFilter`."""
        self._count(str(request.notes.get("decision", "refused")))
        if self._audit is None:
            return
        messages = request.notes.get("messages")
        for message in messages if isinstance(messages, list) and messages else [None]:
            self._audit.append(self._entry(request, outcome, message))

    def _check_rate(self, request: FilteredRequest) -> Reply | None:
        limit = self._config.rate_limit
        if self._limiter is None or limit is None:
            return None
        wait = self._limiter.take(self._rate_key(request, limit.key), self._times.monotonic())
        if wait is None:
            return None
        request.notes["decision"] = "rate_limited"
        return _error_reply(429, -32603, "Too many requests", "rate_limited", (b"Retry-After", b"%d" % (wait + 1)))

    def _rate_key(self, request: FilteredRequest, kind: str) -> str:
        caller = request.notes.get("caller")
        if kind == "subject" and isinstance(caller, Caller):
            return f"subject {caller.subject}"
        if kind == "session":
            return "session " + b"".join(values(request.headers, b"mcp-session-id")[:1]).decode("latin-1")
        return "route"

    async def _read(self, request: FilteredRequest) -> None:
        if values(request.headers, b"content-encoding") not in ([], [b"identity"]):
            raise BodyRefused("Content-Encoding is not allowed here", http_status=415)
        try:
            body = await request.read_body(self._max_body)
        except BodyTooLarge:
            raise BodyRefused("Request body too large", http_status=413) from None
        if request.method != b"POST":
            if body:  # an upstream may take `post`, or PUT with an override header, for POST
                raise BodyRefused("only POST may have a body here")
            return
        messages = read_messages(body)
        request.notes["messages"] = messages
        methods = _texts(request.headers, b"mcp-method")
        names = _texts(request.headers, b"mcp-name")
        for message in messages:
            check_headers(message, methods, names)
        version = next(iter(_texts(request.headers, b"mcp-protocol-version")), None)
        if self._tools is not None:
            self._tools.check(messages, version)
        caller = request.notes.get("caller")
        if self._auth is not None and isinstance(caller, Caller):
            tools = [message.name for message in messages if message.method == "tools/call" and message.name]
            check_scopes(caller, self._auth.policy, tools)

    def _rewrite_headers(self, request: FilteredRequest) -> None:
        headers = request.headers
        caller = request.notes.get("caller")
        if self._auth is not None and isinstance(caller, Caller):
            self._auth.rewrite_headers(headers, caller)
        if self._tools is not None:
            headers[:] = [header for header in headers if header[0].lower() != b"accept-encoding"]
        touched = {name.encode("ascii") for name in self._injector.touched}
        if touched:
            headers[:] = [header for header in headers if not named_among(header, touched)]
            headers.extend((name.encode("ascii"), value.encode("ascii")) for name, value in self._injector.values())

    def _entry(self, request: FilteredRequest, outcome: RequestOutcome, message: RPCMessage | None) -> dict[str, Any]:
        assert self._audit is not None
        assert self._config.audit is not None
        include, key = self._config.audit.include, self._audit.hash_key
        versions = _texts(request.headers, b"mcp-protocol-version")
        entry: dict[str, Any] = {
            "time": _rfc3339(self._times.wall()),
            "request_id": request.request_id,
            "route": request.route,
            "era": "stateless" if versions and versions[0] >= STATELESS_ERA else "handshake",
            "http_method": request.method.decode("ascii", "replace"),
            "decision": request.notes.get("decision", "refused"),
            "status": outcome.status,
            "duration_ms": round(outcome.duration * 1000, 3),
        }
        if sessions := values(request.headers, b"mcp-session-id"):
            entry["session"] = hmac.digest(key, sessions[0], "sha256").hex()[:12]
        if message is not None:
            entry["method"] = message.method
            if "tool" in include and message.method == "tools/call":
                entry["tool"] = message.name
            if "arguments_hash" in include and message.arguments is not None:
                entry["arguments_hash"] = arguments_hash(key, message.arguments)
        caller = request.notes.get("caller")
        if "subject" in include and isinstance(caller, Caller):
            entry["subject"], entry["client_id"] = caller.subject, caller.client_id
        return entry


class _StreamFilter:
    def __init__(self, policy: ToolPolicy) -> None:
        self._filter = EventStreamFilter(policy)

    def receive(self, data: bytes) -> bytes:
        return self._filter.feed(data)

    def end(self) -> bytes:
        return self._filter.finish()


class _DocumentFilter:
    """Holds a JSON answer until it is whole."""

    def __init__(self, policy: ToolPolicy, max_body: int) -> None:
        self._policy, self._max_body, self._body = policy, max_body, bytearray()

    def receive(self, data: bytes) -> bytes:
        self._body += data
        if len(self._body) > self._max_body:
            raise BodyRefused("answer too large to inspect", http_status=502)
        return b""

    def end(self) -> bytes:
        return self._policy.filter_document(bytes(self._body)) if self._body else b""


def _texts(headers: list[Header], name: bytes) -> list[str]:
    return [value.decode("latin-1") for value in values(headers, name)]


def _rpc_reply(refused: BodyRefused) -> Reply:
    return _error_reply(refused.http_status, refused.rpc_code, refused.reason, refused.code, rpc_id=refused.rpc_id)


def _error_reply(
    status: int, code: int, message: str, error_type: str, *headers: Header, rpc_id: str | int | None = None
) -> Reply:
    error = {"code": code, "message": message, "data": {"type": error_type}}
    body = json.dumps({"jsonrpc": "2.0", "id": rpc_id, "error": error}, separators=(",", ":")).encode()
    fixed: tuple[Header, ...] = (
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"Server", b"mcp-proxy"),
    )
    return Reply(status, (*fixed, *headers), body, error_type)


def _rfc3339(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

"""Which header lists HTTP/2 allows (RFC 9113 8.2 and 8.3).

A list that breaks the rules is malformed: the stream is reset, the connection lives on.
"""

from __future__ import annotations

import re

from qanat.wire.http2.events import Headers

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(r"[^\x00\r\n]*")
_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUS = re.compile(r"[1-9][0-9]{2}")
_PATH = re.compile(r"(?:/[^\x00-\x20\x7f#]*|\*)")
_AUTHORITY = re.compile(r"[^\x00-\x20\x7f/?#@\\]*")
_CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
_REQUEST_PSEUDO = frozenset({":method", ":scheme", ":path", ":authority", ":protocol"})
_RESPONSE_PSEUDO = frozenset({":status"})
_NO_PSEUDO: frozenset[str] = frozenset()


class Malformed(Exception):
    """The header list breaks the rules; the text says how. Never leaves the codec."""


def check_request(headers: Headers, extended_connect: bool) -> int | None:
    """Check a request's head; returns its `content-length`, if any. Raises `Malformed`."""
    pseudo = _check_fields(headers, _REQUEST_PSEUDO)
    method = pseudo.get(":method")
    if method is None or not _METHOD.fullmatch(method):
        raise Malformed("no valid :method")
    _check_target(pseudo, method, extended_connect)
    authority = pseudo.get(":authority")
    hosts = {value.lower() for name, value in headers if name == "host"}
    if len(hosts) > 1 or (authority is not None and hosts - {authority.lower()}):
        raise Malformed("host differs from :authority")
    if not _AUTHORITY.fullmatch(authority or "") or not all(map(_AUTHORITY.fullmatch, hosts)):
        raise Malformed("no valid :authority")
    return _content_length(headers)


def _check_target(pseudo: dict[str, str], method: str, extended_connect: bool) -> None:
    protocol = pseudo.get(":protocol")
    if protocol is not None and not (extended_connect and method == "CONNECT"):
        raise Malformed(":protocol is not enabled")
    if method == "CONNECT" and protocol is None:
        if ":scheme" in pseudo or ":path" in pseudo or not pseudo.get(":authority"):
            raise Malformed("CONNECT takes only :authority")
    elif not pseudo.get(":scheme") or not _PATH.fullmatch(pseudo.get(":path", "")):
        raise Malformed("no valid :scheme or :path")
    elif pseudo[":path"] == "*" and method != "OPTIONS":
        raise Malformed("the path * is for OPTIONS only")


def join_cookies(headers: Headers) -> Headers:
    """A request's fields with its cookie crumbs, which HTTP/2 may send apart, in one field (RFC 9113 8.2.3)."""
    crumbs = [value for name, value in headers if name == "cookie"]
    if len(crumbs) < 2:
        return headers
    return (*(field for field in headers if field[0] != "cookie"), ("cookie", "; ".join(crumbs)))


def check_response(headers: Headers) -> tuple[int, int | None]:
    """Check a response's head; returns its status and `content-length`. Raises `Malformed`."""
    status = _check_fields(headers, _RESPONSE_PSEUDO).get(":status", "")
    if not _STATUS.fullmatch(status) or status == "101":
        raise Malformed("no valid :status")
    return int(status), _content_length(headers)


def check_trailers(headers: Headers) -> None:
    """Check trailers. Raises `Malformed`."""
    _check_fields(headers, _NO_PSEUDO)


def _check_fields(headers: Headers, allowed: frozenset[str]) -> dict[str, str]:
    """Check every name and value; returns the pseudo-headers."""
    pseudo: dict[str, str] = {}
    regular = False
    for name, value in headers:
        if not _VALUE.fullmatch(value) or value[:1] in (" ", "\t") or value[-1:] in (" ", "\t"):
            raise Malformed("invalid header value")
        if name.startswith(":"):
            if regular or name in pseudo or name not in allowed:
                raise Malformed("misplaced pseudo-header")
            pseudo[name] = value
            continue
        regular = True
        if not _NAME.fullmatch(name) or name in _HOP_BY_HOP:
            raise Malformed("invalid header name")
        if name == "te" and value.lower() != "trailers":
            raise Malformed("te other than trailers")
    return pseudo


def _content_length(headers: Headers) -> int | None:
    values = {value for name, value in headers if name == "content-length"}
    if not values:
        return None
    if len(values) > 1 or not _CONTENT_LENGTH.fullmatch(value := values.pop()):
        raise Malformed("invalid content-length")
    return int(value)

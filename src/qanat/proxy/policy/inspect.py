"""Reads the JSON-RPC messages of a POST body, strictly, for routes with a policy on them.

Two parsers that disagree about a body are a way around a policy. So whatever is ambiguous is refused: duplicate keys,
invalid UTF-8, deep nesting, numbers JSON does not have. The bytes forwarded afterwards are the ones that were read.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from qanat.errors import ProtocolError

MAX_DEPTH = 64
STATELESS_ERA = "2026-07-28"
"""From this protocol version on a request stands alone, and errors have HTTP statuses of their own."""

PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS, HEADER_MISMATCH = -32700, -32600, -32602, -32020
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A string, or the rest of the text where one is never closed: without that, each quote in it would be tried anew."""
_ENCODED = re.compile(r"=\?base64\?.*\?=")
"""How a header carries a name that it could not carry as it stands, or that looks like this."""
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_ENVELOPE = frozenset(("jsonrpc", "id", "method", "params", "result", "error"))
_PARAMS = frozenset(("name", "uri", "arguments"))
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass(eq=False)
class BodyRefused(ProtocolError):
    """A body that cannot be judged, or whose judgement is no. `rpc_code` and `rpc_id` go into the JSON-RPC error."""

    code: ClassVar[str] = "body_refused"
    http_status: int = 400
    rpc_code: int = INVALID_REQUEST
    rpc_id: str | int | None = None


@dataclass(frozen=True, slots=True)
class RPCMessage:
    """One JSON-RPC message of a body. `name` is the tool, prompt or resource it names, if any."""

    method: str | None
    id: str | int | None
    name: str | None
    arguments: Any = None


def read_messages(body: bytes) -> list[RPCMessage]:
    """The messages in a POST body: one, or several in a batch. Raises `BodyRefused`."""
    document = parse_strictly(body)
    items = document if isinstance(document, list) else [document]
    if not items:
        raise BodyRefused("empty batch")
    return [_read_message(item) for item in items]


def check_headers(message: RPCMessage, methods: list[str], names: list[str]) -> None:
    """Compare the routing headers with the body they speak of. Raises `BodyRefused` when they differ.

    `methods` and `names` are all values of `Mcp-Method` and `Mcp-Name`; none at all is fine before the stateless era.
    """
    if methods and methods != [message.method]:
        raise BodyRefused("Mcp-Method does not match the body", rpc_code=HEADER_MISMATCH, rpc_id=message.id)
    if names and (len(names) > 1 or not _stands_for(names[0], message.name)):
        raise BodyRefused("Mcp-Name does not match the body", rpc_code=HEADER_MISMATCH, rpc_id=message.id)


def parse_strictly(text: bytes) -> Any:
    """JSON without duplicate keys, NaN, deep nesting or invalid UTF-8. Raises `BodyRefused`."""
    _check_depth(text)
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError) as error:
        raise BodyRefused("Parse error", rpc_code=PARSE_ERROR) from error


def _stands_for(value: str, name: str | None) -> bool:
    """Whether a header value means that name. Encoded, it must be the one encoding that all decoders agree on."""
    if name is None or _ENCODED.fullmatch(value) is None:
        return value == name
    try:
        return value == f"=?base64?{base64.b64encode(name.encode()).decode()}?="
    except UnicodeEncodeError:  # half a surrogate pair, as JSON may hold
        return False


def _check_depth(text: bytes) -> None:
    depth = 0
    for byte in _STRING.sub(b"", text).translate(None, delete=_NO_BRACKET):
        if byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise BodyRefused("JSON nested too deeply")
        else:
            depth -= 1


def _check_spelling(members: dict[str, Any], names: frozenset[str]) -> None:
    """Some parsers take `Method` for `method`, and would then see another message than we do."""
    if any(key not in names and key.casefold() in names for key in members):
        raise BodyRefused("a JSON-RPC member in the wrong case")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _read_message(item: Any) -> RPCMessage:
    if not isinstance(item, dict):
        raise BodyRefused("a JSON-RPC message is an object")
    _check_spelling(item, _ENVELOPE)
    rpc_id = item.get("id")
    if isinstance(rpc_id, bool) or not (rpc_id is None or isinstance(rpc_id, (str, int))):
        raise BodyRefused("a JSON-RPC id is a string or a whole number")
    method = item.get("method")
    if method is None:
        return RPCMessage(None, rpc_id, None)  # an answer to a request of the server's
    if not isinstance(method, str):
        raise BodyRefused("a JSON-RPC method is a string", rpc_id=rpc_id)
    params = item.get("params", {})
    if method not in _NAMED:
        return RPCMessage(method, rpc_id, None)
    if isinstance(params, dict):
        _check_spelling(params, _PARAMS)
    name = params.get(_NAMED[method]) if isinstance(params, dict) else None
    if not isinstance(name, str):
        raise BodyRefused(f"{method} without a name", rpc_code=INVALID_PARAMS, rpc_id=rpc_id)
    return RPCMessage(method, rpc_id, name, params.get("arguments") if method == "tools/call" else None)

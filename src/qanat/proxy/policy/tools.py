"""Which tools and methods a route lets through, and what its tool lists may show.

A denied tool and an absent one look alike to the caller: the same error for a call, no line in a list.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from qanat.proxy.policy.inspect import (
    INVALID_PARAMS,
    STATELESS_ERA,
    BodyRefused,
    RPCMessage,
    parse_strictly,
)

METHOD_NOT_FOUND = -32601
_BLANK_LINE = re.compile(rb"\r\n\r\n|\r\n\n|\n\r\n|\n\n|\r\r")
_MARK = b"\xef\xbb\xbf"
"""A byte order mark, which a reader of event streams drops at the beginning."""
MAX_EVENT = 4 * 1024 * 1024
"""Bytes of one server-sent event we hold to look inside; a larger one ends the stream."""


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """Patterns with `*` and `?`. Deny wins; a present allow list denies whatever it does not name."""

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    deny_methods: tuple[str, ...] = ()

    def allows_tool(self, name: str) -> bool:
        """Whether callers may see and call this tool."""
        if any(fnmatchcase(name, pattern) for pattern in self.deny):
            return False
        return self.allow is None or any(fnmatchcase(name, pattern) for pattern in self.allow)

    def check(self, messages: list[RPCMessage], version: str | None) -> None:
        """Judge a whole body: one denied message refuses all of it. Raises `BodyRefused`.

        `version` is the request's `MCP-Protocol-Version`: the HTTP status of a refusal depends on the era.
        """
        stateless = version is not None and version >= STATELESS_ERA
        for message in messages:
            method = message.method
            if method is not None and any(fnmatchcase(method, pattern) for pattern in self.deny_methods):
                raise BodyRefused(
                    "Method not found",
                    http_status=404 if stateless else 200,
                    rpc_code=METHOD_NOT_FOUND,
                    rpc_id=message.id,
                )
            if method == "tools/call" and message.name is not None and not self.allows_tool(message.name):
                raise BodyRefused(
                    f"Unknown tool: {message.name}",
                    http_status=400 if stateless else 200,
                    rpc_code=INVALID_PARAMS,
                    rpc_id=message.id,
                )

    def filter_document(self, text: bytes) -> bytes:
        """A JSON answer without the tools that are denied; the same bytes when there is nothing to leave out.

        Raises `BodyRefused` when the answer cannot be read, because then it cannot be judged either.
        """
        if b'"tools"' not in text and b"\\u" not in text:
            return text
        document = parse_strictly(text)
        items = document if isinstance(document, list) else [document]
        changed = [self._filter_message(item) for item in items]
        if True not in changed:
            return text
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    def _filter_message(self, message: Any) -> bool:
        result = message.get("result") if isinstance(message, dict) else None
        if not isinstance(result, dict) or not isinstance(result.get("tools"), list):
            return False
        tools = result["tools"]
        kept = [tool for tool in tools if not isinstance(tool, dict) or self.allows_tool(str(tool.get("name")))]
        if len(kept) == len(tools):
            return False
        result["tools"] = kept
        return True


class EventStreamFilter:
    """A server-sent event stream without the denied tools, event by event.

    Feed it the bytes of the answer as they come; it returns what may go on, never holding more than the event that is
    still incomplete. Events that list no tools pass byte for byte. Raises `BodyRefused`.
    """

    def __init__(self, policy: ToolPolicy) -> None:
        self._policy = policy
        self._pending = bytearray()
        self._scanned = 0

    def feed(self, data: bytes) -> bytes:
        """The events that `data` completes."""
        self._pending += data
        out: list[bytes] = []
        while (end := self._event_end()) is not None:
            out.append(self._filter_event(bytes(self._pending[:end])))
            del self._pending[:end]
            self._scanned = 0
        if len(self._pending) > MAX_EVENT:
            raise BodyRefused("event too large to inspect", http_status=502)
        return b"".join(out)

    def finish(self) -> bytes:
        """The incomplete event at the end; a client drops it, so it may go as it is only without data."""
        rest = bytes(self._pending)
        self._pending.clear()
        return rest if b"data" not in rest else b""

    def _event_end(self) -> int | None:
        """Where the first event ends: after a blank line, whatever the line ends are (WHATWG HTML 9.2.5)."""
        found = _BLANK_LINE.search(self._pending, max(0, self._scanned - 3))
        self._scanned = len(self._pending)
        return found.end() if found else None

    def _filter_event(self, event: bytes) -> bytes:
        lines = event.removeprefix(_MARK).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
        if not data:
            return event
        before = b"\n".join(data)
        after = self._policy.filter_document(before) if before.strip() else before
        if after == before:
            return event
        others = [line for line in lines if line and not line.startswith(b"data:") and line != b"data"]
        return b"".join(line + b"\n" for line in [*others, b"data: " + after]) + b"\n"

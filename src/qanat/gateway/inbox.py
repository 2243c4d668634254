"""What an MCP server sends, before the SDK sees it.

The SDK judges a page of tools as a whole, so here it loses the entries that are no tools. It judges the result of a
call as a whole too: here parts that cannot be read become text. It answers whatever a server asks, one answer behind
the other, and logs notifications it cannot read: here the questions are limited, and notifications, which nobody waits
for, are dropped.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest, JSONRPCResponse
from mcp_types.methods import validate_server_result
from mcp_types.version import LATEST_HANDSHAKE_VERSION

from qanat.gateway.results import from_mcp, text_block
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
MAX_QUESTIONS = 1000
"""Requests of a server in one session, most of them pings; one that asks more is let go of."""
MAX_ITEMS = 10_000
"""Tools in a page, and parts of a result. Judging half a million, which fit into 8 MiB, held everybody up for 14 s."""
HANDSHAKE = frozenset({"protocolVersion", "supportedVersions"})
"""Fields that what a tool returned does not have."""
Entry = dict[str, Any]


class Source(Protocol):
    """The read stream of one of the SDK's transports."""

    async def receive(self) -> SessionMessage | Exception: ...

    async def aclose(self) -> None: ...


class Inbox:
    """The read stream of a session, as the SDK wants one."""

    def __init__(self, inner: Source, host: str) -> None:
        self._inner, self._host = inner, host
        self._waiting = anyio.CancelScope()
        self._questions = 0
        self.ended = False
        """Nothing comes any more: the server has ended the session, or the way to it has."""
        self.malformed: list[str] = []
        """Names of listed tools that were no tools, as far as they have names."""

    def end(self) -> None:
        """End the session, whatever the transport still waits for: calls that wait learn it at once."""
        self.ended = True
        self._waiting.cancel()

    async def receive(self) -> SessionMessage | Exception:
        while not self.ended:
            with anyio.CancelScope() as self._waiting:
                try:
                    item = await self._inner.receive()
                except (anyio.EndOfStream, anyio.ClosedResourceError):
                    break
                if self._admit(item):
                    return item
        self.ended = True
        raise anyio.EndOfStream

    def _admit(self, item: SessionMessage | Exception) -> bool:
        """Whether the SDK is to see that; a page of tools is mended first."""
        message = item.message if isinstance(item, SessionMessage) else None
        if isinstance(message, JSONRPCNotification):
            return False
        if isinstance(message, JSONRPCRequest):
            self._questions += 1
            if self._questions > MAX_QUESTIONS:
                log.warn("mcp server asks without end", host=self._host)
                self.ended = True
                return False
        elif isinstance(message, JSONRPCResponse):
            if isinstance(tools := message.result.get("tools"), list):
                usable = (self._usable(entry) for entry in tools[:MAX_ITEMS])
                message.result["tools"] = [tool for tool in usable if tool is not None]
                self.malformed += [f"{len(tools) - MAX_ITEMS} more"] if len(tools) > MAX_ITEMS else []
            elif not HANDSHAKE & message.result.keys() and message.result.get("resultType") != "input_required":
                _mend_result(message.result)
        return True

    def _usable(self, entry: Any) -> Entry | None:
        """What the gateway uses of a listed tool; None for what is no tool."""
        fields: Entry = entry if isinstance(entry, dict) else {}
        tool: Entry = {name: fields[name] for name in ("name", "inputSchema") if name in fields}
        if isinstance(fields.get("description"), str):
            tool["description"] = fields["description"]
        if _is_valid("tools/list", {"tools": [tool]}) and tool["name"]:
            return tool
        self.malformed.append(str(fields.get("name", ""))[:64])
        return None

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Inbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


def _mend_result(result: Entry) -> None:
    """Make the SDK take a call's result where that is possible: the tool has run, and would be called again."""
    items = result.setdefault("content", [])
    if isinstance(items, list) and len(items) > MAX_ITEMS:
        items[MAX_ITEMS:] = [text_block(f"[result cut: more than {MAX_ITEMS} parts]")]
    if not isinstance(items, list) or _is_valid("tools/call", result):
        return
    if items:
        result["content"] = [_readable(item) for item in items]
    else:
        result["content"] = list(from_mcp(result).wire)
    for name in ("structuredContent", "_meta"):  # not used beside content
        result.pop(name, None)


def _readable(item: Any) -> Any:
    return item if _is_valid("tools/call", {"content": [item]}) else from_mcp({"content": [item]}).wire[0]


def _is_valid(method: str, result: Entry) -> bool:
    """Whether the SDK takes that; the later revision takes what earlier ones do."""
    try:
        validate_server_result(method, LATEST_HANDSHAKE_VERSION, result)
    except ValueError:
        return False
    return True

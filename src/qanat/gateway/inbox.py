"""What an MCP server sends, before the SDK sees it.

The SDK judges a page of tools as a whole, so here it loses the entries that are no tools. It also answers whatever a
server asks, one answer behind the other, and logs notifications it cannot read: here the questions are limited, and
notifications, which nobody waits for, are dropped.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest, JSONRPCResponse
from mcp_types.methods import validate_server_result
from mcp_types.version import LATEST_HANDSHAKE_VERSION

from qanat.logger import get_logger

log = get_logger("qanat.gateway")
MAX_QUESTIONS = 1000
"""Requests of a server in one session, most of them pings; one that asks more is let go of."""
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
        elif isinstance(message, JSONRPCResponse) and isinstance(tools := message.result.get("tools"), list):
            message.result["tools"] = [tool for entry in tools if (tool := self._usable(entry)) is not None]
        return True

    def _usable(self, entry: Any) -> Entry | None:
        """What the gateway uses of a listed tool; None for what is no tool."""
        fields: Entry = entry if isinstance(entry, dict) else {}
        tool: Entry = {name: fields[name] for name in ("name", "inputSchema") if name in fields}
        if isinstance(fields.get("description"), str):
            tool["description"] = fields["description"]
        try:
            # Earlier revisions are checked like this one, and what it takes the later one takes as well.
            validate_server_result("tools/list", LATEST_HANDSHAKE_VERSION, {"tools": [tool]})
            if tool["name"]:
                return tool
        except ValueError:
            pass
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

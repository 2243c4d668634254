"""Endpoints without HTTP: from a parsed body and an admitted caller to a message, or to a number of tokens."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.datastructures import Headers

from qanat.gateway.access import Caller
from qanat.gateway.calls import CallReport
from qanat.gateway.config import GatewayConfig
from qanat.gateway.errors import invalid, too_long
from qanat.gateway.events import EventQueue
from qanat.gateway.history import pending_calls, to_upstream
from qanat.gateway.loop import OWN_FIELDS, Conversation, Emit, LoopLimits, answer
from qanat.gateway.metrics import Metrics
from qanat.gateway.models import Models
from qanat.gateway.oauth.vaults import OpenVault, Vaults
from qanat.gateway.reach import Reach
from qanat.gateway.request import Block, MessagesRequest, parse_betas, parse_request
from qanat.gateway.servers import Servers
from qanat.gateway.tool_cache import ToolCache
from qanat.gateway.tools import Listing, ToolTable, build_table, pinned_listings
from qanat.gateway.turn import Turn
from qanat.gateway.upstream import CallInfo
from qanat.ids import make_id
from qanat.log import get_logger

log = get_logger("qanat.gateway")
VAULT_HEADER = "qanat-vault"
"""Names the vault whose credentials the servers of a request get, where it brings no token of its own."""


@dataclass
class Answering:
    """What every request shares."""

    config: GatewayConfig
    models: Models
    reach: Reach
    cache: ToolCache
    metrics: Metrics
    vaults: Vaults | None = None
    events: EventQueue | None = None
    """Hears of every call through a tunnel."""

    def parse(self, body: Any, headers: Headers, *, counting: bool = False) -> MessagesRequest:
        """The request in a body, checked as far as that goes without network traffic. Raises `APIError`."""
        betas = parse_betas(",".join(headers.getlist("anthropic-beta")))
        request = parse_request(body, betas, headers.get("anthropic-version"), counting=counting)
        self.models.find(request.model)
        if vault := headers.get(VAULT_HEADER, ""):
            if self.vaults is None:
                raise invalid(f"{VAULT_HEADER}: this gateway keeps no vaults")
            request = replace(request, vault=vault)
        for server in request.servers:
            self.reach.check(server)
        return request

    async def message(self, request: MessagesRequest, caller: Caller, request_id: str, emit: Emit) -> Turn:
        """Answer a request, emitting events on the way. Raises `APIError`; before the first event or after."""
        upstream, upstream_model = self.models.find(request.model)
        pending = pending_calls(request.messages)
        pinned = pinned_listings(request)
        deadline = self._deadline()
        async with self._servers(request, caller, request_id) as servers:
            asked = await _list(servers, pinned, deadline)
            table = self._table(request, {**pinned, **asked}, request_id)
            check_pending(pending, table)
            turn = Turn(make_id("msg", os.urandom(16)), request.model, table)
            for block in listing_blocks(request, asked):
                turn.begin_with(block)
            talk = Conversation(
                request,
                table,
                upstream,
                servers,
                self._info(request, request_id),
                self._limits(deadline),
                upstream_model,
            )
            try:
                await answer(talk, turn, pending, emit)
            finally:
                self._account(request.model, turn)
        return turn

    async def count_tokens(self, request: MessagesRequest, caller: Caller, request_id: str) -> int:
        """How many input tokens a request takes, MCP tools included. Raises `APIError`."""
        upstream, upstream_model = self.models.find(request.model)
        pending_calls(request.messages)
        pinned = pinned_listings(request)
        async with self._servers(request, caller, request_id) as servers:
            table = self._table(request, {**pinned, **await _list(servers, pinned, self._deadline())}, request_id)
        body = {key: value for key, value in request.body.items() if key not in (*OWN_FIELDS, "max_tokens")}
        body |= {"model": upstream_model, "messages": to_upstream(request.messages)}
        if table.entries:
            body["tools"] = table.entries
        return await upstream.count_tokens(body, self._info(request, request_id))

    def _servers(self, request: MessagesRequest, caller: Caller, request_id: str) -> Servers:
        vault = OpenVault(self.vaults, caller, request.vault) if self.vaults is not None and request.vault else None
        report = CallReport(self.events, self.reach, caller) if self.events is not None else None
        return Servers(
            request, caller, self.reach, self.cache, self.config.limits, self.metrics, request_id, vault, report
        )

    def _table(self, request: MessagesRequest, listings: Mapping[str, Listing], request_id: str) -> ToolTable:
        table = build_table(request, listings)
        for server, tool in table.unknown_configs:
            log.warn("configured tool does not exist", server=server, tool=tool, request_id=request_id)
        return table

    def _info(self, request: MessagesRequest, request_id: str) -> CallInfo:
        return CallInfo(request.version, request.passed_betas, request_id)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.config.limits.request.total_seconds()

    def _limits(self, deadline: float) -> LoopLimits:
        limits = self.config.limits
        return LoopLimits(limits.iterations, limits.parallel_calls, deadline)

    def _account(self, model: str, turn: Turn) -> None:
        self.metrics.iterations.labels(model).inc(len(turn.usage.iterations))
        for direction in ("input_tokens", "output_tokens"):
            self.metrics.tokens.labels(model, direction.removesuffix("_tokens")).inc(turn.usage.total(direction))


async def _list(servers: Servers, pinned: dict[str, Listing], deadline: float) -> dict[str, Listing]:
    """What the servers offer; a server that lists page after page cannot outlast the request."""
    try:
        async with asyncio.timeout_at(deadline):
            return await servers.list_all(pinned)
    except TimeoutError:
        raise too_long() from None


def listing_blocks(request: MessagesRequest, asked: Mapping[str, Listing]) -> list[Block]:
    """A `mcp_tool_listing` for each server that was asked, if the caller wants them, in the order of `mcp_servers`."""
    if not request.lists_tools:
        return []
    return [
        {
            "type": "mcp_tool_listing",
            "mcp_server_name": server.name,
            "tools": [tool.as_listed() for tool in asked[server.name]],
        }
        for server in request.servers
        if server.name in asked
    ]


def check_pending(pending: list[Block], table: ToolTable) -> None:
    """Every call the caller comes back for must still be on offer. Raises `APIError` (400)."""
    for use in pending:
        if not table.offers(use["server_name"], use["name"]):
            raise invalid(
                f"messages: mcp_tool_use '{use['id']}' calls '{use['name']}' on '{use['server_name']}', "
                f"but no `{use['name']}` tool was provided"
            )


async def discard(_: list[Block]) -> None:
    """Where events go when the caller does not stream."""
    return

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
from qanat.gateway.errors import APIError, internal, invalid, too_long
from qanat.gateway.events import EventQueue
from qanat.gateway.exchange import CallerStalled
from qanat.gateway.history import pending_calls
from qanat.gateway.loop import Conversation, Emit, LoopLimits, answer, upstream_body
from qanat.gateway.metrics import Metrics
from qanat.gateway.models import Models
from qanat.gateway.oauth.vaults import OpenVault, Vaults
from qanat.gateway.reach import Reach
from qanat.gateway.request import Block, MessagesRequest, parse_betas, parse_request
from qanat.gateway.results import ToolResult
from qanat.gateway.servers import Servers
from qanat.gateway.tool_cache import ToolCache
from qanat.gateway.tools import Listing, ToolTable, build_table, pinned_listings
from qanat.gateway.turn import Turn
from qanat.gateway.upstream import CallInfo
from qanat.ids import make_id
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
UNKNOWN = ToolResult((), ())
"""What a call that was not made yet may bring."""
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
        pending = pending_calls(request.messages)
        pinned = pinned_listings(request)
        deadline = self._deadline()
        async with self._servers(request, caller, request_id) as servers:
            asked = await _list(servers, pinned, deadline)
            table = self._table(request, {**pinned, **asked}, request_id)
            check_pending(pending, table)
            turn = new_turn(request, table)
            for block in listing_blocks(request, asked):
                turn.begin_with(block)
            talk = self._conversation(request, table, servers, request_id, deadline)
            try:
                await answer(talk, turn, pending, emit)
            except CallerStalled:
                raise
            except Exception as error:
                if not isinstance(error, APIError):
                    log.exception("request failed", request_id=request_id)
                failure = error if isinstance(error, APIError) else internal()
                if turn.results or turn.running:  # SDKs try again by themselves, and would make every call once more
                    failure.headers = {**failure.headers, "x-should-retry": "false"}
                raise failure from None
            finally:
                self._account(request.model, turn)
        return turn

    async def count_tokens(self, request: MessagesRequest, caller: Caller, request_id: str) -> int:
        """How many input tokens a request takes, MCP tools included. Raises `APIError`.

        Calls that are pending would be made first: their results, which nobody knows yet, count as empty.
        """
        pending = pending_calls(request.messages)
        pinned = pinned_listings(request)
        deadline = self._deadline()
        async with self._servers(request, caller, request_id) as servers:
            table = self._table(request, {**pinned, **await _list(servers, pinned, deadline)}, request_id)
            check_pending(pending, table)
            talk = self._conversation(request, table, servers, request_id, deadline)
        turn = new_turn(request, table)
        for use in pending:
            turn.add_result(use, UNKNOWN)
        body = upstream_body(talk, turn, first=True)
        assert body is not None, "only further rounds can find the output used up"
        del body["max_tokens"]
        return await talk.upstream.count_tokens(body, talk.info)

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

    def _conversation(
        self, request: MessagesRequest, table: ToolTable, servers: Servers, request_id: str, deadline: float
    ) -> Conversation:
        upstream, upstream_model = self.models.find(request.model)
        info = CallInfo(request.version, request.passed_betas, request_id)
        return Conversation(request, table, upstream, servers, info, self._limits(deadline), upstream_model)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.config.limits.request.total_seconds()

    def _limits(self, deadline: float) -> LoopLimits:
        limits = self.config.limits
        return LoopLimits(limits.iterations, limits.parallel_calls, deadline)

    def _account(self, model: str, turn: Turn) -> None:
        self.metrics.iterations.labels(model).inc(len(turn.usage.iterations))
        for direction in ("input_tokens", "output_tokens"):
            self.metrics.tokens.labels(model, direction.removesuffix("_tokens")).inc(turn.usage.total(direction))


def new_turn(request: MessagesRequest, table: ToolTable) -> Turn:
    """A response that holds nothing yet."""
    return Turn(make_id("msg", os.urandom(16)), request.model, table)


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

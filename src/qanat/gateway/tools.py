"""Which tools the model sees: toolsets expanded with what the servers list.

The order is the one of `tools`, inside a toolset the server's sorted by name, so that the same request gives the same
prompt whichever replica of a server answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qanat.gateway import names
from qanat.gateway.errors import APIError, invalid
from qanat.gateway.request import Block, MessagesRequest, Server

MAX_TOOLS = 512
MAX_SCHEMA_BYTES = 2 * 1024 * 1024
MAX_DESCRIPTION = 8 * 1024
SEARCH_PREFIX = "tool_search_tool_"


@dataclass(frozen=True, slots=True)
class ListedTool:
    """A tool as its server lists it."""

    name: str
    description: str | None
    input_schema: Mapping[str, Any]

    def as_listed(self) -> Block:
        """The entry of an `mcp_tool_listing` block."""
        entry: Block = {"name": self.name}
        if self.description is not None:
            entry["description"] = self.description
        return entry | {"input_schema": dict(self.input_schema)}


Listing = tuple[ListedTool, ...]


@dataclass(frozen=True, slots=True)
class MCPTool:
    """One tool offered to the model, and where it leads."""

    server: Server
    name: str


@dataclass
class ToolTable:
    """The upstream's `tools`, and the way back from its names."""

    entries: list[Block] = field(default_factory=list)
    mcp: dict[str, MCPTool] = field(default_factory=dict)
    """Composed name to tool."""
    client: set[str] = field(default_factory=set)
    search: set[str] = field(default_factory=set)
    """Names of tool search tools; only a model without a search of its own calls them as functions."""
    unknown_configs: list[tuple[str, str]] = field(default_factory=list)
    """(server, tool) pairs that a toolset configures and the server does not have."""

    def offers(self, server: str, tool: str) -> bool:
        """Whether the request lets that tool be called."""
        found = self.mcp.get(names.compose(server, tool))
        return found is not None and (found.server.name, found.name) == (server, tool)


def build_table(request: MessagesRequest, listings: Mapping[str, Listing]) -> ToolTable:
    """Expand every toolset. Raises `APIError` when names collide or limits are passed."""
    table = ToolTable()
    by_position = {server.toolset_index: server for server in request.servers if server.toolset_index is not None}
    for position, tool in enumerate(request.tools):
        if position in by_position:
            _add_toolset(table, by_position[position], listings)
        else:
            table.entries.append(tool)
            if isinstance(name := tool.get("name"), str):
                (table.search if is_search_tool(tool) else table.client).add(name)
    for server in request.servers:
        if server.toolset_index is None:
            _add_toolset(table, server, listings)
    _check(table)
    return table


def _add_toolset(table: ToolTable, server: Server, listings: Mapping[str, Listing]) -> None:
    toolset, listing = server.toolset, listings.get(server.name, ())
    known = {tool.name for tool in listing}
    table.unknown_configs += [(server.name, name) for name in toolset.configs or () if name not in known]
    added: list[Block] = []
    for tool in sorted(listing, key=lambda tool: tool.name):
        if not toolset.is_enabled(tool.name):
            continue
        composed = names.compose(server.name, tool.name)
        if composed in table.mcp:
            raise _conflict(composed)
        table.mcp[composed] = MCPTool(server, tool.name)
        added.append(_entry(composed, tool, toolset.is_deferred(tool.name)))
    if added and toolset.cache_control is not None:
        added[-1]["cache_control"] = toolset.cache_control
    table.entries += added


def _entry(composed: str, tool: ListedTool, deferred: bool) -> Block:
    schema = {key: value for key, value in tool.input_schema.items() if key != "$schema"}
    entry: Block = {"name": composed, "description": (tool.description or "")[:MAX_DESCRIPTION], "input_schema": schema}
    if not entry["description"]:
        del entry["description"]
    return entry | {"defer_loading": True} if deferred else entry


def _check(table: ToolTable) -> None:
    for name in table.client | table.search:
        if name in table.mcp:
            raise _conflict(name)
    if len(table.mcp) > MAX_TOOLS:
        raise invalid(
            f"tools: {len(table.mcp)} MCP tools are enabled; at most {MAX_TOOLS} are allowed",
            "available_tools_limit_exceeded",
        )
    size = sum(len(json.dumps(entry.get("input_schema"))) for entry in table.entries if entry.get("name") in table.mcp)
    if size > MAX_SCHEMA_BYTES:
        raise invalid(
            f"tools: the schemas of the enabled MCP tools take {size} bytes; at most {MAX_SCHEMA_BYTES} are allowed",
            "available_tools_limit_exceeded",
        )
    if table.entries and all(entry.get("defer_loading") is True for entry in table.entries):
        raise invalid("At least one tool must have defer_loading=false. All tools have defer_loading set.")


def _conflict(name: str) -> APIError:
    return invalid(f"tools: more than one tool would be named '{name}'", "tool_name_conflict")


def is_search_tool(entry: Mapping[str, Any]) -> bool:
    """Whether a `tools` entry is one of the server-side tool search tools."""
    return str(entry.get("type", "")).startswith(SEARCH_PREFIX)


def pinned_listings(request: MessagesRequest) -> dict[str, Listing]:
    """Listings the caller brought: a toolset's `tools`, else the latest `mcp_tool_listing` block of the history.

    Raises `APIError` for a listing of an undeclared server, or one sent without the beta that gives them meaning.
    """
    declared = {server.name for server in request.servers}
    pinned: dict[str, Listing] = {}
    for number, message in enumerate(request.messages):
        content = message["content"]
        for block in content if isinstance(content, list) else ():
            if block["type"] == "mcp_tool_listing":
                name = _check_listing(f"messages.{number}", block, declared, request.lists_tools)
                pinned[name] = parse_listing(block["tools"])
    for server in request.servers:
        if server.toolset.tools is not None:
            tools = server.toolset.tools
            pinned[server.name] = tuple(ListedTool(tool.name, tool.description, tool.input_schema) for tool in tools)
    return pinned


def _check_listing(where: str, block: Block, declared: set[str], allowed: bool) -> str:
    if not allowed:
        raise invalid(f"{where}: mcp_tool_listing blocks require the header 'anthropic-beta: mcp-client-2026-09-15'")
    name, tools = block.get("mcp_server_name"), block.get("tools")
    if not isinstance(name, str) or not isinstance(tools, list):
        raise invalid(f"{where}: an mcp_tool_listing block needs mcp_server_name and tools")
    if name not in declared:
        raise invalid(f"{where}: MCP server '{name}' not found in mcp_servers", "tool_reference_unresolved")
    return name


def parse_listing(tools: Sequence[Any]) -> Listing:
    """The usable entries of a listing: those with a name and an object as `input_schema`."""
    listed = []
    for tool in tools:
        if isinstance(tool, dict) and isinstance(tool.get("name"), str) and isinstance(tool.get("input_schema"), dict):
            description = tool.get("description")
            listed.append(
                ListedTool(tool["name"], description if isinstance(description, str) else None, tool["input_schema"])
            )
    return tuple(listed)

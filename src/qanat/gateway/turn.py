"""One response made of several sampling iterations: the events callers see, and the message they add up to.

Pure: upstream events in, wire events out. Indexes run on without gaps, there is one `message_start` and one
`message_stop`, and calls of MCP tools are renamed. An MCP call is held back until it is complete, so that broken
arguments or a call that was cut off never reach the wire.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qanat.gateway import names, strict_json
from qanat.gateway.request import Block
from qanat.gateway.results import ToolResult, failed
from qanat.gateway.tools import ToolTable
from qanat.gateway.usage import Usage

Event = dict[str, Any]
INVALID = "invalid_arguments"
"""Key that an upstream adapter sets on a `tool_use` block whose arguments it could not parse; never on the wire."""
CUTTING = frozenset({"max_tokens", "model_context_window_exceeded", "refusal", "stop_sequence"})
"""Stop reasons that end a block wherever it is; after a whole call models say `tool_use`, careless ones `end_turn`."""
OUT_OF_TIME = "The request ran out of time before the tool answered. The tool may have run."


@dataclass
class OpenBlock:
    """A content block between its start and its stop."""

    block: Block
    index: int | None
    """None while held back."""
    partials: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """An MCP call or a tool search of the current iteration. `problem`: why it cannot be made."""

    use: Block
    problem: str | None = None

    @property
    def is_search(self) -> bool:
        return bool(self.use["type"] == "server_tool_use")


class Turn:
    """The response in the making."""

    def __init__(self, message_id: str, model: str, table: ToolTable) -> None:
        self.content: list[Block] = []
        self.usage = Usage()
        self.calls: list[Call] = []
        """The MCP calls of the current iteration."""
        self.has_client_call = False
        self.stop_reason: str | None = None
        self.results: dict[str, ToolResult] = {}
        """What came of MCP calls and is in the content, by wire id."""
        self.running: list[Call] = []
        """MCP calls that have begun and are not answered in the content, in their order."""
        self.arrived: dict[str, ToolResult] = {}
        """Results of running calls, by wire id."""
        self._delta: dict[str, Any] = {}
        self._delta_extra: dict[str, Any] = {}
        self._message: Block = {"id": message_id, "type": "message", "role": "assistant", "model": model}
        self._table = table
        self._open: dict[int, OpenBlock] = {}
        self._held: list[Call] = []
        self._held_partials: dict[str, list[str]] = {}
        self._started = False
        self._opening: list[Block] = []

    # What the gateway adds.

    def begin_with(self, block: Block) -> None:
        """Put a block before everything else; it is sent with the start of the message."""
        self._opening.append(block)

    def start(self, message: Mapping[str, Any] | None = None) -> list[Event]:
        """The start of the message, once."""
        if self._started:
            return []
        self._started = True
        fixed: Block = {"content": [], "stop_reason": None, "stop_sequence": None}
        extra = {key: value for key, value in (message or {}).items() if key not in ("usage", *fixed)}
        self._message = {**extra, **self._message}
        start = {**self._message, **fixed, "usage": self.usage.at_start()}
        events: list[Event] = [{"type": "message_start", "message": start}]
        for block in self._opening:
            events += self.add(block)
        return events

    def add(self, block: Block) -> list[Event]:
        """A whole block that came from us."""
        index = len(self.content)
        self.content.append(block)
        return [
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_stop", "index": index},
        ]

    def add_result(self, use: Block, result: ToolResult) -> list[Event]:
        """The outcome of an MCP call."""
        self.results[use["id"]] = result
        return self.add(
            {
                "type": "mcp_tool_result",
                "tool_use_id": use["id"],
                "is_error": result.is_error,
                "content": [{**block, "citations": None} for block in result.wire],
            }
        )

    def finish(self, stop_reason: str) -> list[Event]:
        """The end of the message."""
        self.stop_reason = stop_reason
        delta = {"stop_sequence": None, **self._delta, "stop_reason": stop_reason}
        if stop_reason != "stop_sequence":
            delta["stop_sequence"] = None
        self._delta = delta
        return [
            *self.start(),
            {"type": "message_delta", "delta": delta, **self._delta_extra, "usage": self.usage.at_end()},
            {"type": "message_stop"},
        ]

    def message(self) -> Block:
        """The whole message, for callers that do not stream."""
        return {
            "context_management": None,
            **self._message,
            **self._delta_extra,
            **self._delta,
            "content": self.content,
            "usage": self.usage.at_end(),
        }

    # What the upstream sends.

    def begin_iteration(self) -> None:
        """Another round of sampling starts."""
        self.usage.begin()
        self.calls, self.has_client_call, self.stop_reason = [], False, None
        self._open, self._held, self._held_partials = {}, [], {}

    def receive(self, event: Event) -> list[Event]:
        """The wire events that one upstream event amounts to."""
        kind = event.get("type")
        if kind == "message_start":
            self.usage.update(event["message"].get("usage"))
            return self.start(event["message"])
        if kind == "content_block_start":
            return self._start_block(event["index"], dict(event["content_block"]))
        if kind == "content_block_delta":
            return self._extend_block(event["index"], event["delta"])
        if kind == "content_block_stop":
            return self._stop_block(event["index"])
        if kind == "message_delta":
            return self._hear_stop(event)
        return []  # message_stop comes from `finish`; pings are ours

    def abandon(self) -> list[Event] | None:
        """Close what is open because time is up. None if it cannot be closed: a client's call without its arguments.

        Calls that run are answered too: left pending, they would be made once more when the caller goes on.
        """
        events: list[Event] = []
        for opened in list(self._open.values()):
            if opened.index is None:
                continue
            if opened.block["type"] not in ("text", "thinking"):
                return None
            events.append({"type": "content_block_stop", "index": opened.index})
        self._open, self._held = {}, []
        for call in self.running:
            if call.use["id"] not in self.results:
                events += self.add_result(call.use, self.arrived.get(call.use["id"]) or failed(OUT_OF_TIME))
        return events

    def _start_block(self, upstream_index: int, block: Block) -> list[Event]:
        events = self._flush_held()
        problem = block.pop(INVALID, None)
        if block["type"] == "tool_use":
            use = self._as_mcp_use(block)
            if use is not None:
                given = block.get("input") if isinstance(block.get("input"), dict) else {}
                self._open[upstream_index] = OpenBlock(use | {"input": given, INVALID: problem}, None)
                return events
            self.has_client_call = True
        index = len(self.content)
        self.content.append(block)
        self._open[upstream_index] = OpenBlock(block, index)
        # Callers get a copy: ours grows with the deltas.
        return [*events, {"type": "content_block_start", "index": index, "content_block": dict(block)}]

    def _as_mcp_use(self, block: Block) -> Block | None:
        """The block as `mcp_tool_use`, or as a tool search; None when it is the client's to answer."""
        name = block["name"]
        if name in self._table.search:
            return {"type": "server_tool_use", "id": names.to_search_id(block["id"]), "name": name, "input": {}}
        use: Block = {"type": "mcp_tool_use", "id": names.to_wire_id(block["id"])}
        if (tool := self._table.mcp.get(name)) is not None:
            return use | {"name": tool.name, "server_name": tool.server.name, "input": {}}
        if name in self._table.client or not self._table.mcp:
            return None
        # A weak model made the name up: attribute it to the server it seems to mean, and let it read that.
        servers = sorted({tool.server.name for tool in self._table.mcp.values()}, key=len, reverse=True)
        server = next((s for s in servers if name.startswith(names.compose(s, ""))), servers[0])
        bare = name.removeprefix(names.compose(server, "")) or name or "unnamed"  # it must be fit for a replay
        return use | {"name": bare, "server_name": server, "input": {}}

    def _extend_block(self, upstream_index: int, delta: Mapping[str, Any]) -> list[Event]:
        opened = self._open.get(upstream_index)
        if opened is None:
            return []
        if delta["type"] == "input_json_delta":
            opened.partials.append(delta["partial_json"])
        else:
            _apply(opened.block, delta)
        if opened.index is None:
            return []
        return [{"type": "content_block_delta", "index": opened.index, "delta": delta}]

    def _stop_block(self, upstream_index: int) -> list[Event]:
        opened = self._open.pop(upstream_index, None)
        if opened is None:
            return []
        if opened.index is None:
            self._hold(opened)
            return []
        if opened.partials:
            opened.block["input"] = parse_object("".join(opened.partials)) or {}
        return [{"type": "content_block_stop", "index": opened.index}]

    def _hold(self, opened: OpenBlock) -> None:
        use = opened.block
        problem = use.pop(INVALID, None)
        text = "".join(opened.partials)
        arguments = parse_object(text) if text else use["input"]
        if arguments and not text:  # some servers send them whole, with the start
            opened.partials = [json.dumps(arguments)]
        if arguments is None:
            problem, arguments, opened.partials = "the arguments were not a JSON object", {}, []
        use["input"] = arguments
        self._held.append(Call(use, problem))
        self._held_partials[use["id"]] = opened.partials

    def _flush_held(self) -> list[Event]:
        events: list[Event] = []
        for call in self._held:
            index = len(self.content)
            self.content.append(call.use)
            self.calls.append(call)
            start = {"type": "content_block_start", "index": index, "content_block": {**call.use, "input": {}}}
            events += [start, *_json_deltas(index, self._held_partials[call.use["id"]])]
            events.append({"type": "content_block_stop", "index": index})
        self._held = []
        return events

    def _hear_stop(self, event: Event) -> list[Event]:
        self.usage.update(event.get("usage"))
        self._delta = dict(event["delta"])
        self._delta_extra |= {key: value for key, value in event.items() if key not in ("type", "delta", "usage")}
        self.stop_reason = self._delta.get("stop_reason")
        if self.stop_reason in CUTTING:
            self._held = []  # empty arguments and those of a call cut off before them look the same
        return self._flush_held()


def _json_deltas(index: int, partials: Iterable[str]) -> list[Event]:
    return [
        {"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": partial}}
        for partial in partials
    ]


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object in a text; None for anything else."""
    try:
        value = strict_json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _apply(block: Block, delta: Mapping[str, Any]) -> None:
    """Add a delta to the block it belongs to. Kinds we do not know are left to the caller's own client."""
    kind = delta["type"]
    if kind == "text_delta":
        block["text"] = block.get("text", "") + delta["text"]
    elif kind == "thinking_delta":
        block["thinking"] = block.get("thinking", "") + delta["thinking"]
    elif kind == "signature_delta":
        block["signature"] = delta["signature"]
    elif kind == "citations_delta":
        block["citations"] = [*(block.get("citations") or []), delta["citation"]]
    elif kind == "compaction_delta":
        block |= {key: value for key, value in delta.items() if key != "type"}

"""What is printed after the request: the answer, what each hop saw, where the time went, and what to try next."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from qanat.dev.request import BETA, Answer
from qanat.dev.wiretap import Wiretap, hexdump
from qanat.stack import Stack, join

WIDTH = 100


class ProxyWitness(logging.Handler):
    """Keeps the fields of each request the proxy finished."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "qanat.proxy" and record.getMessage() == "request finished":
            self.requests.append(getattr(record, "fields", {}))


@dataclass
class Witness:
    """Watches every hop of one stack."""

    stack: Stack
    edge: Wiretap = field(default_factory=Wiretap)
    proxy: ProxyWitness = field(default_factory=ProxyWitness)

    def __enter__(self) -> Witness:
        self.stack.edge.sessions.on_opened = self.edge.attach
        logger = logging.getLogger("qanat.proxy")
        self._level = logger.level
        logger.setLevel(logging.INFO)
        logging.getLogger().addHandler(self.proxy)  # our loggers make records only for handlers at the root
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self.proxy)
        logging.getLogger("qanat.proxy").setLevel(self._level)
        if "edge" in self.stack.running:
            self.stack.edge.sessions.on_opened = lambda _: None


@dataclass(frozen=True)
class Finding:
    """Something that must hold, at one hop."""

    hop: str
    sentence: str
    held: bool


@dataclass(frozen=True)
class Times:
    """Where a request's time went, in milliseconds; each hop without those behind it."""

    gateway: float
    edge: float
    proxy: float
    upstream: float


def measure(answer: Answer, witness: Witness) -> Times:
    """Takes the time behind each hop from the time at it. `edge` holds the connector and both tunnel ends."""
    total = answer.seconds * 1000
    beyond_edge = witness.edge.seconds_beyond() * 1000
    at_proxy = sum(float(request["duration_ms"]) for request in witness.proxy.requests)
    upstream = sum(served.seconds for served in witness.stack.samples.served) * 1000
    return Times(
        max(total - beyond_edge, 0.0), max(beyond_edge - at_proxy, 0.0), max(at_proxy - upstream, 0.0), upstream
    )


def judge(answer: Answer, witness: Witness, *, demo_model: bool) -> list[Finding]:
    """Everything the request was to show."""
    results = answer.blocks("mcp_tool_result")
    findings = [Finding("gateway", "the answer holds text", bool(answer.blocks("text")))]
    if demo_model:  # a real model may find that it needs no tool
        findings += [
            Finding("gateway", "a tool was called", bool(answer.blocks("mcp_tool_use"))),
            Finding("upstream", "the tool's result came back", bool(results) and not results[0]["is_error"]),
            Finding("upstream", "it holds data of the ticket database", "Checkout returns 502" in json.dumps(results)),
        ]
    requests = witness.proxy.requests
    served = witness.stack.samples.served
    return [
        *findings,
        Finding("edge", "a stream was relayed", witness.edge.streams > 0),
        Finding("edge", "it saw TLS records and nothing else", bool(witness.edge.records())),
        Finding("edge", "it could read none of it", not witness.edge.readable(canaries(witness.stack))),
        Finding("connector", "a connection to the edge is registered", witness.stack.connector.ready_connections > 0),
        Finding("proxy", "it forwarded requests", bool(requests) and all(r["status"] < 400 for r in requests)),
        Finding("upstream", "the ticket server was asked", any(each.server == "tickets" for each in served)),
    ]


def canaries(stack: Stack) -> list[bytes]:
    """Words that travel inside inner TLS and must not be readable outside of it."""
    return [b"tools/list", b"tools/call", b"jsonrpc", b"Checkout", b"POST /mcp", b"application/json"]


def show_request(stack: Stack, body: dict[str, Any]) -> Iterator[str]:
    """The request in a few lines."""
    yield f"POST {stack.gateway.url}/v1/messages   (anthropic-beta: {BETA})"
    yield f"  model        {body['model']}"
    for server in body["mcp_servers"]:
        yield f"  mcp_servers  {server['name']} at {server['url']}"
    yield f"  user         {body['messages'][-1]['content']}"


def show_answer(answer: Answer) -> Iterator[str]:
    """The content blocks, cut to a screen."""
    yield f"answer after {answer.seconds * 1000:.0f} ms"
    for block in answer.body["content"]:
        kind = block["type"]
        if kind == "mcp_tool_use":
            text = f"{block['server_name']}.{block['name']} {json.dumps(block['input'])}"
        elif kind == "mcp_tool_result":
            text = " ".join("".join(part.get("text", "") for part in block["content"]).split())
        else:
            text = str(block.get("text", ""))
        first, *rest = text.splitlines() or [""]
        yield f"  {kind:<15}  {cut(first)}"
        yield from (f"  {'':<15}  {cut(line)}".rstrip() for line in rest)


def show_hops(answer: Answer, witness: Witness) -> Iterator[str]:
    """What each hop saw, and how long it had the request."""
    stack, times = witness.stack, measure(answer, witness)
    up, down = witness.edge.bytes_seen(True), witness.edge.bytes_seen(False)
    records = witness.edge.records()
    paths = [f"{request['method']} {request['path']} {request['status']}" for request in witness.proxy.requests]
    served = [f"{each.server} {each.method} {each.path}" for each in stack.samples.served]
    what = "bytes that are no TLS" if records is None else f"{records} TLS records and nothing else"
    yield "what each hop saw, and how long it took (without the hops behind it)"
    yield _hop("gateway", f"everything: the request, {len(paths)} MCP messages, the answer", times.gateway)
    yield _hop("edge", f"{witness.edge.streams} stream, {up:,} bytes up and {down:,} down: {what}", times.edge)
    yield _hop("connector", f"the same bytes; connections registered: {stack.connector.ready_connections}", None)
    yield _hop("proxy", f"in clear: {', '.join(summarize(paths))}", times.proxy)
    yield _hop("upstream", f"in clear: {', '.join(summarize(served))}", times.upstream)
    yield "  (the connector's time is in the edge's: what it relays cannot be told apart)"
    yield ""
    yield "the answer as the edge saw it, its last bytes: a WebSocket frame, and TLS 1.3 in it"
    last = next((chunk.data for chunk in reversed(witness.edge.chunks) if not chunk.up), b"")
    yield from (f"  {line}" for line in hexdump(last))


def show_next(stack: Stack, model: str) -> Iterator[str]:
    """A line to paste."""
    body = {
        "model": model,
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": "Search the articles about vpn"}],
        "mcp_servers": [{"type": "url", "url": stack.url("kb"), "name": "kb"}],
        "tools": [{"type": "mcp_toolset", "mcp_server_name": "kb"}],
    }
    yield "try next, while it is up"
    yield f"  curl {stack.gateway.url}/v1/messages \\"
    yield f"    -H 'x-api-key: {stack.api_key.get_secret_value()}' \\"
    yield "    -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' \\"
    yield f"    -H 'anthropic-beta: {BETA}' \\"
    yield f"    -d '{json.dumps(body)}'"


def show_findings(findings: list[Finding]) -> Iterator[str]:
    """One line when all held, else one for each that did not."""
    failed = [finding for finding in findings if not finding.held]
    if not failed:
        yield f"all {len(findings)} checks held"
    yield from (f"FAILED at {finding.hop}: not true that {finding.sentence}" for finding in failed)


def summarize(lines: list[str]) -> list[str]:
    """Equal lines as one with a count, in the order of their first."""
    return [f"{line} ({lines.count(line)}x)" for line in dict.fromkeys(lines)] or ["nothing"]


def cut(line: str) -> str:
    """A line that fits on the screen."""
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def _hop(name: str, saw: str, milliseconds: float | None) -> str:
    time = "" if milliseconds is None else f"{milliseconds:7.1f} ms"
    return f"  {name:<10} {time:<11} {saw}"


def listeners(stack: Stack) -> Iterator[str]:
    """Where everything listens, for whoever wants to look around."""
    assert stack.proxy.address is not None
    yield f"  gateway {stack.gateway.url}   control plane {stack.control.url}"
    yield f"  edge: clients {join(stack.edge.client_address)}, connectors {join(stack.edge.connector_address)}"
    yield f"  proxy {join(stack.proxy.address)}   files {stack.directory}"
    credential = stack.directory / "control/bootstrap.token"
    yield f"  console {stack.control.url}/console/   sign in with what stands in {credential}"

"""One request to the gateway, and where to look when it fails.

The gateway tells its callers only that a server could not be reached, whatever the reason. Who runs the whole stack may
know more: `find_failing_hop` walks the way of the request and names the first hop that does not do its part.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx2

from qanat.client import TunnelError, open_tunnel
from qanat.errors import QanatError
from qanat.stack import Stack, join

BETA = "mcp-client-2025-11-20"
QUESTION = "List the open tickets"
TIMEOUT = 60.0
PROBE_TIMEOUT = 5.0
MCP_HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@dataclass(eq=False)
class HopFailed(QanatError):
    """A request did not get its answer. `hop` is the part to look at."""

    code: ClassVar[str] = "hop_failed"
    status: ClassVar[int] = 502
    hop: str
    reason: str

    def __str__(self) -> str:
        return f"{self.hop}: {self.reason}"


@dataclass(frozen=True)
class Answer:
    """What the gateway answered, and how long that took."""

    body: dict[str, Any]
    seconds: float

    def blocks(self, kind: str) -> list[dict[str, Any]]:
        """The content blocks of one type."""
        return [block for block in self.body.get("content", []) if block["type"] == kind]


def example_request(stack: Stack, model: str, question: str = QUESTION) -> dict[str, Any]:
    """The body of the request: one MCP server, all of its tools."""
    return {
        "model": model,
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": question}],
        "mcp_servers": [{"type": "url", "url": stack.url("tickets"), "name": "tickets"}],
        "tools": [{"type": "mcp_toolset", "mcp_server_name": "tickets"}],
    }


def request_headers(stack: Stack) -> dict[str, str]:
    """What goes with it."""
    return {
        "x-api-key": stack.api_key.get_secret_value(),
        "anthropic-version": "2023-06-01",
        "anthropic-beta": BETA,
    }


async def ask(stack: Stack, body: dict[str, Any]) -> Answer:
    """Send the request. Raises `HopFailed`."""
    started = time.monotonic()
    try:
        async with httpx2.AsyncClient(timeout=TIMEOUT, trust_env=False) as http:
            url = f"{stack.gateway.url}/v1/messages"
            response = await http.post(url, headers=request_headers(stack), json=body)
    except httpx2.HTTPError as error:
        raise HopFailed("gateway", f"no answer: {type(error).__name__}") from error
    if response.status_code != 200:
        raise await find_failing_hop(stack) or HopFailed("gateway", error_message(response))
    return Answer(response.json(), time.monotonic() - started)


def error_message(response: httpx2.Response) -> str:
    """What an error of the API says."""
    try:
        return f"{response.status_code} {response.json()['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


async def find_failing_hop(stack: Stack, server: str = "tickets") -> HopFailed | None:
    """The first hop on the way of a request that does not do its part; None when all do."""
    for part, url in (("gateway", stack.gateway.url), ("control", stack.control.url)):
        if failure := await _probe_health(part, url):
            return failure
    return await _probe_tunnel(stack, server)


async def _probe_health(part: str, url: str) -> HopFailed | None:
    try:
        async with httpx2.AsyncClient(timeout=PROBE_TIMEOUT, trust_env=False) as http:
            response = await http.get(f"{url}/healthz")
    except httpx2.HTTPError as error:
        return HopFailed(part, f"{url} does not answer: {type(error).__name__}")
    return None if response.status_code == 200 else HopFailed(part, f"{url} answers {response.status_code}")


async def _probe_tunnel(stack: Stack, server: str) -> HopFailed | None:
    """Ask the server through the tunnel, as the gateway would."""
    try:
        async with open_tunnel(
            join(stack.edge.client_address),
            certificate=stack.pki / "gateway.pem",
            key=stack.pki / "gateway-key.pem",
            ca=stack.customer / "ca.crt",
            edge_ca=stack.pki / "client-listener-ca.pem",
            timeout=PROBE_TIMEOUT,
        ) as http:
            response = await http.post(stack.url(server), headers=MCP_HEADERS, content=json.dumps(PING))
    except TunnelError as failure:
        # The connector is the one that says so, but the proxy is the one that is missing.
        hop = "proxy" if failure.reason == "proxy_unreachable" else failure.hop
        return HopFailed(hop, f"{failure.message} ({failure.reason})")
    except httpx2.HTTPError as error:
        return HopFailed("proxy", f"no answer through the tunnel: {type(error).__name__}")
    if response.status_code in (502, 503, 504):
        return HopFailed("upstream", f"the proxy answers {response.status_code}: {response.text.strip()}")
    return None

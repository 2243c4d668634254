"""Where a call through a tunnel failed: one word, in the order of a request. Pure.

`client`, `edge`, `connector`, `proxy` or `upstream`; the proxy's own answers say by their code which of the last two.
"""

from __future__ import annotations

from collections.abc import Mapping

from qanat.client import TunnelError

PROXY_ERROR = "x-mcp-proxy-error"
UPSTREAM_CODES = ("upstream_dns", "upstream_connect", "upstream_connect_timeout", "upstream_tls", "upstream_timeout",
                  "upstream_protocol")  # fmt: skip
"""The proxy's errors that are the upstream's doing. The rest, a refused address included, are its own."""

_WORDS = {
    "upstream_dns": "the MCP server's name does not resolve",
    "upstream_connect": "the MCP server cannot be connected to",
    "upstream_connect_timeout": "the MCP server takes no connection in time",
    "upstream_tls": "the MCP server's certificate is not trusted",
    "upstream_timeout": "the MCP server does not answer in time",
    "upstream_protocol": "the MCP server ends the connection or answers what is no HTTP",
    "upstream_ip_denied": "the MCP server's address is not among those allowed",
    "no_route": "there is no route of this name",
}


def hop_of(error: BaseException) -> str:
    """The hop to look at for a request that got no answer."""
    if isinstance(error, TunnelError):
        # The connector is the one that says so, but the proxy is the one that is missing.
        return "proxy" if error.reason == "proxy_unreachable" else error.hop
    return "upstream" if isinstance(error, TimeoutError) else "connector"


def hop_of_answer(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """Hop and code, when the answer is the proxy's own and not the upstream's."""
    code = headers.get(PROXY_ERROR)
    if code is None:
        return None
    return ("upstream" if code in UPSTREAM_CODES else "proxy"), code


def in_words(code: str) -> str:
    """The proxy's error code for people, with the code to look up."""
    return f"{_WORDS.get(code, 'the proxy refuses the request')} ({code})"

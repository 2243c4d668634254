"""Promises of the stack as a whole, its demo and the repository."""

from __future__ import annotations

REQUIREMENTS: dict[str, str] = {
    "stack:sdk": "The demo's request through the unmodified SDK answers with data of the sample ticket database",
    "stack:mcp-client": "The official MCP client lists and calls the same tools through the tunnel",
    "stack:once": "`qanat dev --once` exits 0 when everything held, and non-zero naming the hop that failed",
    "stack:hop": "When any one part is missing the error names that hop",
    "stack:clean": "Stopping by a signal leaves no process, no listening socket and no file",
    "stack:blind": "What the edge relays is TLS records in WebSocket frames, and nothing in it can be read",
    "stack:examples": "Each example does what it says against a running stack",
    "stack:imports": "Parts never import one another, and pure modules import nothing that waits",
    "stack:size": "No source file has more than 500 lines",
    "stack:docs": "Every configuration key, flag, error code and metric stands in the reference; links resolve",
}

GAPS: dict[str, str] = {}

"""Promises of the tunnel connection, over HTTP/2 in particular."""

from __future__ import annotations

REQUIREMENTS: dict[str, str] = {
    "tunnel:carriers": "requests, bodies, WebSockets, TCP, resets, pauses and drains work the same over every carrier",
    "tunnel:trailers": "an upstream's trailers reach the edge",
    "tunnel:registrar": "a registrar that is slow or broken makes a stock connector try again, not exit",
    "tunnel:local-configuration": "the first connection reports its configuration unless the edge manages the tunnel",
    "tunnel:configuration": "a pushed configuration is answered in cloudflared's form",
    "tunnel:configuration:stock": "a stock cloudflared takes ingress rules that our edge pushes",
    "tunnel:answers": "whose an answer is comes from its meta header; broken ones end their stream only",
    "tunnel:websocket": "over HTTP/2 a WebSocket is accepted only with the right accept header",
    "tunnel:reset": "a reset is told with its code, also before any answer",
    "tunnel:bugs": "a bug in one stream's protocol ends that stream only",
    "tunnel:client-gone": "a client that leaves cancels its request at once",
    "tunnel:silence": "a silent peer is dropped by either end; a quiet one that answers pings is kept",
    "tunnel:leak": "a thousand idle streams leave nothing behind",
    "tunnel:close": "a close is bounded in time, of a connection and of a stream",
    "tunnel:http2:control": "the control stream is opened at once, once, and bounded in time",
    "tunnel:http2:stalled": "a WebSocket whose upstream stops reading does not slow fifty others, in bounded memory",
    "tunnel:http2:crowded": "readers that stop and hold the shared window are given up, worst first, so others go on",
    "tunnel:http2:limit": "the connector's stream limit is honoured, the control stream counted",
    "tunnel:http2:goaway": "a connector that goes away gets no new streams, and is closed when drained",
    "tunnel:http2:garbage": "a peer that speaks no HTTP/2 is dropped",
}

GAPS: dict[str, str] = {}

"""What the connector promises."""

from __future__ import annotations

REQUIREMENTS: dict[str, str] = {
    "connector:registers": "It registers over HTTP/2, QUIC and WebSocket, and serves streams on each",
    "connector:interop": "A stock cloudflared and ours carry the same traffic to the same edge, byte for byte",
    "connector:stalled": "A WebSocket whose upstream stops reading does not slow fifty others on its connection",
    "connector:inner-tls": "An inner TLS session to the proxy passes through every connector",
    "connector:config": "Flags, variables and file keys are those of cloudflared; a wrong value names its key",
    "connector:command": "The command stops gracefully on a signal, at once on a second, with exit codes 0, 1 and 2",
    "connector:ladder": "Two failed dials lead to the next way out: HTTP/2, QUIC, WebSocket, and around",
    "connector:ladder-explains": "One log line says which way was taken and why the others failed",
    "connector:srv": "Edges are found by SRV record, and those last known serve on while DNS is away",
    "connector:wss": "With neither UDP nor TCP 7844 open it registers by WebSocket on 443",
    "connector:proxy": "That way also leads through an HTTP CONNECT proxy with a password",
    "connector:proxy-env": "HTTPS_PROXY, ALL_PROXY and NO_PROXY are understood as curl does",
    "connector:spread": "Connections use at least two edges whenever there are two",
    "connector:no-hot-loop": "Whatever fails, a minute of it costs only a few attempts",
    "connector:first-retry": "After a lost connection the first retry comes within a second",
    "connector:edge-killed": "A killed edge is noticed, and found again when it is back",
    "connector:edge-restart": "All four connections come back after a restart of the edge",
    "connector:silence": "Packets that vanish silently are noticed by both ends within five seconds",
    "connector:stop-idle": "An idle connector that is told to stop unregisters and stops at once",
    "connector:stop-graceful": "A stopping connector finishes running streams and ends as soon as none is left",
    "connector:stop-grace": "Streams that do not end are cut off when the grace period is over",
    "connector:token-rotated": "A rotated token serves new registrations without a restart; live connections stay",
    "connector:token-reread": "A token file that cannot be read is reported and tried again",
    "connector:archived": "An archived tunnel is one clear line, and asked for again without haste",
    "connector:wrong-token": "A wrong token is one clear line, no hot loop, and never in the log",
    "connector:wrong-ca": "A wrong CA is one clear line and no hot loop",
    "connector:unreachable": "An upstream that is down is a 502 of the connector's own, logged and counted",
    "connector:headers": "No header of one hop, of the tunnel or with a line break in it reaches the upstream",
    "connector:tcp": "Raw TCP goes to the configured upstream, never to an address the edge names",
    "connector:ready": "/ready is 200 only while a connection is registered",
    "connector:metrics": "/metrics counts connections, dials and streams",
    "quic:stream-heads": "Stream heads over QUIC are read however they are cut, and garbage raises only ProtocolError",
    "quic:no-split": "No stream head is cut behind its seventh byte",
    "quic:credit": "Credit follows what was read: a paused stream stops its sender and no other",
    "quic:leak": "A thousand idle streams leave nothing behind",
}

GAPS: dict[str, str] = {}

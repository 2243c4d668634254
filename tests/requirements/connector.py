"""What the connector promises."""

from __future__ import annotations

REQUIREMENTS: dict[str, str] = {
    "connector:registers": "It registers over HTTP/2, QUIC and WebSocket, and serves streams on each",
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
}

GAPS: dict[str, str] = {}

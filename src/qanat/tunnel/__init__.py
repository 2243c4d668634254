"""One connector-to-edge link, both ends: register, open, accept; over HTTP/2, QUIC, WebSocket or memory."""

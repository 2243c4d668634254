"""What a real cloudflared has said, heard by our codecs: captured once, held for ever."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from qanat.wire import cloudflared_headers as marks
from qanat.wire.control_stream import ControlServer, LocalConfigurationReceived, RegisterReceived
from qanat.wire.http2 import HTTP2Connection
from qanat.wire.http2 import events as h2
from qanat.wire.registration import ConnectionDetails
from tests.support.http2 import GET
from tests.support.requirements import requirement
from tests.support.vectors import load

STREAMS = 7
"""The control stream, five requests, a WebSocket."""


def hear_session(data: bytes, step: int) -> list[str]:
    """The events of an edge that opened those streams."""
    client = HTTP2Connection(True)
    for _ in range(STREAMS):
        client.open_stream(GET)
    heard: list[h2.Event] = []
    for start in range(0, len(data), step):
        client.receive_data(data[start : start + step])
        for event in client.events_received():
            match heard[-1:], event:
                case [h2.DataReceived(before, piece)], h2.DataReceived(stream_id, more) if before == stream_id:
                    heard[-1] = h2.DataReceived(stream_id, piece + more)  # reported as it comes, however it is cut
                case _:
                    heard.append(event)
    return [line for event in heard if (line := describe(event))]


def describe(event: Any) -> str:
    """An event in one line; the control stream's data has a vector of its own."""
    match event:
        case h2.DataReceived(1) | h2.SettingsReceived():
            return ""
        case h2.ResponseReceived(stream_id, headers):
            meta = marks.parse_meta(marks.first_value(headers, marks.RESPONSE_META) or "")
            fields = marks.parse_serialised_headers(marks.first_value(headers, marks.RESPONSE_HEADERS) or "")
            return f"{stream_id} status {headers[0][1]} from_upstream={meta[0]} {sorted(fields)}"
    return repr(event)


@requirement("wire:cloudflared")
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_session_over_http2(step: int) -> None:
    vector = load("http2", "cloudflared_session")
    assert hear_session(vector.data, step) == list(vector.expected)


def hear_control(data: bytes) -> list[str]:
    """The events of an edge that accepts the registration."""
    server = ControlServer()
    heard = []
    for byte in data:
        server.receive_data(bytes([byte]))
        for event in server.events_received():
            if isinstance(event, RegisterReceived):
                server.accept(event.question_id, ConnectionDetails(UUID(int=9), "loopback", False))
                assert event.message.secret == b"0123456789abcdef0123456789abcdef"
            heard.append("LocalConfigurationReceived" if isinstance(event, LocalConfigurationReceived) else repr(event))
    server.receive_eof()
    return heard


@requirement("wire:cloudflared")
def test_a_control_stream_from_registration_to_shutdown() -> None:
    vector = load("rpc", "cloudflared_control")
    assert hear_control(vector.data) == list(vector.expected)

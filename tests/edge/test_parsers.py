"""What strangers send first: HTTP heads, PROXY headers. Garbage raises only what it may raise."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.edge.errors import ALL, BadRequest, EdgeRefused, HeadersTooLarge, NodeUnreachable, UnknownHost, refusal_for
from qanat.edge.proxy_protocol import SIGNATURE, ProxiedAddress, parse_proxy_header
from qanat.edge.request import UpgradeParser, UpgradeRequest, response_error, split_host
from qanat.errors import ProtocolError

HEAD = (
    b"GET /mcp HTTP/1.1\r\nHost: Tickets.A1b2c3d4.Example.:8443\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Protocol: x\r\nCF-Int-Secret: 1\r\n\r\n"
)


@given(cuts=st.lists(st.integers(1, len(HEAD)), max_size=8))
def test_a_request_is_read_however_it_is_cut(cuts: list[int]) -> None:
    parser, data = UpgradeParser(4096), HEAD + b"early"
    request: UpgradeRequest | None = None
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        if request is None:
            request = parser.feed(data[start:end])
    assert request is not None
    assert (request.host, request.path, request.stripped) == ("tickets.a1b2c3d4.example", "/mcp", 1)
    assert [name for name, _ in request.headers] == [
        "sec-websocket-version",
        "sec-websocket-key",
        "sec-websocket-protocol",
    ]


@given(st.binary(max_size=400))
def test_garbage_as_a_request_is_refused_or_awaited(data: bytes) -> None:
    with contextlib.suppress(EdgeRefused):
        UpgradeParser(1024).feed(data + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("replace", "by"),
    [
        (b"GET /mcp", b"GET http://other.example/mcp"),
        (b"AAAAAAAAAAAAAAAAAAAAAA==", b"short"),
        (b"Host: ", b"Host: a\r\nHost: "),
        (b"\r\nHost: ", b"\r\nNo: "),
        (b"Tickets", b"Tick\xe4ts"),
        (b"Tickets", b"Tick/ts"),
        (b"CF-Int-Secret: 1", b"Transfer-Encoding: chunked"),
    ],
)
def test_a_malformed_request_is_refused(replace: bytes, by: bytes) -> None:
    with pytest.raises(BadRequest):
        UpgradeParser(4096).feed(HEAD.replace(replace, by))


def test_a_head_may_be_as_large_as_the_limit_and_no_larger() -> None:
    assert UpgradeParser(len(HEAD)).feed(HEAD) is not None
    with pytest.raises(HeadersTooLarge):
        UpgradeParser(len(HEAD) - 1).feed(HEAD)


@pytest.mark.parametrize("host", ["", "tickets", ".domain.example", "tickets."])
def test_a_host_without_route_or_domain_is_unknown(host: str) -> None:
    with pytest.raises(UnknownHost):
        split_host(host)


def test_every_refusal_has_a_code_a_status_with_a_reason_and_a_hop() -> None:
    for kind in ALL:
        response = response_error(kind())
        assert f"X-Qanat-Error: {kind.code}".encode() in response
        assert f" {kind.status} Error".encode() not in response
        assert refusal_for(kind.code).hop == kind.hop
        assert kind.__doc__
    assert isinstance(refusal_for("unheard_of"), NodeUnreachable)


def _header(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body


def test_addresses_of_both_families_are_read() -> None:
    ports = b"\x00\x01\x01\xbb"
    four = _header(0x21, 0x11, bytes((192, 0, 2, 1, 10, 0, 0, 1)) + ports)
    assert parse_proxy_header(four + b"rest") == ProxiedAddress("192.0.2.1", len(four))
    six = _header(0x21, 0x21, bytes(15) + b"\x01" + bytes(16) + ports + b"\x04\x00\x01x")
    assert parse_proxy_header(six) == ProxiedAddress("::1", len(six))
    assert parse_proxy_header(_header(0x20, 0, b"")) == ProxiedAddress("", 16)
    for end in range(len(four)):
        assert parse_proxy_header(four[:end]) is None


@given(st.binary(max_size=64))
def test_garbage_as_a_proxy_header_raises_only_a_protocol_error(data: bytes) -> None:
    for start in (b"", SIGNATURE):
        with contextlib.suppress(ProtocolError):
            parse_proxy_header(start + data)

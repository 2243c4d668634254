"""Reading a ClientHello before TLS does."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.errors import ProtocolError
from qanat.wire.client_hello import ClientHello, read_client_hello


def client_hello(name: str | None, *alpn: str) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("alpn", [[], ["h2"], ["http/1.1", "h2"], ["spdy/3", "x" * 200]])
@pytest.mark.parametrize("name", [None, "Edge.Example.Net"])
def test_name_and_protocols_are_read_once_all_of_it_is_there(name: str | None, alpn: list[str]) -> None:
    data = client_hello(name, *alpn)
    assert all(read_client_hello(data[:size]) is None for size in range(len(data)))
    expected = ClientHello((name or "").lower(), tuple(protocol.encode() for protocol in alpn))
    assert read_client_hello(data) == expected


def test_a_hello_may_span_records() -> None:
    payload = client_hello("a.b", "h2")[5:]
    assert read_client_hello(in_records(payload, len(payload) // 5)) == ClientHello("a.b", (b"h2",))


def test_a_hello_in_crumbs_is_refused_before_it_is_whole() -> None:
    crumbs = in_records(client_hello("a.b", "h2")[5:], 1)  # each byte that comes has all of it read once more
    with pytest.raises(ProtocolError, match="too many records"):
        read_client_hello(crumbs[: len(crumbs) // 2])


def in_records(payload: bytes, size: int) -> bytes:
    """A handshake message cut into TLS records of at most `size` bytes."""
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1", b"\x15\x03\x03\x00\x02\x02\x78", b"\x16\x03\x01\x00\x01\x02"])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_client_hello(data)


@given(st.binary(max_size=300))
def test_garbage_raises_only_a_protocol_error(data: bytes) -> None:
    for start in (b"", b"\x16\x03\x01\x00\xc0\x01\x00\x00\xbc"):
        with contextlib.suppress(ProtocolError):
            read_client_hello(start + data)

"""Reading a ClientHello before TLS does."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.proxy.client_hello import NotClientHello, offered_protocols


def client_hello(*alpn: str) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="echo.t.example")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("alpn", [[], ["h2"], ["http/1.1", "h2"], ["spdy/3", "x" * 200]])
def test_the_offer_is_read_once_it_is_complete(alpn: list[str]) -> None:
    data = client_hello(*alpn)
    assert all(offered_protocols(data[:size]) is None for size in range(len(data)))
    assert offered_protocols(data) == [name.encode() for name in alpn]


def test_a_hello_cut_into_several_records_is_read() -> None:
    data = client_hello("h2")
    payload = data[5:]
    records = b"".join(b"\x16\x03\x01\x00\x01" + payload[i : i + 1] for i in range(len(payload)))
    assert offered_protocols(records) == [b"h2"]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1", b"\x15\x03\x03\x00\x02\x02\x78", b"\x16\x03\x01\x00\x01\x02"])
def test_anything_else_is_left_to_tls(data: bytes) -> None:
    with pytest.raises(NotClientHello):
        offered_protocols(data)


@given(st.binary(max_size=300))
def test_garbage_raises_nothing_else(data: bytes) -> None:
    for prefix in (b"", b"\x16\x03\x01\x01\x00\x01\x00\x00\xf0"):
        with contextlib.suppress(NotClientHello):
            offered_protocols(prefix + data)

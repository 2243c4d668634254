"""The tunnel token."""

from __future__ import annotations

import base64
import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.errors import ProtocolError
from qanat.ids import TunnelUUID
from qanat.wire.token import TokenInvalid, TunnelToken, parse_token
from tests.support.requirements import requirement

TUNNEL = TunnelUUID(UUID("5ce0a9c9-5d06-4b06-9e3d-4d3b7a9e3b11"))


def token_of(fields: object) -> str:
    return base64.b64encode(json.dumps(fields).encode()).decode()


FIELDS = {"a": "account", "t": str(TUNNEL), "s": base64.b64encode(b"0123456789abcdef").decode()}


@requirement("wire:token:round-trip")
@given(st.text(max_size=40), st.uuids(), st.binary(max_size=64), st.sampled_from(["", "us", "fed"]))
def test_what_is_written_is_read(account: str, tunnel: UUID, secret: bytes, endpoint: str) -> None:
    token = TunnelToken(account, TunnelUUID(tunnel), secret, endpoint)
    assert parse_token(token.encode()) == token


@requirement("wire:token:lenient")
def test_unknown_keys_and_surrounding_space_are_ignored() -> None:
    parsed = parse_token(f"\n  {token_of(FIELDS | {'x': 1})}\n")
    assert parsed == TunnelToken("account", TUNNEL, b"0123456789abcdef")


@requirement("wire:token:strict")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64!",
        token_of(FIELDS).rstrip("="),
        base64.urlsafe_b64encode(json.dumps(FIELDS | {"a": "~~~???"}).encode()).decode(),
        token_of([]),
        token_of(FIELDS | {"t": "not-a-uuid"}),
        token_of(FIELDS | {"t": 5}),
        token_of(FIELDS | {"s": "not base64"}),
        token_of({"a": "account"}),
        token_of(FIELDS | {"e": None}),
        base64.b64encode(b"\xff\xfe").decode(),
        "A" * 100_000,
        "\N{SNOWMAN}",
    ],
)
def test_anything_else_is_refused_with_the_field_known_words(text: str) -> None:
    assert len(token_of(FIELDS)) % 4 == 0
    with pytest.raises(TokenInvalid, match="Provided Tunnel token is not valid"):
        parse_token(text)


@requirement("wire:token:secret")
def test_neither_repr_nor_error_shows_the_secret() -> None:
    token = TunnelToken("account", TUNNEL, b"0123456789abcdef")
    assert "0123456789" not in repr(token)
    broken = token.encode()[:-8]
    with pytest.raises(TokenInvalid) as caught:
        parse_token(broken)
    assert broken[:20] not in str(caught.value)
    assert caught.value.__cause__ is None


@requirement("wire:garbage")
@given(st.text(max_size=200))
def test_garbage_raises_only_protocol_error(text: str) -> None:
    for candidate in (text, base64.b64encode(text.encode()).decode()):
        with pytest.raises(ProtocolError):
            parse_token(candidate)

"""The headers between cloudflared and its edge."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.errors import ProtocolError
from qanat.wire import cloudflared_headers as marks
from qanat.wire.cloudflared_headers import MarkedKind
from qanat.wire.http2.events import Headers
from tests.support.requirements import requirement

latin = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=30)


@requirement("wire:headers:serialised")
def test_the_golden_serialisation() -> None:
    text = "Q29udGVudC1MZW5ndGg:NQ;Q29udGVudC1UeXBl:dGV4dC9wbGFpbg"
    headers = (("Content-Length", "5"), ("Content-Type", "text/plain"))
    assert marks.serialise_headers(headers) == text
    assert marks.parse_serialised_headers(text) == headers
    assert marks.serialise_headers(()) == ""
    assert marks.parse_serialised_headers("") == ()


@requirement("wire:round-trip")
@given(st.lists(st.tuples(latin.map(lambda name: "x" + name), latin), max_size=8).map(tuple))
def test_what_is_serialised_is_parsed(headers: Headers) -> None:
    assert marks.parse_serialised_headers(marks.serialise_headers(headers)) == headers


@requirement("wire:headers:internal")
def test_internal_headers_are_never_serialised() -> None:
    names = ("Cf-Int-A", "cf-cloudflared-b", "CF-Proxy-C", ":status")
    assert marks.serialise_headers(tuple((name, "x") for name in names)) == ""


@requirement("wire:garbage")
@given(st.text(max_size=60))
def test_garbage_raises_only_protocol_error(text: str) -> None:
    with suppress(ProtocolError):
        marks.parse_serialised_headers(text)
    assert len(marks.parse_meta(text)) == 2


@requirement("wire:headers:serialised")
@pytest.mark.parametrize("text", ["YQ", "YQ:YQ;", "YQ:Y", "YQ:YQ==", "YQ:!!", "YQ:DQo"])
def test_malformed_serialisations_are_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        marks.parse_serialised_headers(text)


@requirement("wire:headers:kind")
@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ((), MarkedKind.HTTP),
        ((("cf-cloudflared-proxy-connection-upgrade", "websocket"),), MarkedKind.WEBSOCKET),
        ((("cf-cloudflared-proxy-connection-upgrade", "update-configuration"),), MarkedKind.CONFIGURATION),
        ((("cf-cloudflared-proxy-connection-upgrade", "control-stream"),), MarkedKind.CONTROL),
        ((("cf-cloudflared-proxy-connection-upgrade", "other"),), MarkedKind.HTTP),
        ((("cf-cloudflared-proxy-src", "1.2.3.4"),), MarkedKind.TCP),
        ((("cf-cloudflared-proxy-src", ""),), MarkedKind.HTTP),
        (
            (("cf-cloudflared-proxy-connection-upgrade", "control-stream"), ("cf-cloudflared-proxy-src", "x")),
            MarkedKind.TCP,
        ),
        (
            (("cf-cloudflared-proxy-connection-upgrade", "websocket"), ("cf-cloudflared-proxy-src", "x")),
            MarkedKind.WEBSOCKET,
        ),
    ],
)
def test_the_kind_of_a_stream_is_decided_in_cloudflareds_order(headers: Headers, kind: MarkedKind) -> None:
    assert marks.marked_kind(headers) is kind


@pytest.mark.parametrize("kind", [MarkedKind.WEBSOCKET, MarkedKind.TCP, MarkedKind.CONTROL, MarkedKind.CONFIGURATION])
def test_a_marker_marks_its_kind(kind: MarkedKind) -> None:
    assert marks.marked_kind(marks.marker(kind)) is kind


@requirement("wire:headers:internal")
def test_a_client_cannot_speak_to_the_connector() -> None:
    fields = marks.request_fields(
        (
            ("Host", "app.example"),
            ("Cf-Cloudflared-Proxy-Connection-Upgrade", "control-stream"),
            ("CF-INT-Anything", "x"),
            ("Connection", "close, X-Nominated"),
            ("X-Nominated", "x"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("X-Kept", "1"),
        )
    )
    assert fields == (("x-kept", "1"), ("accept-encoding", "identity"))
    assert marks.marked_kind(fields) is MarkedKind.HTTP
    assert marks.is_internal("CF-Cloudflared-X")
    assert not marks.is_internal("cf-ray")


@requirement("wire:headers:encoding")
def test_accept_encoding_is_the_clients_or_identity() -> None:
    assert marks.request_fields((("Accept-Encoding", "br"),)) == (("accept-encoding", "br"),)
    assert marks.request_fields(()) == (("accept-encoding", "identity"),)


@requirement("wire:headers:meta")
@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (marks.ORIGIN_META, (True, False)),
        (marks.CONNECTOR_META, (False, False)),
        (marks.RATE_LIMITED_META, (False, True)),
        ('{"src":"origin","new":1}', (True, False)),
        ("", (False, False)),
        ("[]", (False, False)),
        ("{", (False, False)),
        ("[" * 5000, (False, False)),
    ],
)
def test_response_meta_says_whose_the_answer_is(text: str, meaning: tuple[bool, bool]) -> None:
    assert marks.parse_meta(text) == meaning


def test_the_accept_header_is_that_of_the_rfc() -> None:
    assert marks.websocket_accept("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

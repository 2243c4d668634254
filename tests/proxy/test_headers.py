"""Header lines and origins: the pure rules. `test_forwarding.py` shows them at work."""

from __future__ import annotations

import pytest

from qanat.net.http1_fields import Fields, Header
from qanat.proxy.headers import caller_headers, given_request_id, passing_trailers, upstream_headers
from qanat.proxy.rewrite import OriginRewriter
from qanat.proxy.routes import Authority
from qanat.proxy.upstream_url import parse_upstream

REWRITER = OriginRewriter(parse_upstream("http://hello-mcp:80"), Authority("echo.t.example"))
OURS = b"https://echo.t.example"


@pytest.mark.parametrize(("url", "rewritten"), [
    (b"http://hello-mcp:80/mcp?a=b#c", OURS + b"/mcp?a=b#c"), (b"http://hello-mcp/mcp", OURS + b"/mcp"),
    (b"HTTP://Hello-MCP:80", OURS), (b"http://echo.t.example/x", OURS + b"/x"),
    (b"http://echo.t.example:80/", OURS + b"/"), (b"http://hello-mcp:80\\@evil/", None),
    (b"https://hello-mcp:80/x", OURS + b"/x"),
    (b"https://hello-mcp/", None), (b"http://hello-mcp:8080/", None), (b"http://hello-mcp.evil:80/", None),
    (b"http://hello-mcp:80@evil/", None), (b"/relative", None), (b"https://echo.t.example/x", None),
    (b"http://other/?u=http://hello-mcp:80/", None), (b"//hello-mcp:80/", None), (b"", None),
])  # fmt: skip
def test_only_an_origin_of_ours_is_replaced_and_only_the_origin(url: bytes, rewritten: bytes | None) -> None:
    assert REWRITER(b"location", url) == (url if rewritten is None else rewritten)


def test_refresh_and_challenges_are_rewritten_where_they_name_a_url() -> None:
    assert REWRITER(b"refresh", b"5; url=http://hello-mcp:80/x") == b"5; url=" + OURS + b"/x"
    challenge = b'Bearer realm="http://hello-mcp:80/", resource_metadata="http://hello-mcp:80/.well-known/a", error="x"'
    expected = b'Bearer realm="http://hello-mcp:80/", resource_metadata="' + OURS + b'/.well-known/a", error="x"'
    assert REWRITER(b"www-authenticate", challenge) == expected
    assert REWRITER(b"www-authenticate", b'Bearer resource_metadata="https://auth/x"').endswith(b'"https://auth/x"')


def test_a_head_that_is_remembered_goes_to_each_upstream_under_its_own_name() -> None:
    headers = Fields([(b"Host", b"echo.t.example"), (b"Accept", b"*/*")])

    def sent(host: bytes, request_id: str) -> bytes:
        authority = Authority("echo.t.example")
        outgoing = upstream_headers(headers, host=host, authority=authority, request_id=request_id, protocol=b"1.1")
        encoded = outgoing.encode(b"GET / HTTP/1.1")
        assert encoded == b"\r\n".join([b"GET / HTTP/1.1", *map(b": ".join, outgoing), b"\r\n"])
        return encoded

    one, other = sent(b"one:80", "id-1"), sent(b"other:80", "id-2")
    assert b"\r\nHost: one:80\r\n" in one
    assert b"\r\nX-Request-Id: id-1\r\n" in one
    assert other == one.replace(b"one:80", b"other:80").replace(b"id-1", b"id-2")


def test_an_answer_loses_what_is_only_for_the_next_hop() -> None:
    sent: list[Header] = [
        (b"Connection", b"x-hop, close"), (b"X-Hop", b"1"), (b"Keep-Alive", b"5"), (b"Transfer-Encoding", b"chunked"),
        (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"), (b"X-Request-Id", b"theirs"), (b"ETag", b'"x"'),
    ]  # fmt: skip
    assert list(caller_headers(Fields(sent), "id", None)) == [
        (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"), (b"ETag", b'"x"'), (b"X-Request-Id", b"id"),
    ]  # fmt: skip


@pytest.mark.parametrize(("given", "kept"), [
    ([b"abc-1.2_3"], True), ([b"a" * 128], True), ([b"a" * 129], False), ([b""], False), ([b"a b"], False),
    ([b"a\nb"], False), ([b"a", b"b"], False), ([], False), ([b"<script>"], False),
])  # fmt: skip
def test_a_request_id_is_kept_only_in_a_harmless_shape(given: list[bytes], kept: bool) -> None:
    headers = Fields((b"X-Request-ID", value) for value in given)
    assert given_request_id(headers) == (given[0].decode() if kept else "")


def test_trailers_cannot_say_what_belongs_before_the_body() -> None:
    trailers = ((b"Content-Length", b"1"), (b"Authorization", b"x"), (b"Transfer-Encoding", b"x"), (b"X-Sum", b"7"))
    assert passing_trailers(trailers) == ((b"X-Sum", b"7"),)

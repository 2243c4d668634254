"""From a hostname to a route."""

from __future__ import annotations

import pytest

from qanat.proxy.routes import Authority, BadHost, RouteTable, parse_authority

TABLE = RouteTable(
    {"echo": 1, "Echo2": 2, "a.b": 3, "wiki.corp.example": 4, "echo3.t.example": 5, "echo3": 6}, "T.example"
)


@pytest.mark.parametrize(("host", "route"), [
    ("echo.t.example", 1), ("echo2.t.example", 2), ("a.b.t.example", 3), ("wiki.corp.example", 4),
    ("echo3.t.example", 5), ("echo", 1), ("t.example", None), ("nope.t.example", None), ("echo.t.example.evil", None),
    ("xt.example", None), ("echo.u.example", None), ("wiki.corp.example.t.example", 4),
])  # fmt: skip
def test_exact_first_then_below_the_tunnel_domain(host: str, route: int | None) -> None:
    assert TABLE.match(host) == route


@pytest.mark.parametrize(("text", "authority"), [
    ("ECHO.T.EXAMPLE.:443", Authority("echo.t.example")), ("a_b", Authority("a_b")), ("a:", Authority("a")),
    ("a:8443", Authority("a", 8443)), ("10.0.0.1:80", Authority("10.0.0.1", 80)), ("[::1]:80", Authority("[::1]", 80)),
])  # fmt: skip
def test_a_host_is_normalised(text: str, authority: Authority) -> None:
    assert parse_authority(text) == authority


@pytest.mark.parametrize("text", [
    "", ":80", "a b", "a,b", "a/b", "a@b", "a:b", "a:0", "a:65536", "a:-1", "a..b", ".a", "-a", "a-.b", "a:80:80",
    "[::1", "é", "a\x00", "x" * 64 + ".a", ".".join(["a" * 60] * 5), "a:٣",
])  # fmt: skip
def test_a_host_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(BadHost):
        parse_authority(text)


def test_one_session_may_serve_names_that_are_both_ours() -> None:
    assert TABLE.serves_both("echo.t.example", "other.t.example")
    assert TABLE.serves_both("wiki.corp.example", "echo3.t.example")
    assert not TABLE.serves_both("echo.t.example", "wiki.corp.example")
    assert not TABLE.serves_both("evil.example", "echo.t.example")

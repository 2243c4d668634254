"""Identity tokens as text from anybody: what is read, and what is no token to us."""

from __future__ import annotations

import base64

import pytest

from qanat.control.assertions import Denied, parse_assertion, summary


def part(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def nested(depth: int) -> str:
    """A token whose claims nest as deeply."""
    claims = '{"aud":' + "[" * depth + "]" * depth + "}"
    return f"{part('{}')}.{part(claims)}.AAAA"


@pytest.mark.parametrize("depth", [33, 200, 900, 958, 2000])
def test_claims_that_nest_too_deeply_are_malformed(depth: int) -> None:
    """What can just be read, the history could not be told of: the answer was a 500 that no denial gives."""
    with pytest.raises(Denied, match="jwt_malformed"):
        parse_assertion(nested(depth))


def test_claims_may_nest_as_deeply_as_any_platform_writes_them() -> None:
    assert summary(parse_assertion(nested(30)))["aud"].startswith("[[")

"""Identity tokens: parsing and judging a compact JWS, step by step, with a reason for every denial.

Pure: keys, time and limits are handed in. The reasons go to the authentication history, never to the client.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import jwt
from jwt.exceptions import InvalidKeyError

MAX_ASSERTION = 16 * 1024
MAX_DEPTH = 32
SKEW = 30
"""Seconds by which clocks may differ."""
MIN_RSA_BITS = 2048
_EC_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", *_EC_CURVES})
_PUBLIC_MEMBERS = ("kty", "use", "key_ops", "alg", "kid", "n", "e", "crv", "x", "y")


class Denied(Exception):
    """An exchange is refused; `reason` is for the history."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Assertion:
    """A parsed identity token; nothing in it is verified yet."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @property
    def kid(self) -> str | None:
        kid = self.header.get("kid")
        return kid if isinstance(kid, str) else None


def parse_assertion(text: str) -> Assertion:
    """Raises `Denied("jwt_malformed")`."""
    parts = text.split(".")
    if len(parts) != 3:
        raise Denied("jwt_malformed")
    header, claims = _json_part(parts[0]), _json_part(parts[1])
    if "crit" in header:
        raise Denied("jwt_malformed")
    return Assertion(header, claims, f"{parts[0]}.{parts[1]}".encode(), _part(parts[2]))


def _part(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Denied("jwt_malformed") from None


def _json_part(text: str) -> dict[str, Any]:
    try:
        value = json.loads(_part(text), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise Denied("jwt_malformed") from None
    if not isinstance(value, dict) or _is_deeper(value, MAX_DEPTH):
        raise Denied("jwt_malformed")
    return value


def _is_deeper(value: object, depth: int) -> bool:
    """What can just be read may be too deep to be written into the history."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(depth == 0 or _is_deeper(child, depth - 1) for child in children)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate member")
    return result


def check_algorithm(assertion: Assertion) -> str:
    """The algorithm, an asymmetric one. Raises `Denied`."""
    algorithm = assertion.header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise Denied("jwt_alg")
    return algorithm


def find_key(assertion: Assertion, keys: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The key the header names, when it fits the algorithm."""
    algorithm = assertion.header["alg"]
    for key in keys:
        if assertion.kid is not None and key.get("kid") == assertion.kid and fits(key, algorithm):
            return key
    return None


def fits(key: Mapping[str, Any], algorithm: str) -> bool:
    """Whether a key is for signatures by that algorithm."""
    if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return False
    if algorithm in _EC_CURVES:
        return key.get("kty") == "EC" and key.get("crv") == _EC_CURVES[algorithm]
    return key.get("kty") == "RSA"


def check_signature(assertion: Assertion, key: Mapping[str, Any]) -> None:
    """Raises `Denied`."""
    algorithm = jwt.get_algorithm_by_name(str(assertion.header["alg"]))
    try:
        valid = algorithm.verify(assertion.signed, algorithm.from_jwk(dict(key)), assertion.signature)
    except (ValueError, InvalidKeyError):
        valid = False
    if not valid:
        raise Denied("jwt_signature")


def check_claims(claims: Mapping[str, Any], issuer_url: str, max_lifetime: int, now: datetime) -> float:
    """Issuer, times and subject. Returns the expiry (seconds since 1970). Raises `Denied`."""
    if claims.get("iss") != issuer_url:
        raise Denied("jwt_iss")
    seconds = now.timestamp()
    expires = _number(claims, "exp", "jwt_exp")
    if expires <= seconds - SKEW:
        raise Denied("jwt_exp")
    issued = _number(claims, "iat", "jwt_iat")
    if issued > seconds + SKEW:
        raise Denied("jwt_iat")
    if "nbf" in claims and _number(claims, "nbf", "jwt_nbf") > seconds + SKEW:
        raise Denied("jwt_nbf")
    if expires - issued > max_lifetime:
        raise Denied("jwt_lifetime")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise Denied("jwt_sub")
    return expires


def _number(claims: Mapping[str, Any], name: str, reason: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise Denied(reason)
    return value


def check_match(match: Mapping[str, Any], claims: Mapping[str, Any], default_audiences: Sequence[str]) -> None:
    """Everything a rule asks for but its condition. Raises `Denied`."""
    audience = claims.get("aud")
    presented = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
    wanted = [match["audience"]] if match.get("audience") is not None else default_audiences
    if not any(item in wanted for item in presented if isinstance(item, str)):
        raise Denied("match_audience")
    prefix = match.get("subject_prefix")
    if prefix is not None and not matches_subject(prefix, claims["sub"]):
        raise Denied("match_subject_prefix")
    for name, value in (match.get("claims") or {}).items():
        if not isinstance(claims.get(name), str) or claims[name] != value:
            raise Denied("match_claims")


def matches_subject(pattern: str, subject: str) -> bool:
    """Exact, or by prefix when the pattern's last character is `*`."""
    return subject.startswith(pattern[:-1]) if pattern.endswith("*") else subject == pattern


def usable_keys(keys: Sequence[object]) -> list[dict[str, Any]]:
    """Those keys of a set that we verify with, without any private member."""
    return [usable for key in keys if isinstance(key, dict) and (usable := _usable(key)) is not None]


def _usable(key: Mapping[str, Any]) -> dict[str, Any] | None:
    public = {name: key[name] for name in _PUBLIC_MEMBERS if key.get(name) is not None}
    if not all(_is_text(value) for value in public.values()):  # a number such as NaN is more than a database can hold
        return None
    try:
        if public.get("kty") == "RSA":
            strong = jwt.PyJWK(public | {"alg": "RS256"}).key.key_size >= MIN_RSA_BITS
        else:
            names = {curve: algorithm for algorithm, curve in _EC_CURVES.items()}
            strong = public.get("kty") == "EC" and jwt.PyJWK(public | {"alg": names[public["crv"]]}).key is not None
    except (ValueError, TypeError, KeyError, jwt.PyJWTError):
        return None
    return public if strong else None


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def summary(assertion: Assertion | None) -> dict[str, Any]:
    """What the history keeps of an assertion, shortened: it may come from anybody."""
    if assertion is None:
        return {}
    claims = {name: assertion.claims.get(name) for name in ("iss", "sub", "aud", "jti")}
    return {name: _short(value) for name, value in (claims | {"kid": assertion.kid}).items() if value is not None}


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:256])

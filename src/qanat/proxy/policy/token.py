"""Judges an access token (RFC 9068, RFC 8725) that a caller presents to an enforced route.

Signature checking is PyJWT's; which token is acceptable is decided here. A refusal carries its reason for the log
only: every caller sees the same 401.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import jwt
from jwt.types import Options

from qanat.errors import QanatError

MAX_TOKEN = 16 * 1024
_SAFE_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC"}
_SIGNATURE_ONLY: Options = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
"""The claims are judged here, where tests can hand in the time."""


@dataclass(eq=False)
class TokenRefused(QanatError):
    """A token that opens nothing here. `reason` is for the log, never for the caller."""

    code: ClassVar[str] = "invalid_token"
    status: ClassVar[int] = 401
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class ScopeMissing(QanatError):
    """A good token that does not open this. `scopes` are the ones needed."""

    code: ClassVar[str] = "insufficient_scope"
    status: ClassVar[int] = 403
    scopes: tuple[str, ...]

    def __str__(self) -> str:
        return "insufficient scope"


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """What a route asks of a token."""

    issuer: str
    audience: tuple[str, ...]
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    required_scopes: tuple[str, ...] = ()
    tool_scopes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    leeway: float = 30.0
    strict_type: bool = False
    """Only `typ: at+jwt`, as RFC 9068 asks."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a verified token stands for. `expires_at` is Unix seconds."""

    issuer: str
    subject: str
    client_id: str | None
    scopes: frozenset[str]
    expires_at: float
    claims: dict[str, Any]


def key_id(token: str, algorithms: tuple[str, ...]) -> str:
    """The `kid` a token wants to be checked with. Raises `TokenRefused` for what needs no key to be refused."""
    if len(token) > MAX_TOKEN:
        raise TokenRefused("token too long")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise TokenRefused("not a JWT") from error
    if header.get("alg") not in algorithms:
        raise TokenRefused(f"algorithm {str(header.get('alg'))[:20]!r} is not allowed")
    if "crit" in header:
        raise TokenRefused("critical header not understood")
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise TokenRefused("no key id")
    return kid


def verify(token: str, key: jwt.PyJWK, policy: TokenPolicy, now: float) -> Caller:
    """Who the token stands for. Raises `TokenRefused`. `now` is Unix seconds."""
    header = jwt.get_unverified_header(token)
    algorithm = str(header["alg"])
    if key.key_type != _KEY_TYPES.get(algorithm[:2]) or key.public_key_use not in (None, "sig"):
        raise TokenRefused("key does not fit the algorithm")
    stated = getattr(key, "_jwk_data", {}).get("alg")
    if stated is not None and stated != algorithm:
        raise TokenRefused("key is for another algorithm")
    types = ("at+jwt", "application/at+jwt") if policy.strict_type else ("at+jwt", "application/at+jwt", "jwt", "none")
    if str(header.get("typ")).lower() not in types:
        raise TokenRefused("wrong token type")
    try:
        claims: dict[str, Any] = jwt.decode(token, key.key, algorithms=[algorithm], options=_SIGNATURE_ONLY)
    except jwt.PyJWTError as error:
        raise TokenRefused("bad signature") from error
    return judge_claims(claims, policy, now)


def judge_claims(claims: dict[str, Any], policy: TokenPolicy, now: float) -> Caller:
    """Who verified claims stand for. Raises `TokenRefused`. Introspection answers (RFC 7662) are judged here too."""
    if "nonce" in claims or "at_hash" in claims:
        raise TokenRefused("an ID token is not an access token")
    if claims.get("iss") != policy.issuer:
        raise TokenRefused("wrong issuer")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if not any(isinstance(value, str) and value in policy.audience for value in audiences):
        raise TokenRefused("wrong audience")
    expires = _seconds(claims, "exp")
    if expires is None or expires <= now - policy.leeway:
        raise TokenRefused("expired")
    for claim in ("nbf", "iat"):
        begins = _seconds(claims, claim)
        if begins is not None and begins > now + policy.leeway:
            raise TokenRefused("not valid yet")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise TokenRefused("no subject")
    client = claims.get("client_id", claims.get("azp"))
    return Caller(policy.issuer, subject, client if isinstance(client, str) else None, _scopes(claims), expires, claims)


def check_scopes(caller: Caller, policy: TokenPolicy, tools: list[str]) -> None:
    """Whether the caller may use the route, and these tools. Raises `ScopeMissing` naming all that it takes."""
    needed = list(policy.required_scopes)
    for pattern, scopes in policy.tool_scopes:
        if any(fnmatchcase(tool, pattern) for tool in tools):
            needed.extend(scopes)
    if not caller.scopes.issuperset(needed):
        raise ScopeMissing(tuple(dict.fromkeys(needed)))


def header_value(claim: object) -> str:
    """A claim as a header value; text that a header cannot carry goes as `=?base64?…?=`."""
    text = " ".join(map(str, claim)) if isinstance(claim, (list, frozenset)) else str(claim)
    if _SAFE_VALUE.fullmatch(text) and not text.startswith("=?base64?"):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def _seconds(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TokenRefused(f"{name} is not a number")
    return float(value)


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    value = claims.get("scope", claims.get("scp", ""))
    if isinstance(value, list):
        return frozenset(str(item) for item in value)
    return frozenset(str(value).split())

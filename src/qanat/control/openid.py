"""OpenID Connect as a relying party, without I/O: where a browser is sent, and what comes back, judged.

The authorization code flow with PKCE (RFC 7636), state and nonce (OpenID Connect Core 1.0, 3.1), and the issuer named
in the answer (RFC 9207). Every refusal says its cause, and what an operator can do about it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from qanat.control.assertions import (
    Denied,
    check_algorithm,
    check_claims,
    check_signature,
    find_key,
    fits,
    parse_assertion,
)
from qanat.control.config import SingleSignOn
from qanat.control.errors import Refused

ANY_LIFETIME = 2**54
"""An ID token is looked at once, moments after it was made: how long it lives is the provider's business."""
REQUIRED = ("authorization_endpoint", "token_endpoint", "jwks_uri")
ENDPOINTS = (*REQUIRED, "userinfo_endpoint", "end_session_endpoint")
MAX_NAME, MAX_SUBJECT = 128, 255
FIXES = {
    "jwt_malformed": ("sent something that is no ID token", "Is single_sign_on.issuer an OpenID provider?"),
    "jwt_alg": (
        "signed the ID token with an algorithm that is not accepted",
        "Let the provider sign with RS256, PS256 or ES256; HS256 and none are refused.",
    ),
    "jwt_kid": (
        "signed the ID token with a key that it does not publish",
        "Try again in a minute: keys may have been changed just now.",
    ),
    "jwt_signature": ("sent an ID token whose signature is wrong", "Look at who answers for the provider's name."),
    "jwt_iss": (
        "sent an ID token of another issuer",
        "Set single_sign_on.issuer to exactly what the provider's discovery document calls its issuer.",
    ),
    "jwt_exp": ("sent an ID token that has expired", "Compare the clocks of the provider and of this control plane."),
    "jwt_iat": ("sent an ID token from the future", "Compare the clocks of the provider and of this control plane."),
    "jwt_nbf": ("sent an ID token from the future", "Compare the clocks of the provider and of this control plane."),
    "jwt_sub": ("sent an ID token that names nobody", "The token needs a sub claim."),
    "audience": (
        "sent an ID token that is meant for another application",
        "Set single_sign_on.client_id to the id of this application at the provider.",
    ),
    "nonce": ("sent an ID token that does not belong to this sign-in", "Start again, in one window."),
}
"""Why an ID token was refused, and what helps."""


@dataclass(eq=False)
class SignInFailed(Refused):
    """Nobody is signed in. `cause` and `fix` are sentences for a page."""

    code, status = "sign_in_failed", 403
    cause: str
    fix: str

    def __str__(self) -> str:
        return self.cause


@dataclass(eq=False)
class ProviderUnavailable(SignInFailed):
    """The provider cannot be asked, or answers nonsense."""

    code, status = "sign_in_provider_unavailable", 502


@dataclass(eq=False)
class NoRole(SignInFailed):
    """The provider knows the person, and nothing it says of them opens this console."""

    code = "sign_in_without_role"
    who: str = ""


def stale() -> SignInFailed:
    """For an answer that belongs to no sign-in of this browser."""
    return SignInFailed(
        "This sign-in was begun in another browser, or more than ten minutes ago.",
        "Start again, in one window, with cookies allowed.",
    )


@dataclass(frozen=True)
class Provider:
    """What a discovery document says, as far as we use it."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    end_session_endpoint: str | None
    posts_secret: bool
    """Whether the client's secret goes into the form instead of a header."""
    names_itself: bool
    """Whether its answers to browsers carry `iss`."""


def parse_provider(document: Mapping[str, Any], issuer: str) -> Provider:
    """The provider in a discovery document. Raises `ProviderUnavailable`."""
    if document.get("issuer") != issuer:
        raise ProviderUnavailable(
            "The sign-in provider calls itself by another name than the one configured.",
            "Set single_sign_on.issuer to exactly what its discovery document calls its issuer.",
        )
    urls = {name: value for name in ENDPOINTS if isinstance(value := document.get(name), str)}
    if missing := [name for name in REQUIRED if name not in urls]:
        raise ProviderUnavailable(
            f"The sign-in provider's discovery document has no {missing[0]}.",
            "Is single_sign_on.issuer an OpenID provider with the authorization code flow?",
        )
    methods = document.get("token_endpoint_auth_methods_supported")
    methods = methods if isinstance(methods, list) else ["client_secret_basic"]
    return Provider(
        issuer=issuer, **{name: urls[name] for name in REQUIRED},
        userinfo_endpoint=urls.get("userinfo_endpoint"), end_session_endpoint=urls.get("end_session_endpoint"),
        posts_secret="client_secret_basic" not in methods and "client_secret_post" in methods,
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
    )  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """A sign-in that was begun: what the browser keeps, sealed, until the provider sends it back."""

    state: str
    nonce: str
    verifier: str = field(repr=False)
    return_to: str
    expires: float
    """Seconds since 1970."""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Attempt:
        return cls(**json.loads(data))


def authorization_url(provider: Provider, sso: SingleSignOn, attempt: Attempt, redirect_uri: str) -> str:
    """Where to send the browser."""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(attempt.verifier.encode()).digest()).rstrip(b"=").decode()
    return with_query(
        provider.authorization_endpoint,
        response_type="code", client_id=sso.client_id, redirect_uri=redirect_uri, scope=" ".join(sso.scopes),
        state=attempt.state, nonce=attempt.nonce, code_challenge=challenge, code_challenge_method="S256",
    )  # fmt: skip


def with_query(url: str, **parameters: str) -> str:
    """`url` with more parameters."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(parameters)}"


def read_answer(answer: Mapping[str, str], attempt: Attempt, provider: Provider, now: float) -> str:
    """The code in what the browser came back with. Raises `SignInFailed`."""
    if attempt.expires <= now or not hmac.compare_digest(answer.get("state", "").encode(), attempt.state.encode()):
        raise stale()
    named = answer.get("iss")
    if named != provider.issuer and (named is not None or provider.names_itself):
        raise SignInFailed("The answer came from another provider than the one asked.", "Start again, in one window.")
    if answer.get("error"):
        told = ": ".join(shorten(answer[name]) for name in ("error", "error_description") if name in answer)
        raise SignInFailed(
            f"The sign-in provider refused: {told}.",
            "Ask whoever runs the provider whether this person may use this application, and look at "
            "single_sign_on.scopes.",
        )
    if not answer.get("code"):
        raise SignInFailed("The sign-in provider sent no code.", "Start again.")
    return answer["code"]


def judge_id_token(
    token: str, keys: Sequence[Mapping[str, Any]], sso: SingleSignOn, nonce: str, now: datetime
) -> Mapping[str, Any]:
    """The claims of a good ID token (OpenID Connect Core 1.0, 3.1.3.7). Raises `Denied`."""
    parsed = parse_assertion(token)
    algorithm = check_algorithm(parsed)
    key = find_key(parsed, keys)
    if key is None and parsed.kid is None and len(keys) == 1:
        key = keys[0] if fits(keys[0], algorithm) else None
    if key is None:
        raise Denied("jwt_kid")
    check_signature(parsed, key)
    check_claims(parsed.claims, sso.issuer, ANY_LIFETIME, now)
    if len(parsed.claims["sub"]) > MAX_SUBJECT or not parsed.claims["sub"].isprintable():
        raise Denied("jwt_sub")
    _check_audience(parsed.claims, sso.client_id)
    sent = parsed.claims.get("nonce")
    if not isinstance(sent, str) or not hmac.compare_digest(sent.encode(errors="surrogatepass"), nonce.encode()):
        raise Denied("nonce")
    return parsed.claims


def _check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    audience, party = claims.get("aud"), claims.get("azp")
    audiences = audience if isinstance(audience, list) else [audience]
    if client_id not in audiences or (party is not None and party != client_id):
        raise Denied("audience")
    if len(audiences) > 1 and party is None:
        raise Denied("audience")


def refusal(denied: Denied) -> SignInFailed:
    """A refused ID token as its page says it."""
    cause, fix = FIXES[denied.reason]
    return SignInFailed(f"The sign-in provider {cause}.", fix)


@dataclass(frozen=True)
class Person:
    """Who signed in, as far as the provider's word reaches."""

    subject: str
    email: str | None
    """None when there is none that counts."""
    roles: frozenset[str]

    @property
    def name(self) -> str:
        """For the header and the audit trail."""
        name = self.email or self.subject
        if len(name) <= MAX_NAME:
            return name
        return f"subject {hashlib.sha256(self.subject.encode()).hexdigest()[:16]}"


def find_claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by a path of names with dots; None when it is not there."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def is_complete(claims: Mapping[str, Any], sso: SingleSignOn) -> bool:
    """Whether the claims say all that is asked of a person."""
    return find_claim(claims, sso.roles_claim) is not None and "email" in claims


def read_person(claims: Mapping[str, Any], more: Mapping[str, Any], sso: SingleSignOn) -> Person:
    """The person in an ID token, and in what the provider's userinfo adds to it."""
    source = claims if "email" in claims else more
    email = source.get("email")
    counts = not sso.require_verified_email or source.get("email_verified") in (True, "true")
    usable = isinstance(email, str) and counts and email.count("@") == 1 and email.isprintable()
    roles = find_claim(claims, sso.roles_claim)
    roles = find_claim(more, sso.roles_claim) if roles is None else roles
    if sso.roles_claim == "email" and not usable:
        roles = None  # whoever may write any address into a profile would be whom they like
    listed = [roles] if isinstance(roles, str) else roles if isinstance(roles, list) else []
    return Person(claims["sub"], email if usable else None, frozenset(item for item in listed if isinstance(item, str)))


def check_domain(person: Person, sso: SingleSignOn) -> None:
    """Raises `NoRole` for an address outside of the configured domains."""
    domain = (person.email or "").rpartition("@")[2].lower()
    if not sso.email_domains or domain in {item.lower() for item in sso.email_domains}:
        return
    cause = f"This console does not take e-mail addresses of {domain}."
    if person.email is None:
        cause = "The sign-in provider tells no verified e-mail address of this person."
    raise NoRole(
        cause,
        "An operator may add the domain to single_sign_on.email_domains, let the provider verify addresses, or turn "
        "require_verified_email off.",
        person.name,
    )


def role_of(person: Person, sso: SingleSignOn) -> str:
    """`manager` or `viewer`. Raises `NoRole`."""
    if person.roles & set(sso.manage):
        return "manager"
    if person.roles & set(sso.read_only):
        return "viewer"
    told = "names no group that opens this console" if person.roles else "tells no groups of this person"
    raise NoRole(
        f"You are known as {person.name}, but the provider's claim {sso.roles_claim!r} {told}.",
        "Ask for one of the groups that may, or have an operator add yours to single_sign_on.manage or "
        "single_sign_on.read_only. If the claim is empty, the provider has to be told to send it.",
        person.name,
    )


def shorten(text: str) -> str:
    """What a provider wrote, fit for a page and a log."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:200])

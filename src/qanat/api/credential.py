"""Which credential a request presents, and how ours do: one rule for every door that takes an API key or a token."""

from __future__ import annotations

from collections.abc import Mapping

from qanat.errors import ConfigInvalid


def bearer(credential: str, name: str = "the credential") -> str:
    """The value of `Authorization` that presents `credential`.

    Raises `ConfigInvalid`, which does not repeat it, where the HTTP client would with a text that no header can carry.
    """
    if not (credential.isascii() and credential.isprintable()):
        raise ConfigInvalid([f"{name} holds a line break, or another character that is in no key"])
    return f"Bearer {credential}"


def presented_in(headers: Mapping[str, str]) -> str | None:
    """The bearer of `Authorization`, else the value of `X-Api-Key`; None when there is neither. Names are lower case.

    `Authorization` wins when both are there, and what it holds is never passed over: with another scheme, or with
    nothing behind it, the request has no credential. Newest SDKs send keys as bearers, older ones in `X-Api-Key`.
    """
    if authorization := headers.get("authorization", "").strip():
        scheme, _, token = authorization.partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None
    return headers.get("x-api-key", "").strip() or None

"""Talking to an authorization server as its client: registration, code exchange, refresh, revocation."""

from __future__ import annotations

import base64
from urllib.parse import quote

import httpx2
from mcp.client.auth import OAuthRegistrationError
from mcp.client.auth.oauth2 import check_registration_usable
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata
from pydantic import AnyUrl, TypeAdapter, ValidationError

from qanat.gateway.access import Caller
from qanat.gateway.oauth.fetch import Fetcher
from qanat.gateway.oauth.model import AuthMethod, Credential, Endpoints, OAuthClient, SignInFailed


class RefreshRefused(SignInFailed):
    """The authorization server will not refresh: the user has to sign in again."""


async def register(fetch: Fetcher, caller: Caller, endpoints: Endpoints, redirect_uri: str) -> OAuthClient:
    """A client registered dynamically (RFC 7591). Raises `SignInFailed`."""
    if endpoints.registration is None:
        raise SignInFailed(
            "registration_unsupported",
            "The authorization server offers no registration; an administrator must supply a client_id.",
        )
    metadata = OAuthClientMetadata(
        client_name="qanat gateway",
        redirect_uris=[AnyUrl(redirect_uri)],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        token_endpoint_auth_method="none",  # noqa: S106 - the name of a method
        scope=endpoints.scope,
    )
    body = metadata.model_dump(by_alias=True, mode="json", exclude_none=True)
    response = await fetch.send(caller, "POST", endpoints.registration, json=body)
    if response.status_code not in (200, 201):
        raise SignInFailed(error_code(response), "The authorization server refused to register a client.")
    try:
        registered = OAuthClientInformationFull.model_validate_json(response.content)
        check_registration_usable(registered)
    except (ValidationError, OAuthRegistrationError):
        raise SignInFailed(
            "registration_unusable", "The authorization server registered a client we cannot be."
        ) from None
    method = TypeAdapter(AuthMethod).validate_python(registered.token_endpoint_auth_method or "none")
    return OAuthClient(registered.client_id or "", registered.client_secret, method)


async def exchange(
    fetch: Fetcher, caller: Caller, endpoints: Endpoints, client: OAuthClient, form: dict[str, str]
) -> dict[str, object]:
    """The token endpoint's answer to an authorization code. Raises `SignInFailed`."""
    body = {"grant_type": "authorization_code", "resource": endpoints.resource, **form}
    response = await _post(fetch, caller, endpoints.token, client, body)
    if response.status_code != 200:
        raise SignInFailed(error_code(response), "The authorization server refused the code.")
    return _object(response)


async def refresh(fetch: Fetcher, caller: Caller, credential: Credential) -> dict[str, object]:
    """The token endpoint's answer to a refresh token.

    Raises `RefreshRefused` when the server says no, `SignInFailed` when it could not be asked.
    """
    form = {"grant_type": "refresh_token", "refresh_token": credential.refresh_token or ""}
    if credential.resource:
        form["resource"] = credential.resource
    response = await _post(fetch, caller, credential.token_endpoint, credential.client, form)
    if response.status_code == 200:
        return _object(response)
    if not 400 <= response.status_code < 500 or response.status_code in (408, 429):  # a redirect is no refusal either
        raise SignInFailed("temporarily_unavailable", "The authorization server cannot refresh the token now.")
    raise RefreshRefused(error_code(response), "The authorization server refused to refresh the token.")


async def revoke(fetch: Fetcher, caller: Caller, credential: Credential) -> None:
    """Give a credential back (RFC 7009). Raises `SignInFailed` when the server could not be asked."""
    if credential.revocation_endpoint is None:
        return
    form = {"token": credential.refresh_token or credential.access_token}
    await _post(fetch, caller, credential.revocation_endpoint, credential.client, form)


async def _post(fetch: Fetcher, caller: Caller, url: str, client: OAuthClient, form: dict[str, str]) -> httpx2.Response:
    headers = {}
    if client.method == "client_secret_basic" and client.client_secret:
        # RFC 6749 2.3.1: both parts are form-encoded first.
        pair = f"{quote(client.client_id, safe='')}:{quote(client.client_secret, safe='')}"
        headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        form = {**form, "client_id": client.client_id}
        if client.method == "client_secret_post" and client.client_secret:
            form["client_secret"] = client.client_secret
    return await fetch.send(caller, "POST", url, data=form, headers=headers)


def _object(response: httpx2.Response) -> dict[str, object]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise SignInFailed("invalid_token_response", "The authorization server's answer is no JSON object.")
    return answer


def error_code(response: httpx2.Response) -> str:
    """The server's own error code; its description stays out of what users see."""
    try:
        code = response.json().get("error")
    except (ValueError, AttributeError):
        code = None
    return code if isinstance(code, str) and len(code) < 100 and code.isascii() else f"status_{response.status_code}"

"""From the address of an MCP server to the endpoints of its authorization server (RFC 9728, RFC 8414).

The parsing is the MCP SDK's; the order, and what ends the search, are the protocol's rules. Endpoints are taken as
advertised, never made up from an origin.
"""

from __future__ import annotations

import json
from dataclasses import replace

import httpx2
from mcp.client.auth import OAuthFlowError
from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    build_protected_resource_metadata_discovery_urls,
    extract_field_from_www_auth,
    extract_resource_metadata_from_www_auth,
    extract_scope_from_www_auth,
    get_client_metadata_scopes,
    issuers_match,
    validate_metadata_issuer,
)
from mcp.shared.auth import OAuthMetadata, ProtectedResourceMetadata
from mcp.shared.auth_utils import check_resource_allowed, resource_url_from_server_url
from mcp_types.version import LATEST_HANDSHAKE_VERSION
from pydantic import ValidationError

from qanat.gateway.access import Caller
from qanat.gateway.oauth.fetch import Fetcher
from qanat.gateway.oauth.model import Endpoints, SignInFailed

HEADERS = {"mcp-protocol-version": LATEST_HANDSHAKE_VERSION}


async def discover(fetch: Fetcher, caller: Caller, url: str, extra_scope: str | None = None) -> Endpoints:
    """Where to sign in for the MCP server at `url`. Raises `SignInFailed`."""
    challenge = await _challenge(fetch, caller, url)
    protected = await _protected_resource(fetch, caller, url, challenge)
    server = str(protected.authorization_servers[0]) if protected is not None else None
    metadata = await _authorization_server(fetch, caller, url, server)
    resource = str(protected.resource) if protected is not None else resource_url_from_server_url(url)
    scope = get_client_metadata_scopes(
        extract_scope_from_www_auth(challenge), protected, metadata, ["authorization_code", "refresh_token"]
    )
    return replace(to_endpoints(metadata, resource), scope=union(scope, extra_scope))


def union(first: str | None, second: str | None) -> str | None:
    """Scopes of both, each once."""
    scopes = dict.fromkeys([*(first or "").split(), *(second or "").split()])
    return " ".join(scopes) or None


def missing_scope(response: httpx2.Response) -> str | None:
    """The scopes that an `insufficient_scope` answer asks for (RFC 6750 3.1)."""
    if extract_field_from_www_auth(response, "error") != "insufficient_scope":
        return None
    return extract_scope_from_www_auth(response)


def to_endpoints(metadata: OAuthMetadata, resource: str) -> Endpoints:
    """The part of the metadata that counts. Raises `SignInFailed` when PKCE with S256 is not offered."""
    if "S256" not in (metadata.code_challenge_methods_supported or ()):
        raise SignInFailed("pkce_unsupported", "The authorization server does not offer PKCE with S256.")
    return Endpoints(
        str(metadata.issuer),
        str(metadata.authorization_endpoint),
        str(metadata.token_endpoint),
        str(metadata.registration_endpoint) if metadata.registration_endpoint else None,
        str(metadata.revocation_endpoint) if metadata.revocation_endpoint else None,
        resource,
        sends_issuer=bool(metadata.authorization_response_iss_parameter_supported),
        takes_client_documents=bool(metadata.client_id_metadata_document_supported),
    )


async def _challenge(fetch: Fetcher, caller: Caller, url: str) -> httpx2.Response:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    headers = {**HEADERS, "accept": "application/json, text/event-stream"}
    response = await fetch.send(caller, "POST", url, json=ping, headers=headers)
    if response.status_code not in (401, 403):
        raise SignInFailed("not_protected", f"The server answered {response.status_code}: it asks for no sign-in.")
    return response


async def _protected_resource(
    fetch: Fetcher, caller: Caller, url: str, challenge: httpx2.Response
) -> ProtectedResourceMetadata | None:
    advertised = extract_resource_metadata_from_www_auth(challenge)
    for candidate in build_protected_resource_metadata_discovery_urls(advertised, url):
        response = await fetch.get(caller, candidate, headers=HEADERS)
        if response.status_code >= 500 or response.status_code == 429:
            # Says nothing about whether there is any, so it must not lead down the legacy path.
            raise SignInFailed("metadata_unavailable", f"The server's metadata answered {response.status_code}.")
        if response.status_code != 200:
            continue
        try:
            metadata = ProtectedResourceMetadata.model_validate_json(response.content)
        except ValidationError:
            continue
        expected, found = resource_url_from_server_url(url), str(metadata.resource)
        if not check_resource_allowed(requested_resource=expected, configured_resource=found):
            raise SignInFailed("resource_mismatch", f"Protected resource {found} does not match expected {expected}")
        return metadata
    return None


async def _authorization_server(fetch: Fetcher, caller: Caller, url: str, server: str | None) -> OAuthMetadata:
    for candidate in build_oauth_authorization_server_metadata_discovery_urls(server, url):
        response = await fetch.get(caller, candidate, headers=HEADERS)
        if response.status_code >= 500:
            raise SignInFailed("metadata_unavailable", f"The authorization server answered {response.status_code}.")
        if response.status_code != 200:
            continue
        try:
            metadata = OAuthMetadata.model_validate_json(response.content)
        except (ValidationError, json.JSONDecodeError):
            continue
        _check_issuer(metadata, server, url)
        return metadata
    raise SignInFailed("no_metadata", "No authorization server metadata was found.")


def _check_issuer(metadata: OAuthMetadata, server: str | None, url: str) -> None:
    """RFC 8414 3.3: the metadata names the issuer it was looked up for, byte for byte."""
    if server is None:
        parsed = httpx2.URL(url)
        if not issuers_match(str(metadata.issuer), str(parsed.copy_with(raw_path=b"/"))):
            raise SignInFailed("issuer_mismatch", f"The metadata names the issuer {metadata.issuer}.")
        return
    try:
        validate_metadata_issuer(metadata, server)
    except OAuthFlowError:
        raise SignInFailed(
            "issuer_mismatch", f"The metadata names the issuer {metadata.issuer}, not {server}."
        ) from None

"""A typed client of the Tunnels API, and the exchange of an identity token for an access token.

By its wire it works against any server of this API; ids are opaque, unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from qanat.api.credential import bearer
from qanat.api.http import APIUnreachable, Call, JSONClient
from qanat.ids import CertificateID, TokenID, TunnelID

VERSION = "2023-06-01"
BETA = "mcp-tunnels-2026-06-22"
EXCHANGE_BETA = "oauth-2025-04-20,oidc-federation-2026-04-01"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
PAGE_SIZE = 100
MAX_PAGES = 1000


class Noun(BaseModel):
    """An object of the API, as it was at the time of the answer."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Tunnel(Noun):
    """A tunnel; `domain` is assigned by the API and never reused."""

    id: TunnelID
    display_name: str | None = None
    domain: str
    created_at: datetime
    archived_at: datetime | None = None


class TunnelToken(Noun):
    """What a connector signs in with; `id` changes when the token does and may be logged."""

    id: TokenID
    tunnel_token: SecretStr


class Certificate(Noun):
    """A CA certificate registered on a tunnel; `fingerprint` is SHA-256 over the DER, lowercase hex."""

    id: CertificateID
    tunnel_id: TunnelID
    fingerprint: str
    created_at: datetime
    expires_at: datetime | None = None
    archived_at: datetime | None = None


class AccessToken(Noun):
    """A short-lived bearer token; `expires_in` counts seconds."""

    access_token: SecretStr
    token_type: str | None = None
    expires_in: int
    scope: str = ""


@dataclass(frozen=True)
class Federation:
    """What an identity token is exchanged with."""

    rule_id: str
    organization_id: str
    identity_token: SecretStr = field(repr=False)
    workspace_id: str | None = None
    service_account_id: str | None = None


async def exchange(base_url: str, federation: Federation, *, trust: Path | None = None) -> AccessToken:
    """An access token for an identity token. Raises `APIRefused` (401 for every denial) or `APIUnreachable`."""
    body = {
        "grant_type": GRANT_TYPE,
        "assertion": federation.identity_token.get_secret_value(),
        "federation_rule_id": federation.rule_id,
        "organization_id": federation.organization_id,
    }
    if federation.workspace_id:
        body["workspace_id"] = federation.workspace_id
    if federation.service_account_id:
        body["service_account_id"] = federation.service_account_id
    async with JSONClient(base_url, {"anthropic-beta": EXCHANGE_BETA}, trust=trust) as client:
        # Tried once: an identity token may be good for one exchange only.
        answer = _parse(AccessToken, await client.call(Call("POST", "/v1/oauth/token", body)))
    if (answer.token_type or "bearer").lower() != "bearer":
        raise APIUnreachable(f"the token endpoint issued a {answer.token_type!r} token", sent=True)
    return answer


N = TypeVar("N", bound=Noun)


def _parse(kind: type[N], body: Mapping[str, Any]) -> N:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise APIUnreachable(f"the answer is no {kind.__name__}: {wrong}", sent=True) from None


class TunnelsClient:
    """The ten operations on tunnels. Use as an async context manager.

    Every operation raises `APIRefused` when the API says no and `APIUnreachable` when there is no answer.
    """

    def __init__(
        self, base_url: str, credential: SecretStr, *, workspace_id: str | None = None, trust: Path | None = None
    ) -> None:
        headers = {
            "authorization": bearer(credential.get_secret_value()),
            "anthropic-version": VERSION,
            "anthropic-beta": BETA,
        }
        if workspace_id:
            headers["anthropic-workspace-id"] = workspace_id
        self._client = JSONClient(base_url, headers, trust=trust)

    async def __aenter__(self) -> TunnelsClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.__aexit__()

    async def create(self, display_name: str | None = None) -> Tunnel:
        """A new tunnel. Not repeatable: after `APIUnreachable(sent=True)` look for it with `list_tunnels`."""
        body = {} if display_name is None else {"display_name": display_name}
        return _parse(Tunnel, await self._client.call(Call("POST", "/v1/tunnels", body)))

    async def get(self, tunnel_id: TunnelID) -> Tunnel:
        """A tunnel, archived or not."""
        return _parse(Tunnel, await self._client.call(_get(f"/v1/tunnels/{tunnel_id}")))

    async def list_tunnels(self, *, include_archived: bool = False) -> list[Tunnel]:
        """Every tunnel of the credential's workspace, newest first."""
        pages = self._pages("/v1/tunnels", include_archived)
        return [_parse(Tunnel, item) async for item in pages]

    async def archive(self, tunnel_id: TunnelID) -> Tunnel:
        """Retire a tunnel for good, its token, certificates and domain with it. Repeating changes nothing."""
        return _parse(Tunnel, await self._client.call(_post(f"/v1/tunnels/{tunnel_id}/archive", idempotent=True)))

    async def reveal_token(self, tunnel_id: TunnelID) -> TunnelToken:
        """The current token."""
        path = f"/v1/tunnels/{tunnel_id}/reveal_token"
        return _parse(TunnelToken, await self._client.call(_post(path, idempotent=True)))

    async def rotate_token(self, tunnel_id: TunnelID, reason: str | None = None) -> TunnelToken:
        """A new token; the old one no longer opens connections. Every call rotates."""
        body = {} if reason is None else {"reason": reason}
        return _parse(TunnelToken, await self._client.call(_post(f"/v1/tunnels/{tunnel_id}/rotate_token", body)))

    async def register_certificate(self, tunnel_id: TunnelID, pem: str) -> Certificate:
        """Trust a CA on a tunnel; at most two are live at a time."""
        body = {"ca_certificate_pem": pem}
        return _parse(Certificate, await self._client.call(_post(f"/v1/tunnels/{tunnel_id}/certificates", body)))

    async def get_certificate(self, tunnel_id: TunnelID, certificate_id: CertificateID) -> Certificate:
        """A certificate, archived or not."""
        path = f"/v1/tunnels/{tunnel_id}/certificates/{certificate_id}"
        return _parse(Certificate, await self._client.call(_get(path)))

    async def list_certificates(self, tunnel_id: TunnelID, *, include_archived: bool = False) -> list[Certificate]:
        """Every certificate of a tunnel, newest first."""
        pages = self._pages(f"/v1/tunnels/{tunnel_id}/certificates", include_archived)
        return [_parse(Certificate, item) async for item in pages]

    async def archive_certificate(self, tunnel_id: TunnelID, certificate_id: CertificateID) -> Certificate:
        """Stop trusting a CA. Repeating changes nothing."""
        path = f"/v1/tunnels/{tunnel_id}/certificates/{certificate_id}/archive"
        return _parse(Certificate, await self._client.call(_post(path, idempotent=True)))

    async def _pages(self, path: str, include_archived: bool) -> AsyncIterator[Any]:
        query: dict[str, str | int] = {"limit": PAGE_SIZE}
        if include_archived:
            query["include_archived"] = "true"
        for _ in range(MAX_PAGES):
            body = await self._client.call(_get(path, query))
            items = body.get("data")
            if not isinstance(items, list):
                raise APIUnreachable("the answer is no page of objects", sent=True)
            for item in items:
                yield item
            if not body.get("next_page"):
                return
            query["page"] = str(body["next_page"])


def _get(path: str, query: Mapping[str, str | int] | None = None) -> Call:
    return Call("GET", path, query=query, idempotent=True)


def _post(path: str, body: Mapping[str, Any] | None = None, *, idempotent: bool = False) -> Call:
    method: Literal["POST"] = "POST"
    return Call(method, path, {} if body is None else body, idempotent=idempotent)

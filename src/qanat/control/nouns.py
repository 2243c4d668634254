"""What operations return: the API's objects, as they look on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, PlainSerializer, SecretStr

T = TypeVar("T")


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


Timestamp = Annotated[datetime, PlainSerializer(timestamp, return_type=str, when_used="json")]


def _reveal(secret: SecretStr) -> str:
    return secret.get_secret_value()


Revealed = Annotated[SecretStr, PlainSerializer(_reveal, return_type=str, when_used="json")]
"""A secret that is written out in the one answer that carries it, and hides everywhere else."""


class Noun(BaseModel):
    """A frozen answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Page(Noun, Generic[T]):
    """A page of a list; `next_page` is the cursor of the next one."""

    data: list[T]
    next_page: str | None


class Tunnel(Noun):
    id: str
    type: Literal["tunnel"] = "tunnel"
    display_name: str | None
    domain: str
    created_at: Timestamp
    archived_at: Timestamp | None


class PlacedTunnel(Tunnel):
    """A tunnel as the deprecated surface shows it: with its workspace, null for the default one."""

    workspace_id: str | None


class TunnelToken(Noun):
    id: str
    type: Literal["tunnel_token"] = "tunnel_token"
    tunnel_token: Revealed


class Certificate(Noun):
    id: str
    type: Literal["tunnel_certificate"] = "tunnel_certificate"
    tunnel_id: str
    fingerprint: str
    created_at: Timestamp
    expires_at: Timestamp | None
    archived_at: Timestamp | None


class Workspace(Noun):
    id: str
    type: Literal["workspace"] = "workspace"
    name: str
    created_at: Timestamp
    archived_at: Timestamp | None
    display_color: str
    tags: dict[str, str]
    data_residency: dict[str, object]
    compartment_id: str
    external_key_id: str | None


class APIKey(Noun):
    """`key` is present only in the answer to its creation."""

    id: str
    type: Literal["api_key"] = "api_key"
    name: str
    status: Literal["active", "inactive", "archived", "expired"]
    partial_key_hint: str
    workspace_id: str | None
    created_at: Timestamp
    created_by_actor_id: str | None
    expires_at: Timestamp | None
    key: Revealed | None = None


class AccessToken(Noun):
    """A bearer token we gave out. `token` is present only in the answer to its creation."""

    id: str
    type: Literal["access_token"] = "access_token"
    kind: str
    name: str
    workspace_id: str | None
    subject: str
    scope: str
    created_at: Timestamp
    created_by_actor_id: str | None
    expires_at: Timestamp | None
    revoked_at: Timestamp | None
    token: Revealed | None = None


class AuditEntry(Noun):
    id: int
    type: Literal["audit_entry"] = "audit_entry"
    time: Timestamp
    workspace_id: str | None
    actor_id: str
    actor_kind: str
    address: str
    request_id: str
    action: str
    target_id: str
    reason: str | None
    details: dict[str, object]

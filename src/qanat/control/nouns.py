"""What operations return: the API's objects, as they look on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, PlainSerializer, SecretStr, WithJsonSchema

T = TypeVar("T")


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


Timestamp = Annotated[
    datetime,
    PlainSerializer(timestamp, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]


def _reveal(secret: SecretStr) -> str:
    return secret.get_secret_value()


Revealed = Annotated[
    SecretStr,
    PlainSerializer(_reveal, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string"}, mode="serialization"),
]
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


class ServiceAccount(Noun):
    id: str
    type: Literal["service_account"] = "service_account"
    name: str
    description: str
    organization_role: Literal["developer", "admin"]
    created_at: Timestamp
    updated_at: Timestamp
    archived_at: Timestamp | None
    created_by_actor_id: str | None
    updated_by_actor_id: str | None
    archived_by_actor_id: str | None


class Membership(Noun):
    type: Literal["service_account_workspace_member"] = "service_account_workspace_member"
    service_account_id: str
    workspace_id: str
    workspace_role: str
    implicit: bool
    created_by_actor_id: str | None


class MembershipDeleted(Noun):
    type: Literal["service_account_workspace_member_deleted"] = "service_account_workspace_member_deleted"
    service_account_id: str
    workspace_id: str


class PollStatus(Noun):
    consecutive_failures: int
    last_fetched_at: Timestamp | None
    next_poll_at: Timestamp | None


class Issuer(Noun):
    id: str
    type: Literal["federation_issuer"] = "federation_issuer"
    name: str
    issuer_url: str
    jwks: dict[str, object]
    check_jti: bool
    max_jwt_lifetime_seconds: int
    jwks_polling_disabled_at: Timestamp | None
    poll_status: PollStatus | None
    created_at: Timestamp
    updated_at: Timestamp
    archived_at: Timestamp | None
    created_by_actor_id: str | None
    updated_by_actor_id: str | None
    archived_by_actor_id: str | None


class Match(Noun):
    subject_prefix: str | None = None
    audience: str | None = None
    claims: dict[str, str] | None = None
    condition: str | None = None


class Target(Noun):
    type: Literal["service_account"] = "service_account"
    service_account_id: str
    service_account_name: str | None


class Rule(Noun):
    id: str
    type: Literal["federation_rule"] = "federation_rule"
    name: str
    description: str
    issuer_id: str
    issuer_name: str
    match: Match
    target: Target
    oauth_scope: str
    token_lifetime_seconds: int
    applies_to_all_workspaces: bool
    workspace_ids: list[str]
    workspace_id: None = None
    attributes: None = None
    created_at: Timestamp
    updated_at: Timestamp
    archived_at: Timestamp | None
    created_by_actor_id: str | None
    updated_by_actor_id: str | None
    archived_by_actor_id: str | None


class RuleWorkspace(Noun):
    type: Literal["federation_rule_workspace"] = "federation_rule_workspace"
    federation_rule_id: str
    workspace_id: str
    workspace_name: str | None
    created_at: Timestamp
    created_by_actor_id: str | None


class RuleWorkspaceDeleted(Noun):
    type: Literal["federation_rule_workspace_deleted"] = "federation_rule_workspace_deleted"
    federation_rule_id: str
    workspace_id: str


class WorkspacePage(Noun):
    """The older form of a page."""

    data: list[Workspace]
    has_more: bool
    first_id: str | None
    last_id: str | None


class ExchangedToken(Noun):
    access_token: Revealed
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the name of a scheme
    expires_in: int
    scope: str


class AuthenticationEvent(Noun):
    id: int
    type: Literal["authentication_event"] = "authentication_event"
    time: Timestamp
    request_id: str
    address: str
    rule_id: str
    issuer_id: str | None
    service_account_id: str | None
    workspace_id: str | None
    outcome: Literal["success", "denied", "error"]
    reason: str | None
    claims: dict[str, object]
    token_id: str | None


class Connector(Noun):
    """One connection of a connector to an edge."""

    node: str
    connector_id: str
    conn_index: int
    connected_at: Timestamp
    seen_at: Timestamp
    silent_since: Timestamp | None = None
    """When the edge node was last heard of, if that is too long ago to vouch for the connection."""
    fields: dict[str, object]


class WatchedRoute(Noun):
    """A route that gateways probe. `ok` is None while no fresh verdict is known."""

    route: str
    path: str
    source: str
    ok: bool | None
    hop: str | None
    """The hop that failed."""
    error: str | None
    times: dict[str, object]
    changed_at: Timestamp | None
    seen_at: Timestamp | None


class TrafficPoint(Noun):
    """What a tunnel did in one step of time. `duration_ms` is the sum over its calls.

    Calls, errors and durations are what gateways tell; bytes (of ciphertext) and streams what edges tell, which see
    every client.
    """

    time: Timestamp
    calls: int
    errors: int
    bytes_in: int
    bytes_out: int
    duration_ms: int
    slowest_ms: int
    streams_opened: int
    streams_open: int
    """The most that each edge had open at once, added over edges."""


class OperatorEvent(Noun):
    """Something an edge or a gateway told."""

    id: int
    type: Literal["event"] = "event"
    time: Timestamp
    kind: str
    node: str
    tunnel_id: str | None
    fields: dict[str, object]

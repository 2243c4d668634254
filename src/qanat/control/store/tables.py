"""The tables.

Moments are microseconds since 1970 in 64-bit integers: the same on both databases, and they sort. What must stay
unreadable in a stolen file is a `sealed` column (see `vault.py`) or a SHA-256 (credentials).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """A UTC time as integer microseconds."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + timedelta(microseconds=value)


SERIAL = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts only in a column of exactly this type."""


class Table(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: Moment, dict[str, Any]: JSON, list[str]: JSON, int: BigInteger}  # noqa: RUF012 - SQLAlchemy reads it as declared


class OrganizationRow(Table):
    __tablename__ = "organizations"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    default_workspace_id: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime]


class WorkspaceRow(Table):
    __tablename__ = "workspaces"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    name: Mapped[str] = mapped_column(String(255))
    display_color: Mapped[str] = mapped_column(String(16))
    tags: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    archived_at: Mapped[datetime | None]
    __table_args__ = (Index("workspaces_by_age", "organization_id", "created_at", "id"),)


class TunnelRow(Table):
    __tablename__ = "tunnels"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    account_tag: Mapped[str] = mapped_column(String(32))
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    display_name: Mapped[str | None] = mapped_column(String(255))
    domain: Mapped[str] = mapped_column(String(255), unique=True)
    secret_sealed: Mapped[bytes] = mapped_column(LargeBinary)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    token_id: Mapped[str] = mapped_column(String(80))
    generation: Mapped[int]
    created_at: Mapped[datetime]
    archived_at: Mapped[datetime | None]
    __table_args__ = (
        Index("tunnels_of_organization", "organization_id", "created_at", "id"),
        Index("tunnels_of_workspace", "workspace_id", "created_at", "id"),
        Index("live_tunnels_of_workspace", "workspace_id", "archived_at", "created_at", "id"),
        Index("live_tunnels_of_organization", "organization_id", "archived_at", "created_at", "id"),
    )


class UsedLabelRow(Table):
    """Every label ever given out; rows are never removed, so that no domain comes back."""

    __tablename__ = "used_labels"
    label: Mapped[str] = mapped_column(String(63), primary_key=True)
    used_at: Mapped[datetime]


class CertificateRow(Table):
    __tablename__ = "certificates"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    tunnel_id: Mapped[str] = mapped_column(ForeignKey("tunnels.id"))
    fingerprint: Mapped[str] = mapped_column(String(64))
    pem_sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    archived_at: Mapped[datetime | None]
    __table_args__ = (Index("certificates_of_tunnel", "tunnel_id", "created_at", "id"),)


class ServiceAccountRow(Table):
    __tablename__ = "service_accounts"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    name: Mapped[str] = mapped_column(String(255))
    description: Mapped[str] = mapped_column(Text)
    organization_role: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    archived_at: Mapped[datetime | None]
    created_by_actor_id: Mapped[str | None] = mapped_column(String(128))
    updated_by_actor_id: Mapped[str | None] = mapped_column(String(128))
    archived_by_actor_id: Mapped[str | None] = mapped_column(String(128))
    __table_args__ = (
        UniqueConstraint("organization_id", "name"),
        Index("service_accounts_by_age", "organization_id", "created_at", "id"),
    )


class MembershipRow(Table):
    """An explicit membership; the one in the default workspace is implied."""

    __tablename__ = "workspace_members"
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    service_account_id: Mapped[str] = mapped_column(ForeignKey("service_accounts.id"), primary_key=True)
    workspace_role: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    created_by_actor_id: Mapped[str | None] = mapped_column(String(128))


class IssuerRow(Table):
    __tablename__ = "federation_issuers"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    name: Mapped[str] = mapped_column(String(255))
    issuer_url: Mapped[str] = mapped_column(Text)
    jwks: Mapped[dict[str, Any]]
    """As shown, without `ca_cert_pem`."""
    ca_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    check_jti: Mapped[bool]
    max_jwt_lifetime_seconds: Mapped[int]
    cached_keys: Mapped[dict[str, Any] | None]
    cached_at: Mapped[datetime | None]
    last_fetched_at: Mapped[datetime | None]
    next_poll_at: Mapped[datetime | None]
    consecutive_failures: Mapped[int]
    jwks_polling_disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    archived_at: Mapped[datetime | None]
    created_by_actor_id: Mapped[str | None] = mapped_column(String(128))
    updated_by_actor_id: Mapped[str | None] = mapped_column(String(128))
    archived_by_actor_id: Mapped[str | None] = mapped_column(String(128))
    __table_args__ = (
        UniqueConstraint("organization_id", "name"),
        Index("federation_issuers_by_age", "organization_id", "created_at", "id"),
    )


class RuleRow(Table):
    __tablename__ = "federation_rules"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    name: Mapped[str] = mapped_column(String(255))
    description: Mapped[str] = mapped_column(Text)
    issuer_id: Mapped[str] = mapped_column(ForeignKey("federation_issuers.id"))
    match: Mapped[dict[str, Any]]
    service_account_id: Mapped[str] = mapped_column(ForeignKey("service_accounts.id"))
    oauth_scope: Mapped[str] = mapped_column(Text)
    token_lifetime_seconds: Mapped[int]
    applies_to_all_workspaces: Mapped[bool]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    archived_at: Mapped[datetime | None]
    created_by_actor_id: Mapped[str | None] = mapped_column(String(128))
    updated_by_actor_id: Mapped[str | None] = mapped_column(String(128))
    archived_by_actor_id: Mapped[str | None] = mapped_column(String(128))
    __table_args__ = (
        UniqueConstraint("organization_id", "name"),
        Index("federation_rules_by_age", "organization_id", "created_at", "id"),
        Index("federation_rules_of_issuer", "issuer_id"),
        Index("federation_rules_of_account", "service_account_id"),
    )


class RuleWorkspaceRow(Table):
    __tablename__ = "federation_rule_workspaces"
    rule_id: Mapped[str] = mapped_column(ForeignKey("federation_rules.id"), primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    created_at: Mapped[datetime]
    created_by_actor_id: Mapped[str | None] = mapped_column(String(128))


class UsedAssertionRow(Table):
    """A `jti` that bought a token; kept until the assertion could no longer be accepted."""

    __tablename__ = "used_assertions"
    issuer_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    jti_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class AccessTokenRow(Table):
    """A bearer token, by its SHA-256: federated, a Tunnels API key, or an operator's."""

    __tablename__ = "access_tokens"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(128), unique=True)
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(255))
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"))
    subject: Mapped[str] = mapped_column(String(128))
    service_account_id: Mapped[str | None] = mapped_column(String(128), index=True)
    rule_id: Mapped[str | None] = mapped_column(String(128))
    scope: Mapped[str] = mapped_column(Text)
    assertion: Mapped[dict[str, Any] | None]
    """`iss`, `sub` and `jti` of what was exchanged for it."""
    created_at: Mapped[datetime]
    created_by_actor_id: Mapped[str | None] = mapped_column(String(128))
    expires_at: Mapped[datetime | None] = mapped_column(index=True)
    revoked_at: Mapped[datetime | None]
    __table_args__ = (Index("access_tokens_by_kind", "organization_id", "kind", "created_at", "id"),)


class APIKeyRow(Table):
    """A key for the Messages API (`workspace`), or an admin key (`admin`), by its SHA-256."""

    __tablename__ = "api_keys"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(128), unique=True)
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(255))
    partial_key_hint: Mapped[str] = mapped_column(String(64))
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"))
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    created_by_actor_id: Mapped[str | None] = mapped_column(String(128))
    expires_at: Mapped[datetime | None]
    __table_args__ = (Index("api_keys_by_age", "organization_id", "created_at", "id"),)


class AuthenticationEventRow(Table):
    """One attempt to exchange an assertion."""

    __tablename__ = "authentication_events"
    id: Mapped[int] = mapped_column(SERIAL, primary_key=True, autoincrement=True)
    time: Mapped[datetime] = mapped_column(index=True)
    organization_id: Mapped[str] = mapped_column(String(36))
    request_id: Mapped[str] = mapped_column(String(128))
    address: Mapped[str] = mapped_column(String(64))
    rule_id: Mapped[str] = mapped_column(String(128))
    issuer_id: Mapped[str | None] = mapped_column(String(128))
    service_account_id: Mapped[str | None] = mapped_column(String(128))
    workspace_id: Mapped[str | None] = mapped_column(String(128))
    outcome: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(64))
    claims: Mapped[dict[str, Any]]
    """`iss`, `sub`, `aud`, `kid`, `jti` as far as they could be read, shortened."""
    token_id: Mapped[str | None] = mapped_column(String(128))
    __table_args__ = (Index("authentication_events_by_rule", "organization_id", "rule_id", "id"),)


class AuditRow(Table):
    """One change: who, from where, what, why. Written in the transaction of the change itself."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(SERIAL, primary_key=True, autoincrement=True)
    time: Mapped[datetime] = mapped_column(index=True)
    organization_id: Mapped[str] = mapped_column(String(36))
    workspace_id: Mapped[str | None] = mapped_column(String(128))
    actor_id: Mapped[str] = mapped_column(String(128))
    actor_kind: Mapped[str] = mapped_column(String(32))
    address: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    target_id: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any]]
    __table_args__ = (Index("audit_of_target", "target_id", "id"), Index("audit_by_age", "organization_id", "id"))


class ChangeRow(Table):
    """What the data plane must forget. Cursors rise in commit order: they come from one locked counter."""

    __tablename__ = "changes"
    cursor: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    time: Mapped[datetime]
    tunnel_id: Mapped[str] = mapped_column(String(128))
    tunnel_uuid: Mapped[str] = mapped_column(String(36))
    domain: Mapped[str] = mapped_column(String(255))


class CounterRow(Table):
    __tablename__ = "counters"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[int]


class DataKeyRow(Table):
    """A data key, wrapped by a master key."""

    __tablename__ = "data_keys"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    master_id: Mapped[str] = mapped_column(String(16))
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime]


class SealedRow(Table):
    """A secret of the control plane itself, by name."""

    __tablename__ = "sealed"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value_sealed: Mapped[bytes] = mapped_column(LargeBinary)


class ConnectorRow(Table):
    """A connection a connector has to an edge, as the edge last told."""

    __tablename__ = "connectors"
    tunnel_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    node: Mapped[str] = mapped_column(String(128), primary_key=True)
    connector_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    conn_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    connected_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    fields: Mapped[dict[str, Any]]


class EdgeNodeRow(Table):
    """A start of an edge node, and when it was last heard of."""

    __tablename__ = "edge_nodes"
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    instance: Mapped[str] = mapped_column(String(64), primary_key=True)
    seen_at: Mapped[datetime]


class EventRow(Table):
    """Something an edge or a gateway told, as it came."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(SERIAL, primary_key=True, autoincrement=True)
    time: Mapped[datetime] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(String(32))
    node: Mapped[str] = mapped_column(String(128))
    tunnel_id: Mapped[str | None] = mapped_column(String(128))
    fields: Mapped[dict[str, Any]]
    __table_args__ = (Index("events_of_tunnel", "tunnel_id", "kind", "time"),)


class TrafficRow(Table):
    """What one tunnel did in one minute, summed over nodes."""

    __tablename__ = "traffic"
    tunnel_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    calls: Mapped[int]
    errors: Mapped[int]
    bytes_in: Mapped[int]
    bytes_out: Mapped[int]
    duration_ms: Mapped[int]
    """Of all calls together."""
    slowest_ms: Mapped[int]
    streams_opened: Mapped[int] = mapped_column(server_default="0")
    streams_open: Mapped[int] = mapped_column(server_default="0")
    """Nothing reads it (see `OpenStreamsRow`); processes of an older version may still write it during an upgrade."""


class OpenStreamsRow(Table):
    """The most streams of a tunnel that one node had open at once in one minute."""

    __tablename__ = "open_streams"
    tunnel_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(String(128), primary_key=True)
    most: Mapped[int]


class EventBatchRow(Table):
    """A batch of events that was heard: told again, because the answer was lost, it counts no more."""

    __tablename__ = "event_batches"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    seen_at: Mapped[datetime]


class FirstTimeRow(Table):
    """Something that was seen of a tunnel: no node can know by itself whether it is new."""

    __tablename__ = "first_times"
    tunnel_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    what: Mapped[str] = mapped_column(String(80), primary_key=True)
    """`use`, or `connector <SHA-256 of a connector's fingerprint>`."""
    seen_at: Mapped[datetime]
    """Last."""


class WatchRow(Table):
    """A route that gateways probe, and what the last probe said."""

    __tablename__ = "watches"
    tunnel_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    route: Mapped[str] = mapped_column(String(253), primary_key=True)
    path: Mapped[str] = mapped_column(String(512), primary_key=True)
    source: Mapped[str] = mapped_column(String(16))
    """`person`, or `calls` when it was learnt from one."""
    created_at: Mapped[datetime]
    ok: Mapped[bool | None]
    """None before the first probe."""
    hop: Mapped[str | None] = mapped_column(String(32))
    error: Mapped[str | None] = mapped_column(String(1024))
    times: Mapped[dict[str, Any]]
    """Milliseconds per stretch of the way."""
    node: Mapped[str | None] = mapped_column(String(128))
    changed_at: Mapped[datetime | None]
    seen_at: Mapped[datetime | None]


class ConsoleSessionRow(Table):
    """A person signed in to the console, by the SHA-256 of the cookie."""

    __tablename__ = "console_sessions"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(128), unique=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    workspace_id: Mapped[str] = mapped_column(String(128))
    user: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    credential_id: Mapped[str | None] = mapped_column(String(128))
    """The operator credential that opened it: the session ends with it."""
    issuer: Mapped[str | None] = mapped_column(Text)
    """The provider that opened it: the session ends when another one, or none, is configured."""
    id_token_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Shown to the provider again to sign out there as well."""

"""What edges and gateways ask the control plane: the types on that wire, and its paths.

| method, path | asked by | answer |
| --- | --- | --- |
| `GET /internal/v1/tunnels?uuid=` or `?domain=` | edge, gateway | `TunnelRecord`, 404 when unknown |
| `GET /internal/v1/changes?after=` | edge, gateway | endless NDJSON of `Change`; a heartbeat every 5 s |
| `POST /internal/v1/events` (`EventBatch`) | edge, gateway | 204 |
| `GET /internal/v1/watches` | gateway | `Watches`: the routes to probe |
| `POST /internal/v1/authenticate` (`Credential`) | gateway | `Principal`, 401 when unknown or expired |

The other way round, the console asks a gateway: `POST /internal/v1/playground` (`Trial`), answered by `TrialOutcome`;
its bearer is a ticket that the control plane made for this one request, and knows again at `authenticate`.

Every other call carries `Authorization: Bearer <service key>`. Records hold no secret: the tunnel token is present only
as a SHA-256 of its raw secret bytes, so an edge can check tokens while the control plane is down.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, SecretStr

from qanat.ids import OrganizationID, TunnelID, WorkspaceID

_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_NO_NUL = r"^[^\x00]*$"


class Message(BaseModel):
    """A frozen body; unknown fields are ignored, so that nodes of two versions can talk."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class TunnelRecord(Message):
    """A tunnel as the data plane needs it."""

    id: TunnelID
    uuid: UUID
    account_tag: str
    secret_sha256: str
    """Lowercase hex of SHA-256 over the raw secret bytes of the current token."""
    domain: str
    organization_id: OrganizationID
    workspace_id: WorkspaceID
    archived: bool
    ca_certificates: tuple[str, ...]
    """PEM of each live CA certificate; empty means: refuse MCP traffic."""


class Change(Message):
    """Something about a tunnel changed: forget what you knew of it. A heartbeat names no tunnel."""

    cursor: int
    kind: Literal["tunnel", "heartbeat", "reset"]
    """`reset`: the cursor asked for is gone; forget everything."""
    tunnel_id: TunnelID | None = None
    tunnel_uuid: UUID | None = None
    domain: str | None = None


def _can_be_shown(moment: datetime) -> datetime:
    if not _FIRST <= moment <= _LAST:
        raise ValueError("must be a time from 1970 to 9999")
    return moment


class Event(Message):
    """Something an operator wants to see: stored by the control plane, shown in the console.

    What no database could hold is no event: such a batch is refused and dropped, instead of told again for ever.
    """

    time: Annotated[AwareDatetime, AfterValidator(_can_be_shown)]
    kind: Literal[
        "connector_registered",
        "connector_lost",
        "connector_refused",
        "client_refused",
        "tunnel_first_use",
        "connectors_snapshot",
        "node_alive",
        "traffic",
        "call",
        "canary",
    ]
    node: Annotated[str, Field(pattern=_NO_NUL)]
    tunnel_id: Annotated[TunnelID, Field(max_length=128, pattern=_NO_NUL)] | None = None
    fields: dict[str, str | int | FiniteFloat | bool | None] = {}


class EventBatch(Message):
    """At most 1,000 events. One that is told again under the same id counts once."""

    id: str = Field(default="", max_length=64)
    """Empty: nobody knows whether it was told before."""
    events: tuple[Event, ...]


class Watch(Message):
    """A route of a tunnel whose health operators want to know."""

    tunnel_id: TunnelID
    domain: str
    route: str
    """The host's labels before the domain."""
    path: str
    """Begins with a slash."""


class Watches(Message):
    """All that a gateway shall probe."""

    watches: tuple[Watch, ...]


class Credential(Message):
    """A credential somebody presented to the gateway, and the workspace asked for, if any."""

    credential: SecretStr
    workspace_id: WorkspaceID | None = None


class Principal(Message):
    """Who a credential stands for."""

    organization_id: OrganizationID
    workspace_id: WorkspaceID | None
    scopes: frozenset[str]
    subject: str
    """An id for logs and audit: `svac_…`, `apikey_…` or `user_…`."""
    kind: Literal["access_token", "api_key", "tunnels_api_key", "session", "bootstrap", "playground", "admin_key"]
    expires_at: datetime | None = None


class Trial(Message):
    """What a person at the console wants of an MCP server behind a tunnel: its tools, and perhaps a call of one."""

    url: str = Field(max_length=1024)
    tool: str | None = Field(default=None, min_length=1, max_length=256)
    """None: only list."""
    arguments: dict[str, Any] = {}
    authorization_token: SecretStr | None = None
    """For the MCP server, for as long as this takes."""


class OfferedTool(Message):
    """A tool as its server lists it."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] = {}


class Stretch(Message):
    """A part of the way, and what it took."""

    hop: Literal["edge", "connector", "proxy", "upstream"]
    what: Literal["connect", "tunnel", "inner_tls", "initialize", "tools/list", "tools/call"]
    ms: float


class TrialOutcome(Message):
    """How it went. `error` and `hop` are set when the server could not be reached or used."""

    tools: tuple[OfferedTool, ...] = ()
    left_out: int = 0
    """Tools there was no room for."""
    result: tuple[str, ...] | None = None
    """What the call returned, as texts; None when there was no call."""
    is_error: bool = False
    """Whether the tool called its result an error."""
    times: tuple[Stretch, ...] = ()
    hop: str | None = None
    error: str | None = None

"""Everything `qanat control` reads from its file."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from qanat.config import Duration, ListenAddress, Section


class TLSFiles(Section):
    """PEM files the API is served with; both are read again at each start."""

    cert_file: Path
    """Certificate chain, leaf first."""
    key_file: Path
    """Its private key."""


class ServiceKey(Section):
    """What an edge or a gateway presents on `/internal/v1`."""

    name: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    """Who presents it, for the log."""
    role: Literal["edge", "gateway"]
    """A gateway may also ask who a credential stands for."""
    key_file: Path | None = None
    """File with the key, at least 16 characters."""
    key: SecretStr | None = None
    """The key itself; `key_file` is safer."""

    @model_validator(mode="after")
    def _exactly_one_source(self) -> ServiceKey:
        if (self.key_file is None) == (self.key is None):
            raise ValueError("set exactly one of key_file and key")
        return self


class Bootstrap(Section):
    """The operator credential of the first hour. Created in `credential_file` (mode 0600) when the file is missing."""

    enabled: bool = True
    """Switch it off once other operators can sign in."""
    credential_file: Path | None = None
    """Default: `data_dir/bootstrap.token`. Another value in it replaces the credential at the next start."""


class Limits(Section):
    """Caps, and rates per minute."""

    tunnels_per_organization: int = Field(default=10, ge=1)
    """Tunnels that are not archived, over all workspaces."""
    certificates_per_tunnel: int = Field(default=2, ge=1)
    """CA certificates that are not archived."""
    requests_per_minute: int = Field(default=60, ge=1)
    """Per credential."""
    admin_requests_per_minute: int = Field(default=120, ge=1)
    """What operators ask of `/admin/v1`, per credential."""
    token_reads_per_minute: int = Field(default=10, ge=1)
    """Reveal and rotate together, per credential."""
    exchanges_per_minute: int = Field(default=60, ge=1)
    """Failed ones per source address, and good ones per rule."""
    sign_ins_per_minute: int = Field(default=120, ge=1)
    """Attempts to sign in to the console, per source address."""
    playground_calls_per_minute: int = Field(default=30, ge=1)
    """Of each person at the console: tools listed, and tools called."""


class FetchPolicy(Section):
    """Which hosts key sets may be fetched from, beyond `https` on port 443 of public addresses."""

    allow_hosts: tuple[str, ...] = ()
    """Exact names, or `*.suffix`."""
    allow_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    """Private networks that names may resolve into. With `allow_hosts` alone, those hosts may be anywhere."""
    allow_ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = ()
    """Ports besides 443."""
    allow_http_hosts: tuple[str, ...] = ()
    """Hosts that may be asked without TLS."""


class Federation(Section):
    """Workload identity: who the assertions must be meant for, and where keys may come from."""

    default_audiences: tuple[str, ...] | None = None
    """Unset: the public URL and its bare host name."""
    fetch_policy: FetchPolicy = FetchPolicy()


class SingleSignOn(Section):
    """An OpenID provider that people sign in at. Whoever gets no role from it is refused."""

    issuer: str
    """As the provider writes it, byte for byte; its discovery document is below it."""
    client_id: str = Field(min_length=1)
    """This console's id at the provider."""
    client_secret_file: Path | None = None
    """File with the client's secret, read at each sign-in. Without any secret, PKCE alone protects the exchange."""
    client_secret: SecretStr | None = None
    """The secret itself; `client_secret_file` is safer."""
    name: str = Field(default="single sign-on", min_length=1, max_length=64)
    """What the button calls it."""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    """Asked for. Some providers tell groups only when a scope for them is here."""
    roles_claim: str = Field(default="groups", min_length=1)
    """Claim whose values give the role, a name or a path such as `realm_access.roles`."""
    manage: tuple[str, ...] = ()
    """Values of the claim whose bearers may change everything."""
    read_only: tuple[str, ...] = ()
    """Values of the claim whose bearers may look."""
    email_domains: tuple[str, ...] = ()
    """Only people with an e-mail address of one of these domains; empty: no condition."""
    require_verified_email: bool = True
    """Whether an address counts only when the provider says `email_verified`. Some never say it."""
    organization: str = ""
    """Id of the organization people sign in to; empty: the one that the first start made."""
    ca_file: Path | None = None
    """Vouches for the provider's certificate instead of the system's roots."""
    fetch_policy: FetchPolicy = FetchPolicy()
    """Where the provider may be, beyond port 443 of public addresses."""

    @model_validator(mode="after")
    def _useful(self) -> SingleSignOn:
        if self.client_secret_file is not None and self.client_secret is not None:
            raise ValueError("set one of client_secret_file and client_secret")
        if "openid" not in self.scopes:
            raise ValueError("scopes must have openid")
        if not self.manage and not self.read_only:
            raise ValueError("set manage or read_only, else nobody gets in")
        return self


class Playground(Section):
    """Calling tools from the console, through a gateway."""

    gateway_url: str = ""
    """Where a gateway listens, `https://host:port`; empty: no playground. `http://` only within one machine."""
    ca_file: Path | None = None
    """Vouches for the gateway's certificate instead of the system's roots."""

    @field_validator("gateway_url")
    @classmethod
    def _safe_url(cls, value: str) -> str:
        parts = urlsplit(value)
        loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if value and not (parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and loopback))):
            raise ValueError("must be an https:// URL, or http:// to this machine")
        return value.rstrip("/")


class Console(Section):
    """The web console: who gets in, and what it reaches."""

    operator_sign_in: bool = True
    """Whether an operator's credential opens it. Switch it off once single sign-on works."""
    session_lifetime: Duration = timedelta(hours=8)
    """How long a session lasts; a role taken away at the provider counts from the next sign-in."""
    single_sign_on: SingleSignOn | None = None
    playground: Playground = Playground()

    @model_validator(mode="after")
    def _some_way_in(self) -> Console:
        if not self.operator_sign_in and self.single_sign_on is None:
            raise ValueError("operator_sign_in is off and single_sign_on is not set: nobody could get in")
        return self


class ControlConfig(Section):
    """Everything `qanat control` reads from its file."""

    listen_addr: ListenAddress = "127.0.0.1:8787"
    """`host:port`; port 0 takes a free one."""
    metrics_addr: ListenAddress | None = None
    """`host:port` where `/metrics` and `/healthz` listen; nowhere when empty."""
    public_url: str = ""
    """As clients reach us, for audiences and links; empty: made from the bound address."""
    tls: TLSFiles | None = None
    data_dir: Path
    """Holds what has no path of its own: the SQLite file, the master key, the bootstrap credential."""
    database_url: SecretStr | None = None
    """`postgresql://…` or `sqlite:///path`; unset: `data_dir/control.db`."""
    database_url_file: Path | None = None
    """File with `database_url`, for URLs that hold a password."""
    master_key_file: Path | None = None
    """Default: `data_dir/master.key`, created at the first start. Without it nothing opens: back it up apart."""
    next_master_key_file: Path | None = None
    """The key to rotate to, where `master_key_file` cannot be written, as in a Secret; both are read."""
    domain_base: str = "tunnel.localhost"
    """Tunnels get `<label>.<domain_base>`. Changing it affects new tunnels only."""
    bootstrap: Bootstrap = Bootstrap()
    service_keys: tuple[ServiceKey, ...] = ()
    limits: Limits = Limits()
    federation: Federation = Federation()
    console: Console = Console()
    deprecated_alias: bool = True
    """Serve `/v1/organizations/tunnels` too."""
    access_token_prefix: str = Field(default="sk-ant-oat01-", pattern=r"^[A-Za-z0-9_-]{1,32}$")
    """What new bearer tokens begin with; older ones go on working."""
    history_retention: Duration = timedelta(days=90)
    """Of the authentication history. The audit trail is kept for ever."""
    traffic_retention: Duration = timedelta(days=14)
    """Of events, calls and the sums of traffic."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Peers whose `X-Forwarded-For` names the client."""
    shutdown_timeout: Duration = timedelta(seconds=10)
    """How long requests under way may take to end."""

    @field_validator("domain_base")
    @classmethod
    def _host_name(cls, value: str) -> str:
        labels = value.lower().split(".")
        if len(value) > 180 or not all(
            label and label.replace("-", "").isalnum() and label.isascii() for label in labels
        ):
            raise ValueError("must be a host name such as tunnel.example.net")
        return value.lower()

    @field_validator("public_url")
    @classmethod
    def _whole_url(cls, value: str) -> str:
        # Whether cookies are for TLS alone, and which audiences count, is read off it.
        parts = urlsplit(value)
        whole = value.startswith(("https://", "http://")) and parts.hostname and not (parts.query or parts.fragment)
        if value and not (whole and "@" not in parts.netloc and not any(char.isspace() for char in value)):
            raise ValueError("must look like https://host")
        return value

    @model_validator(mode="after")
    def _one_database(self) -> ControlConfig:
        if self.database_url is not None and self.database_url_file is not None:
            raise ValueError("set one of database_url and database_url_file")
        return self

    @property
    def master_key_path(self) -> Path:
        return self.master_key_file or self.data_dir / "master.key"

    @property
    def master_key_paths(self) -> tuple[Path, ...]:
        """Every file whose keys may open the database."""
        return (self.master_key_path, *([self.next_master_key_file] if self.next_master_key_file else []))

    @property
    def bootstrap_path(self) -> Path:
        return self.bootstrap.credential_file or self.data_dir / "bootstrap.token"

"""Everything `qanat control` reads from its file."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

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
    token_reads_per_minute: int = Field(default=10, ge=1)
    """Reveal and rotate together, per credential."""
    exchanges_per_minute: int = Field(default=60, ge=1)
    """Failed ones per source address, and good ones per rule."""


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
    domain_base: str = "tunnel.localhost"
    """Tunnels get `<label>.<domain_base>`. Changing it affects new tunnels only."""
    bootstrap: Bootstrap = Bootstrap()
    service_keys: tuple[ServiceKey, ...] = ()
    limits: Limits = Limits()
    federation: Federation = Federation()
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

    @model_validator(mode="after")
    def _one_database(self) -> ControlConfig:
        if self.database_url is not None and self.database_url_file is not None:
            raise ValueError("set one of database_url and database_url_file")
        return self

    @property
    def master_key_path(self) -> Path:
        return self.master_key_file or self.data_dir / "master.key"

    @property
    def bootstrap_path(self) -> Path:
        return self.bootstrap.credential_file or self.data_dir / "bootstrap.token"

"""Everything `qanat control` reads from its file."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from qanat.config import Duration, Section


class TLSFiles(Section):
    """PEM files the API is served with; both are read again at each start."""

    cert_file: Path
    key_file: Path


class ServiceKey(Section):
    """What an edge or a gateway presents on `/internal/v1`."""

    name: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    role: Literal["edge", "gateway"]
    key_file: Path | None = None
    key: SecretStr | None = None

    @model_validator(mode="after")
    def _exactly_one_source(self) -> ServiceKey:
        if (self.key_file is None) == (self.key is None):
            raise ValueError("set exactly one of key_file and key")
        return self


class Bootstrap(Section):
    """The operator credential of the first hour. Created in `credential_file` (mode 0600) when the file is missing."""

    enabled: bool = True
    credential_file: Path | None = None


class Limits(Section):
    """Caps, and rates per minute."""

    tunnels_per_organization: int = Field(default=10, ge=1)
    certificates_per_tunnel: int = Field(default=2, ge=1)
    requests_per_minute: int = Field(default=60, ge=1)
    """Per credential."""
    token_reads_per_minute: int = Field(default=10, ge=1)
    """Reveal and rotate together, per credential."""
    exchanges_per_minute: int = Field(default=60, ge=1)
    """Per source address, and per rule."""


class FetchPolicy(Section):
    """Which hosts key sets may be fetched from, beyond `https` on port 443 of public addresses."""

    allow_hosts: tuple[str, ...] = ()
    """Exact names, or `*.suffix`."""
    allow_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    allow_ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = ()
    allow_http_hosts: tuple[str, ...] = ()


class Federation(Section):
    """Workload identity: who the assertions must be meant for, and where keys may come from."""

    default_audiences: tuple[str, ...] | None = None
    """Unset: the public URL and its bare host name."""
    fetch_policy: FetchPolicy = FetchPolicy()


class ControlConfig(Section):
    """Everything `qanat control` reads from its file."""

    listen_addr: str = "127.0.0.1:8787"
    public_url: str = ""
    """As clients reach us, for audiences and links; empty: made from the bound address."""
    tls: TLSFiles | None = None
    data_dir: Path
    """Holds what has no path of its own: the SQLite file, the master key, the bootstrap credential."""
    database_url: SecretStr | None = None
    """`postgresql://…` or `sqlite:///path`; unset: `data_dir/control.db`."""
    database_url_file: Path | None = None
    master_key_file: Path | None = None
    domain_base: str = "tunnel.localhost"
    """Tunnels get `<label>.<domain_base>`. Changing it affects new tunnels only."""
    bootstrap: Bootstrap = Bootstrap()
    service_keys: tuple[ServiceKey, ...] = ()
    limits: Limits = Limits()
    federation: Federation = Federation()
    deprecated_alias: bool = True
    """Serve `/v1/organizations/tunnels` too."""
    access_token_prefix: str = Field(default="sk-ant-oat01-", pattern=r"^[A-Za-z0-9_-]{1,32}$")
    history_retention: Duration = timedelta(days=90)
    """Authentication history and the audit of what tunnels did; the audit trail of changes is kept for ever."""
    traffic_retention: Duration = timedelta(days=14)
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Peers whose `X-Forwarded-For` names the client."""
    shutdown_timeout: Duration = timedelta(seconds=10)

    @field_validator("domain_base")
    @classmethod
    def _host_name(cls, value: str) -> str:
        labels = value.lower().split(".")
        if len(value) > 180 or not all(
            label and label.replace("-", "").isalnum() and label.isascii() for label in labels
        ):
            raise ValueError("must be a host name such as tunnel.example.net")
        return value.lower()

    @field_validator("listen_addr")
    @classmethod
    def _address(cls, value: str) -> str:
        split_address(value)
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
    def bootstrap_path(self) -> Path:
        return self.bootstrap.credential_file or self.data_dir / "bootstrap.token"


def split_address(text: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as a pair. Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'invalid address "{text}" (write it like 127.0.0.1:8787)')
    return host.strip("[]"), int(port)

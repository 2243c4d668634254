"""What the connector is told: by flags, by environment variables, or by a section of `qanat join`'s file.

Names and meanings are cloudflared's wherever it has the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from qanat.config import Duration, Section
from qanat.wire.addresses import join_host_port

DEFAULT_PORT = 7844
DEFAULT_WSS_PORT = 443
SRV_NAME = "_v2-origintunneld._tcp.argotunnel.com"
"""Where cloudflared looks for edges when it is given none."""
WSS_PATH = "/.qanat/connector"
MAX_GRACE = timedelta(minutes=3)

ProtocolChoice = Literal["auto", "http2", "quic", "wss"]
IPVersion = Literal["auto", "4", "6"]


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """Where streams are handed to: `scheme` is http, https, tcp or unix."""

    scheme: str
    host: str
    port: int
    path: str = ""
    """The socket's path when `scheme` is unix."""

    @property
    def authority(self) -> str:
        """`host:port`, for messages."""
        return self.path or join_host_port(self.host, self.port)


def split_host_port(text: str, default_port: int) -> tuple[str, int]:
    """The host and port of `host`, `host:port` or `[v6]:port`. Raises `ValueError`."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f'"{text}" is not host:port')
    return parts.hostname, parts.port or default_port


def parse_upstream(url: str) -> UpstreamAddress:
    """Take `--url` apart. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("a unix: URL needs the socket's path")
        return UpstreamAddress("unix", "localhost", 0, parts.path)
    if parts.scheme not in ("http", "https", "tcp") or not parts.hostname:
        raise ValueError("the upstream URL must begin with http://, https://, tcp:// or unix:")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("the upstream URL may hold only scheme, host and port")
    if parts.scheme == "tcp" and parts.port is None:
        raise ValueError("a tcp:// URL needs a port")
    return UpstreamAddress(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))


def _check_edge(entry: str) -> str:
    if not entry.startswith("srv:"):
        split_host_port(entry, DEFAULT_PORT)
    return entry


def _check_url(url: str) -> str:
    parse_upstream(url)
    return url


def _check_wss(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "wss" or not parts.hostname or parts.username is not None:
        raise ValueError("a WebSocket edge must be written wss://host[:port][/path]")
    return url


def _check_metrics(address: str) -> str:
    split_host_port(address, 0)
    return address


def _check_grace(value: timedelta) -> timedelta:
    if value > MAX_GRACE:
        raise ValueError("at most 3m")
    return value


class ConnectorConfig(Section):
    """Everything `qanat connector` is told."""

    token: SecretStr | None = None
    """The tunnel token itself; a file is better, because it can be replaced."""
    token_file: Path | None = None
    """Read again before every registration: a rotated token is picked up without a restart."""
    edge: tuple[Annotated[str, AfterValidator(_check_edge)], ...] = ()
    """`host:port`, or `srv:NAME` to look edges up; empty: cloudflared's own SRV name."""
    edge_wss: tuple[Annotated[str, AfterValidator(_check_wss)], ...] = ()
    """The last rung's URLs; empty: `wss://<edge host>:443/.qanat/connector` for each edge."""
    cacert: Path | None = None
    """PEM roots that replace the system's for the edge's certificate."""
    wss_cacert: Path | None = None
    """The same for the last rung, whose certificate is an ordinary one; empty: `cacert`, else the system's."""
    protocol: ProtocolChoice = "auto"
    """`auto`: HTTP/2 on 7844, then QUIC on 7844, then WebSocket on 443; two failed dials lead to the next."""
    url: Annotated[str, AfterValidator(_check_url)] | None = None
    """Where streams go: `http://`, `https://`, `tcp://host:port` or `unix:/path`, no URL path; empty: nowhere."""
    metrics: Annotated[str, AfterValidator(_check_metrics)] | None = None
    """`host:port` for `/metrics` and `/ready`; empty: neither."""
    grace_period: Annotated[Duration, AfterValidator(_check_grace)] = timedelta(seconds=30)
    """What running streams get when the connector stops; at most three minutes."""
    retries: int = Field(default=5, ge=1, le=10)
    """Caps the back-off exponent: the longest pause is about 2**retries seconds. It never gives up."""
    ha_connections: int = Field(default=4, ge=1, le=16)
    """How many connections to keep, over at least two edges whenever there are two."""
    edge_ip_version: IPVersion = "auto"
    """Which kind of address to dial when a name has both."""
    edge_bind_address: str | None = None
    """The local address to dial from."""
    region: str | None = None
    """Prefixes the SRV name; no effect with edges given."""

    @model_validator(mode="after")
    def _needs_one_token(self) -> ConnectorConfig:
        if self.token is None and self.token_file is None:
            raise ValueError("a tunnel token is required: --token-file, TUNNEL_TOKEN or TUNNEL_TOKEN_FILE")
        return self

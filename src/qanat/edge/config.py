"""What `qanat edge` reads from its file."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from qanat.config import Duration, Section

WSS_PATH = "/.qanat/connector"
"""Where connectors that may only leave through port 443 knock, on the client listener."""


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `host:port` or `:port`. Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'"{text}" is not host:port')
    return host.strip("[]"), int(port)


def _check_listen(text: str) -> str:
    parse_listen(text)
    return text


def _check_domain(text: str) -> str:
    return text.strip(".").lower()


ListenAddress = Annotated[str, AfterValidator(_check_listen)]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class CertificateFiles(Section):
    """A certificate chain and its key, in PEM; read again when the files change."""

    certificate_file: Path
    key_file: Path


class ConnectorListener(Section):
    """Where connectors dial in: TCP and UDP on the same port."""

    listen_addr: ListenAddress = ":7844"
    """TCP, and UDP on the same port when `quic` is on."""
    tls: CertificateFiles
    """Must hold the DNS names `h2.`, `quic.` and `probe.cftunnel.com`."""
    quic: bool = True
    """A stock cloudflared with a single edge address tries nothing else unless it is told to."""
    wss_names: tuple[Annotated[str, AfterValidator(_check_domain)], ...] = ()
    """Server names under which connectors are also met on the client listener, by WebSocket; empty: not at all."""


class ProxyProtocol(Section):
    """Addresses as a balancer reports them (PROXY protocol version 2)."""

    trusted: tuple[Network, ...]
    """The balancers. A connection from elsewhere is closed; one of theirs without the header too."""


class ClientListener(Section):
    """Where clients dial in, with a certificate of their own."""

    listen_addr: ListenAddress = ":443"
    tls: CertificateFiles
    client_ca_file: Path
    """PEM of the CAs that sign client certificates: the operator's own, no public one."""
    client_crl_file: Path | None = None
    """PEM revocation lists; with this set every client certificate must be covered by one."""
    allowed_addresses: tuple[Network, ...]
    """Who may even begin a handshake. Deny by default: write `0.0.0.0/0` and `::/0` for everybody."""
    proxy_protocol: ProxyProtocol | None = None


class ClientMapping(Section):
    """Which organizations a client certificate stands for. Give a SAN (DNS name or URI) or a SHA-256 fingerprint."""

    san: str | None = None
    """A DNS name or URI of the certificate, exactly."""
    fingerprint: str | None = None
    """SHA-256 of the certificate's DER, 64 hex digits, colons or not."""
    organizations: tuple[str, ...] | Literal["*"]
    """Ids of organizations whose tunnels the client may reach, or `*` for all. Entries for one client add up."""

    @field_validator("fingerprint")
    @classmethod
    def _normalise(cls, value: str | None) -> str | None:
        if value is None:
            return None
        digits = value.replace(":", "").lower()
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise ValueError("must be the 64 hex digits of a SHA-256")
        return digits

    @model_validator(mode="after")
    def _needs_one(self) -> ClientMapping:
        if (self.san is None) == (self.fingerprint is None):
            raise ValueError("give either san or fingerprint")
        return self


class ControlPlane(Section):
    """Where the edge learns which tunnels exist."""

    url: str
    """Without a path: `https://control.example.net`."""
    service_key: SecretStr | None = None
    """A service key with the role `edge`; better in a file."""
    service_key_file: Path | None = None
    ca_file: Path | None = None
    """PEM roots for its certificate; the system's when empty."""
    timeout: Duration = timedelta(seconds=3)
    """For each question; a stale answer is used after that."""

    @model_validator(mode="after")
    def _needs_one_key(self) -> ControlPlane:
        if (self.service_key is None) == (self.service_key_file is None):
            raise ValueError("give either service_key or service_key_file")
        return self

    def read_key(self) -> SecretStr:
        """The service key. Raises `OSError`, or `UnicodeDecodeError` for what is no text."""
        if self.service_key is not None:
            return self.service_key
        assert self.service_key_file is not None
        return SecretStr(self.service_key_file.read_text().strip())


class Limits(Section):
    """How much anybody may use. What is beyond is refused, logged and counted."""

    client_connections: int = Field(default=20_000, ge=1)
    """Open on the client listener, handshakes included."""
    connections_per_client: int = Field(default=5_000, ge=1)
    """Per client certificate."""
    streams_per_tunnel: int = Field(default=2_000, ge=1)
    """Open on this node's connections of the tunnel."""
    connector_connections: int = Field(default=20_000, ge=1)
    """Accepted on the connector listener, over TCP and QUIC together, registered or not."""
    connections_per_tunnel: int = Field(default=100, ge=1)
    """On this node."""
    connections_per_connector: int = Field(default=16, ge=1)
    """On this node, of one connector."""
    handshakes: int = Field(default=64, ge=1)
    """Running at once, for each listener."""
    waiting_handshakes: int = Field(default=1_024, ge=0)
    """Waiting for a place; more are closed."""
    handshake_timeout: Duration = timedelta(seconds=10)
    """Slower handshakes are cut."""
    header_bytes: int = Field(default=16 * 1024, ge=1024, le=65_535)
    """Of a request head, first line included."""
    header_timeout: Duration = timedelta(seconds=10)
    """From the end of the handshake to the end of the head."""
    open_timeout: Duration = timedelta(seconds=15)
    """From the request to the proxy's answer to it, retries included."""
    idle_timeout: Duration = timedelta(minutes=5)
    """A stream on which nothing moved for so long is closed; proxies ping every 30 s."""


class Cluster(Section):
    """How this node finds the others. Without this section it is alone."""

    redis_url: SecretStr
    """`redis://[user:password@]host:port/db`, or `rediss://` or `unix://`."""
    prefix: str = "qanat:edge:"
    """Of every key and channel; nodes with the same prefix are one cluster."""
    listen_addr: ListenAddress = ":7845"
    """Where other nodes relay to us."""
    advertise_host: str | None = None
    """The host they dial; needed when `listen_addr` names none."""
    tls: CertificateFiles
    """Server and client certificate in one, with the DNS name `node_name`."""
    ca_file: Path
    """PEM of the CA that signs node certificates, and nothing else."""
    node_name: str = "edge-node.qanat.internal"
    """The DNS name every node's certificate holds."""
    lifetime: Duration = timedelta(seconds=6)
    """A node that has not spoken for so long is forgotten; it speaks three times as often."""
    connections_per_connector: int = Field(default=2, ge=1)
    """Of one connector on this node while others are up, of the four it makes."""

    @model_validator(mode="after")
    def _needs_a_host(self) -> Cluster:
        if self.advertise_host is None and parse_listen(self.listen_addr)[0] in ("", "0.0.0.0", "::"):  # noqa: S104 - compared
            raise ValueError("advertise_host is required when listen_addr names no host")
        return self


class EdgeConfig(Section):
    """Everything `qanat edge` reads from its file."""

    name: str = "edge"
    """This node in logs, events and the connector's log."""
    connectors: ConnectorListener
    clients: ClientListener
    client_organizations: tuple[ClientMapping, ...]
    control: ControlPlane | None = None
    limits: Limits = Limits()
    cluster: Cluster | None = None
    metrics_addr: ListenAddress | None = None
    """Where Prometheus may ask; nowhere when empty."""
    traffic_interval: Duration = Field(default=timedelta(seconds=10), ge=timedelta(seconds=1))
    """How often operators are told what each tunnel carried."""
    drain_timeout: Duration = timedelta(seconds=30)
    """From SIGTERM to the end; streams still open then are cut."""
    log_level: Literal["debug", "info", "warn", "error"] = "info"
    log_format: Literal["json", "text"] = "json"

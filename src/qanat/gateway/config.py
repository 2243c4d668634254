"""Everything `qanat gateway` reads from its file."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from qanat.config import Duration, ListenAddress, Section


def _check_network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


Network = Annotated[str, AfterValidator(_check_network)]


class TLSFiles(Section):
    """A server certificate with its chain, and its key: PEM files."""

    cert_file: Path
    key_file: Path


class ControlSection(Section):
    """The control plane that knows credentials and tunnels."""

    url: str
    service_key: SecretStr | None = None
    service_key_file: Path | None = None
    ca_file: Path | None = None

    @model_validator(mode="after")
    def check_key(self) -> ControlSection:
        if (self.service_key is None) == (self.service_key_file is None):
            raise ValueError("give either service_key or service_key_file")
        return self


class EdgeSection(Section):
    """The edge's client listener, and who we are there."""

    address: str
    """`host:port`; the name verified by outer TLS is the tunnel's domain, whatever is dialled."""
    cert_file: Path
    key_file: Path
    ca_file: Path | None = None
    """What vouches for the edge's certificate; the system's roots when empty."""
    base_domain: str
    """Hosts under it are behind tunnels and are never looked up in DNS."""


class ModelSection(Section):
    """One model callers may ask for; the key in `models` is its public name."""

    upstream: Literal["anthropic", "openai", "demo"]
    model: str = ""
    """Its name at the upstream; the public name when empty."""
    base_url: str = ""
    """The upstream's address; an OpenAI-compatible one ends in `/v1`. Anthropic's own when empty."""
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    """Else the environment is asked: `ANTHROPIC_API_KEY`, `OPENAI_API_KEY`."""
    display_name: str = ""
    """What `GET /v1/models` calls it."""
    max_input_tokens: int | None = None
    """Told to callers, not enforced."""
    max_tokens: int | None = None
    """Told to callers, not enforced."""
    images: bool = False
    """OpenAI-compatible servers: whether the model can look at images."""
    reasoning: bool = False
    """OpenAI-compatible servers: show `reasoning_content` as thinking."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """OpenAI-compatible servers: what they call the limit of output tokens."""

    @model_validator(mode="after")
    def check_url(self) -> ModelSection:
        if self.upstream == "openai" and not self.base_url:
            raise ValueError("base_url is required for an openai upstream")
        return self


def demo_models() -> dict[str, ModelSection]:
    """What is served when no model is configured."""
    return {"qanat-demo": ModelSection(upstream="demo", display_name="qanat demo model")}


class DirectEgress(Section):
    """Servers that are not behind a tunnel. Off by default: the gateway reaches tunnels only."""

    mode: Literal["off", "allow_list"] = "off"
    """`allow_list`: the names in `hosts` may be reached, at public addresses."""
    hosts: tuple[str, ...] = ()
    """Exact names, or `*.example.com` for every name below; `*` for all."""
    http_hosts: tuple[str, ...] = ()
    """Names that may be reached by plain `http://`, for tests and loopback."""
    allowed_ips: tuple[Network, ...] = ()
    """Private or loopback networks that may be dialled all the same."""
    ca_file: Path | None = None
    """Extra roots for these servers, beside the system's."""


class OAuthSection(Section):
    """Vaults and sign-ins. Without it only `authorization_token` gives access to protected servers."""

    public_url: str
    """Where browsers reach this gateway, `https://host`: the redirect URI is `/oauth/callback` below it."""
    database: Path
    """SQLite file for sealed credentials."""
    key_file: Path
    """32 bytes in hex that seal them."""
    client_documents: bool = True
    """Use the document at `/oauth/client` as client id where an authorization server takes that."""
    allowed_ips: tuple[Network, ...] = ()
    """Private networks that authorization servers may be in, beside public addresses and tunnels."""
    http_hosts: tuple[str, ...] = ()
    """Names that may be reached by plain `http://`, for tests and loopback."""
    ca_file: Path | None = None
    """Extra roots for authorization servers that are reached directly."""


class Limits(Section):
    """Bounds of one request."""

    connect: Duration = timedelta(seconds=10)
    """To connect to an MCP server, tunnel included."""
    list_tools: Duration = timedelta(seconds=30)
    """To negotiate with an MCP server, and again for each page of its tool list."""
    tool_call: Duration = timedelta(seconds=120)
    """One tool call; then the model reads that it timed out."""
    request: Duration = timedelta(seconds=570)
    """A whole response; then it ends with `pause_turn`. SDKs wait for ten minutes, and then ask all over again."""
    iterations: int = Field(default=10, ge=1, le=100)
    """Samplings in one response; then it ends with `pause_turn`."""
    parallel_calls: int = Field(default=16, ge=1, le=256)
    """Tool calls of one response that run at once."""
    body_bytes: int = 32 * 1024 * 1024
    """Of a request; larger ones get 413."""
    response_bytes: int = 8 * 1024 * 1024
    """Of one answer of an MCP server, before anything is cut."""


class CanarySection(Section):
    """Probes of the routes that operators watch."""

    enabled: bool = True
    interval: Duration = timedelta(seconds=3)
    """From one round to the next. A verdict that is not renewed for eight seconds counts as unknown."""
    timeout: Duration = timedelta(seconds=4)
    """How long one probe may take."""


class GatewayConfig(Section):
    """The whole file."""

    listen: ListenAddress = "127.0.0.1:8788"
    """Where callers connect to, `host:port`."""
    name: str = Field(default="gateway", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """How operators know this gateway from others."""
    tls: TLSFiles | None = None
    """Without it the gateway speaks plain HTTP: for loopback, or behind a proxy of your own."""
    metrics: ListenAddress | None = None
    """`host:port` where `/metrics` and `/healthz` listen; nowhere when empty."""
    control: ControlSection
    edge: EdgeSection | None = None
    """Without it no tunnel can be reached."""
    models: dict[str, ModelSection] = Field(default_factory=demo_models)
    direct_egress: DirectEgress = DirectEgress()
    oauth: OAuthSection | None = None
    canary: CanarySection = CanarySection()
    limits: Limits = Limits()
    tool_cache: Duration = timedelta(seconds=60)
    """How long a server's tool list is kept; 0 turns the cache off."""
    passed_betas: tuple[str, ...] = ()
    """`anthropic-beta` values that travel on to an Anthropic upstream."""
    ping_interval: Duration = timedelta(seconds=10)
    """A stream that is quiet for this long gets a `ping`."""
    shutdown_timeout: Duration = timedelta(seconds=30)
    """How long running responses may go on once the gateway is told to stop."""

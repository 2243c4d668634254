"""Every part in one process: what `qanat dev` shows and the end-to-end tests use.

The operator's half (control plane, certificates, edge, gateway) and the customer's half (setup, connector, proxy, the
MCP servers) meet only where they meet in production: at the Tunnels API, on the wire, and in files.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import SecretStr

from qanat.api.http import Call, JSONClient
from qanat.clock import SystemClock
from qanat.connector import server as connector
from qanat.connector.config import ConnectorConfig
from qanat.connector.server import Connector
from qanat.control import server as control
from qanat.control.config import ControlConfig, ServiceKey
from qanat.control.server import ControlServer
from qanat.edge import config as edge_config
from qanat.edge import operator_pki
from qanat.edge import server as edge
from qanat.edge.server import Edge
from qanat.errors import QanatError
from qanat.gateway import config as gateway_config
from qanat.gateway import server as gateway
from qanat.gateway.config import GatewayConfig, ModelSection
from qanat.gateway.server import Gateway
from qanat.logger import get_logger
from qanat.proxy import server as proxy
from qanat.proxy.config import ProxyConfig
from qanat.proxy.server import RunningProxy
from qanat.samples import server as samples
from qanat.samples.server import Samples
from qanat.setup.init import run_init
from qanat.setup.options import InitOptions, SignIn
from qanat.setup.output import open_output

log = get_logger("qanat.stack")
BASE_DOMAIN = "tunnel.localhost"
GATEWAY_NAME = "gateway.qanat.internal"
LOOPBACK = "127.0.0.1"
PART_TIMEOUT = 30.0
"""Seconds a part may take to start."""
SHORT = timedelta(seconds=1)
"""How long a part waits for what is still running when it is told to stop."""
DEMO_MODEL = {"qanat-demo": ModelSection(upstream="demo", display_name="qanat demo model")}

P = TypeVar("P")


@dataclass(eq=False)
class PartFailed(QanatError):
    """A part did not start, or did not do what the next one needs."""

    code: ClassVar[str] = "part_failed"
    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}"


class Part(Generic[P]):
    """One part in a task of its own, so that it can be stopped by itself, whoever started it."""

    def __init__(self, name: str, serving: AbstractAsyncContextManager[P]) -> None:
        self.name = name
        self._serving = serving
        self._started: asyncio.Future[P] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"part {name}")

    async def started(self) -> P:
        """What the part yields once it serves. Raises `PartFailed`."""
        try:
            async with asyncio.timeout(PART_TIMEOUT):
                return await asyncio.shield(self._started)
        except TimeoutError:
            raise PartFailed(self.name, f"did not start within {PART_TIMEOUT:.0f} s") from None

    async def stop(self) -> None:
        """Stop it gracefully, or give up its start; nothing happens when it has stopped."""
        self._stop.set()
        if not self._started.done():
            self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            async with self._serving as part:
                self._started.set_result(part)
                await self._stop.wait()
        except Exception as error:
            if self._started.done():
                log.exception("part failed", part=self.name)
            else:
                self._started.set_exception(PartFailed(self.name, innermost(error)))


def innermost(error: BaseException) -> str:
    """The sentence of an error, or of the first one in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


@dataclass
class Stack:
    """The parts, in the order of their start. Use as an async context manager, or `start` and `close`."""

    directory: Path
    """Everything that is written goes here; it is the caller's to remove."""
    models: dict[str, ModelSection] = field(default_factory=lambda: dict(DEMO_MODEL))
    listen: str = f"{LOOPBACK}:0"
    """Where the gateway listens."""
    say: Callable[[str], None] = lambda line: None
    """Hears of progress, a line at a time."""

    def __post_init__(self) -> None:
        self._parts: dict[str, Part[Any]] = {}
        self._addresses: dict[str, str] = {}
        self._ports: dict[str, int] = {}
        self._keys = {role: secrets.token_urlsafe(32) for role in ("edge", "gateway")}

    control: ControlServer = field(init=False)
    edge: Edge = field(init=False)
    samples: Samples = field(init=False)
    proxy: RunningProxy = field(init=False)
    connector: Connector = field(init=False)
    gateway: Gateway = field(init=False)
    api_key: SecretStr = field(init=False, repr=False)
    """What a caller of the gateway presents."""
    tunnels_key: SecretStr = field(init=False, repr=False)
    """What a customer presents to the Tunnels API; good for an hour."""
    tunnel_domain: str = field(init=False)
    tunnel_id: str = field(init=False)

    async def __aenter__(self) -> Stack:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def customer(self) -> Path:
        """What `setup init` wrote: CA, server certificate, tunnel token."""
        return self.directory / "customer"

    @property
    def running(self) -> tuple[str, ...]:
        """The names of the parts that have not been stopped."""
        return tuple(self._parts)

    @property
    def pki(self) -> Path:
        """The operator's certificates."""
        return self.directory / "operator"

    @property
    def environment(self) -> dict[str, str]:
        """What the examples, `qanat setup` and `qanat join` read."""
        return {
            "ANTHROPIC_BASE_URL": self.gateway.url,
            "ANTHROPIC_API_KEY": self.api_key.get_secret_value(),
            "TUNNEL_DOMAIN": self.tunnel_domain,
            "QANAT_EDGE": join(self.edge.client_address),
            "QANAT_FILES": str(self.directory),
            "API_URL": self.control.url,
            "API_TOKEN": self.tunnels_key.get_secret_value(),
            "TUNNEL_EDGE": join(self.edge.connector_address),
            "TUNNEL_CACERT": str(self.pki / "connector-listener-ca.pem"),
        }

    def url(self, server: str) -> str:
        """The address of an MCP server as callers of the gateway write it."""
        return f"https://{server}.{self.tunnel_domain}/mcp"

    async def start(self) -> None:
        """Bring up every part. Raises `PartFailed`; what had been started is stopped then."""
        try:
            await self._start_operator()
            await self._start_customer()
            await self._start_gateway()
        except BaseException:
            await self.close()
            raise

    async def stop_part(self, name: str) -> None:
        """Stop one part and leave the others as they are."""
        await self._parts.pop(name).stop()

    async def start_part(self, name: Literal["samples", "edge", "connector", "gateway"]) -> None:
        """Start a part again that was stopped, where it was. Raises `PartFailed`."""
        starts = {
            "samples": self._start_samples,
            "edge": self._start_edge,
            "connector": self.start_connector,
            "gateway": self._serve_gateway,
        }
        await starts[name]()

    async def close(self) -> None:
        """Stop everything, callers first."""
        for name in ("gateway", "connector", "proxy", "edge", "control", "samples"):
            if name in self._parts:
                await self.stop_part(name)

    async def _part(self, name: str, serving: AbstractAsyncContextManager[P]) -> P:
        part = Part(name, serving)
        self._parts[name] = part
        return await part.started()

    async def _start_operator(self) -> None:
        self.say("control plane: Tunnels API over SQLite")
        self.control = await self._part("control", control.serve(self._control_config()))
        self.say("operator certificates: connector listener, client listener, gateway")
        await asyncio.to_thread(self._make_operator_pki)
        self.say("edge: one door for connectors, one for clients")
        await self._start_edge()

    async def _start_edge(self) -> None:
        self.edge = await self._part("edge", edge.serve(self.edge_config()))
        self._addresses["connectors"] = join(self.edge.connector_address)
        self._addresses["clients"] = join(self.edge.client_address)

    async def _start_customer(self) -> None:
        self.say("MCP servers: tickets and kb, over SQLite")
        await self._start_samples()
        self.say("setup init: a tunnel, its CA and server certificate, the token")
        await self._run_setup()
        self.say(f"proxy for *.{self.tunnel_domain}")
        self.proxy = await self._part("proxy", proxy.serve(self._proxy_config()))
        await self.start_connector()

    async def _start_samples(self) -> None:
        self.samples = await self._part("samples", samples.serve(self.directory, self._ports))
        self._ports = {name: int(url.rpartition(":")[2]) for name, url in self.samples.urls.items()}

    async def start_connector(self) -> None:
        """Start the connector, for the first time or after it was stopped. Raises `PartFailed`."""
        self.say("connector: dialling the edge")
        self.connector = await self._part("connector", connector.serve(self._connector_config()))
        try:
            async with asyncio.timeout(PART_TIMEOUT):
                await self.connector.wait_ready()
        except (TimeoutError, RuntimeError):
            raise PartFailed("connector", "no connection to the edge was registered") from None

    async def _start_gateway(self) -> None:
        self.say("gateway: Messages API")
        key = await self._ask_operator("/admin/v1/api_keys", {"name": "dev"})
        self.api_key = SecretStr(key["key"])
        await self._serve_gateway()

    async def _serve_gateway(self) -> None:
        self.gateway = await self._part("gateway", gateway.serve(self._gateway_config()))
        self._addresses["gateway"] = self.gateway.url.removeprefix("http://")
        self.control.operations.playground.gateway_url = self.gateway.url

    async def _run_setup(self) -> None:
        """What a customer does: get a Tunnels API key from the operator, then run `qanat setup init`."""
        key = await self._ask_operator("/admin/v1/tunnels_api_keys", {"name": "dev", "lifetime_seconds": 3600})
        self.tunnels_key = SecretStr(key["token"])
        options = InitOptions(self.control.url, SignIn(api_token=self.tunnels_key), tunnel_name="dev")
        self.customer.mkdir(mode=0o700)
        try:
            async with open_output(f"dir:{self.customer}", {}) as output:
                await run_init(options, output, SystemClock(), lambda line: self.say(f"  {line}"))
        except QanatError as error:
            raise PartFailed("setup", str(error)) from error
        self.tunnel_domain = (self.customer / "tunnel-domain").read_text().strip()
        self.tunnel_id = (self.customer / "tunnel-id").read_text().strip()

    async def _ask_operator(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.control.credential.get_secret_value()}"}
        try:
            async with JSONClient(self.control.url, headers) as client:
                return await client.call(Call("POST", path, body))
        except QanatError as error:
            raise PartFailed("control", str(error)) from error

    def _make_operator_pki(self) -> None:
        ca = (self.pki / "client-ca.pem", self.pki / "client-ca-key.pem")
        try:
            operator_pki.make(self.pki, BASE_DOMAIN)
            operator_pki.make_client(ca, GATEWAY_NAME, self.pki / "gateway", timedelta(days=90))
        except (QanatError, OSError) as error:
            raise PartFailed("operator certificates", str(error)) from error

    def _control_config(self) -> ControlConfig:
        keys = tuple(
            ServiceKey.model_validate({"name": role, "role": role, "key": key}) for role, key in self._keys.items()
        )
        return ControlConfig(
            listen_addr=f"{LOOPBACK}:0",
            data_dir=self.directory / "control",
            domain_base=BASE_DOMAIN,
            service_keys=keys,
            shutdown_timeout=SHORT,
        )

    def edge_config(self, **changes: Any) -> edge_config.EdgeConfig:
        """The edge's, at the addresses it had when it ran before; `changes` make it another node's."""

        def files(name: str) -> edge_config.CertificateFiles:
            return edge_config.CertificateFiles(
                certificate_file=self.pki / f"{name}.pem", key_file=self.pki / f"{name}-key.pem"
            )

        def address(door: str) -> str:
            return self._addresses.get(door, f"{LOOPBACK}:0")

        return edge_config.EdgeConfig.model_validate(
            {
                "connectors": {"listen_addr": address("connectors"), "tls": files("connector-listener")},
                "clients": {
                    "listen_addr": address("clients"),
                    "tls": files("client-listener"),
                    "client_ca_file": self.pki / "client-ca.pem",
                    "allowed_addresses": [f"{LOOPBACK}/32"],
                },
                "client_organizations": [{"san": GATEWAY_NAME, "organizations": "*"}],
                "control": {"url": self.control.url, "service_key": self._keys["edge"]},
                "drain_timeout": SHORT,
                **changes,
            }
        )

    def _proxy_config(self) -> ProxyConfig:
        return ProxyConfig.model_validate(
            {
                "listen_addr": f"{LOOPBACK}:0",
                "tunnel_domain": self.tunnel_domain,
                "tls": {"cert_file": self.customer / "tls.crt", "key_file": self.customer / "tls.key"},
                "routes": self.samples.urls,
                "upstream": {"allowed_ips": [f"{LOOPBACK}/32"]},
                "shutdown_timeout": SHORT,
            }
        )

    def _connector_config(self) -> ConnectorConfig:
        assert self.proxy.address is not None
        return ConnectorConfig(
            token_file=self.customer / "tunnel-token",
            edge=(join(self.edge.connector_address),),
            cacert=self.pki / "connector-listener-ca.pem",
            protocol="http2",
            url=f"http://{join(self.proxy.address)}",
            grace_period=SHORT,
        )

    def _gateway_config(self) -> GatewayConfig:
        section = gateway_config.EdgeSection(
            address=join(self.edge.client_address),
            cert_file=self.pki / "gateway.pem",
            key_file=self.pki / "gateway-key.pem",
            ca_file=self.pki / "client-listener-ca.pem",
            base_domain=BASE_DOMAIN,
        )
        return GatewayConfig(
            listen=self._addresses.get("gateway", self.listen),
            control=gateway_config.ControlSection(url=self.control.url, service_key=SecretStr(self._keys["gateway"])),
            edge=section,
            models=self.models,
            shutdown_timeout=SHORT,
        )


def join(address: tuple[str, int]) -> str:
    """`host:port`."""
    return f"{address[0]}:{address[1]}"

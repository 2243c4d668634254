"""Setup's output in the hands of the real parts: control plane, edge, connector, proxy, client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from pydantic import SecretStr

from qanat.api.tunnels import TunnelsClient
from qanat.client.dial import Edge, dial, outer_context
from qanat.client.errors import TunnelFailed
from qanat.client.transport import open_tunnel
from qanat.clock import SystemClock
from qanat.connector import server as connector
from qanat.connector.config import ConnectorConfig
from qanat.dev.request import Answer, HopFailed, ask, example_request
from qanat.ids import TunnelID
from qanat.pki.material import fingerprint, load_certificate, load_certificates
from qanat.proxy import server as proxy
from qanat.proxy.config import ProxyConfig
from qanat.setup.errors import SetupRefused
from qanat.setup.init import run_init
from qanat.setup.options import InitOptions, SignIn
from qanat.setup.output import open_output
from qanat.setup.renew import RenewOptions, run_renew
from qanat.stack import Stack, join
from tests.support.pki import documented_ca, documented_server
from tests.support.requirements import requirement

TIMEOUT = 20.0


@dataclass
class Customer:
    """A customer's data folder in use: a proxy that looks at its certificate often, and a connector."""

    stack: Stack
    data: Path

    @property
    def host(self) -> str:
        return f"tickets.{self.stack.tunnel_domain}"

    def client(self, ca: Path) -> httpx2.AsyncClient:
        pki = self.stack.pki
        return open_tunnel(
            join(self.stack.edge.client_address),
            certificate=pki / "gateway.pem",
            key=pki / "gateway-key.pem",
            ca=ca,
            edge_ca=pki / "client-listener-ca.pem",
        )

    async def served_fingerprint(self, ca: Path) -> str:
        """Of the certificate that a new session is shown."""
        pki = self.stack.pki
        context = outer_context(pki / "gateway.pem", pki / "gateway-key.pem", pki / "client-listener-ca.pem")
        edge = Edge(*self.stack.edge.client_address, context)
        stream = await dial(edge, self.host, anchors(ca), TIMEOUT)
        der = stream.get_extra_info("ssl_object").getpeercert(binary_form=True)
        await stream.aclose()
        return fingerprint(x509.load_der_x509_certificate(der))

    async def wait_for_new_certificate(self, ca: Path) -> None:
        """Until new sessions are shown what is in the folder now."""
        wanted = fingerprint(load_certificate((self.data / "tls.crt").read_bytes()))
        async with asyncio.timeout(TIMEOUT):
            while await self.served_fingerprint(ca) != wanted:
                pass


def anchors(ca: Path) -> list[x509.Certificate]:
    return load_certificates(ca.read_bytes())


@asynccontextmanager
async def customer(stack: Stack) -> AsyncIterator[Customer]:
    await stack.stop_part("connector")
    await stack.stop_part("proxy")
    config = ProxyConfig.model_validate(
        {
            "listen_addr": "127.0.0.1:0",
            "tunnel_domain": stack.tunnel_domain,
            "tls": {"cert_file": stack.customer / "tls.crt", "key_file": stack.customer / "tls.key"},
            "routes": stack.samples.urls,
            "upstream": {"allowed_ips": ["127.0.0.1/32"]},
            "shutdown_timeout": "1s",
        }
    )
    async with proxy.serve(config, certificate_interval=0.05) as running:
        assert running.address is not None
        joined = ConnectorConfig(
            token_file=stack.customer / "tunnel-token",
            edge=(join(stack.edge.connector_address),),
            cacert=stack.pki / "connector-listener-ca.pem",
            protocol="http2",
            url=f"http://{join(running.address)}",
            grace_period=timedelta(seconds=1),
        )
        async with connector.serve(joined) as dialled:
            async with asyncio.timeout(TIMEOUT):
                await dialled.wait_ready()
            yield Customer(stack, stack.customer)


@pytest.fixture
async def in_use(tmp_path: Path) -> AsyncIterator[Customer]:
    async with Stack(tmp_path) as stack, customer(stack) as running:
        yield running


async def call(client: httpx2.AsyncClient, host: str) -> int:
    """The status of one request to the sample server; it is the server's own business, and never the tunnel's 5xx."""
    return (await client.get(f"https://{host}/mcp", timeout=TIMEOUT)).status_code


@pytest.mark.slow
@requirement("setup:21")
async def test_a_renewed_certificate_is_taken_up_under_load_with_no_failed_call(in_use: Customer) -> None:
    ca = in_use.data / "ca.crt"
    before = await in_use.served_fingerprint(ca)
    stop, done, statuses = asyncio.Event(), asyncio.Semaphore(0), list[int]()

    async def load() -> None:
        async with in_use.client(ca) as kept:
            while not stop.is_set():
                statuses.append(await call(kept, in_use.host))
                async with in_use.client(ca) as fresh:
                    statuses.append(await call(fresh, in_use.host))
                done.release()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(load())
        for _ in range(3):
            async with open_output(f"dir:{in_use.data}", {}) as output:
                await run_renew(RenewOptions(), output, SystemClock(), lambda _: None)
            await in_use.wait_for_new_certificate(ca)
            for _ in range(8):
                await done.acquire()
        stop.set()
    assert await in_use.served_fingerprint(ca) != before
    assert len(statuses) >= 48
    assert {status for status in statuses if status >= 500} == set()


@pytest.mark.slow
@requirement("setup:20")
async def test_the_documented_recipe_serves_end_to_end(in_use: Customer, tmp_path: Path) -> None:
    made = tmp_path / "by-hand"
    made.mkdir()
    documented_ca(made)
    documented_server(made, in_use.stack.tunnel_domain)
    credential = in_use.stack.control.credential
    async with TunnelsClient(in_use.stack.control.url, credential) as api:
        record = await api.register_certificate(TunnelID(in_use.stack.tunnel_id), (made / "ca.crt").read_text())
    assert record.fingerprint == fingerprint(load_certificate((made / "ca.crt").read_bytes()))
    for name in ("tls.key", "tls.crt"):
        (in_use.data / name).write_bytes((made / name).read_bytes())
    both = tmp_path / "both.crt"  # until the proxy looks again it shows the old one
    both.write_bytes((in_use.data / "ca.crt").read_bytes() + (made / "ca.crt").read_bytes())
    await in_use.wait_for_new_certificate(both)
    async with in_use.client(made / "ca.crt") as client:
        assert await call(client, in_use.host) < 500
    async with TunnelsClient(in_use.stack.control.url, credential) as api:
        for other in await api.list_certificates(TunnelID(in_use.stack.tunnel_id)):
            if other.fingerprint != record.fingerprint:
                await api.archive_certificate(TunnelID(in_use.stack.tunnel_id), other.id)
    answer = await ask_until_answered(in_use.stack)
    assert answer.blocks("mcp_tool_result"), "the gateway verifies with the CA made by hand alone"
    assert not any(block["is_error"] for block in answer.blocks("mcp_tool_result"))


async def ask_until_answered(stack: Stack) -> Answer:
    """The gateway's answer, once it has heard of the certificates that count now."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                return await ask(stack, example_request(stack, "qanat-demo"))
            except HopFailed:
                await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_a_ca_is_replaced_without_a_failed_call(in_use: Customer, tmp_path: Path) -> None:
    stack = in_use.stack
    old = tmp_path / "old-ca.crt"
    old.write_bytes((in_use.data / "ca.crt").read_bytes())
    options = InitOptions(stack.control.url, SignIn(api_token=stack.control.credential), new_ca=True)
    async with in_use.client(old) as kept:
        assert await call(kept, in_use.host) < 500
        async with open_output(f"dir:{in_use.data}", {}) as output:
            await run_init(options, output, SystemClock(), lambda _: None)
        both = tmp_path / "both.crt"  # what a gateway trusts while two CAs are registered
        both.write_bytes(old.read_bytes() + (in_use.data / "ca.crt").read_bytes())
        await in_use.wait_for_new_certificate(both)
        assert await call(kept, in_use.host) < 500
    async with in_use.client(in_use.data / "ca.crt") as client:
        assert await call(client, in_use.host) < 500


@pytest.mark.slow
@requirement("setup:1", "setup:2", "setup:9")
async def test_setup_and_the_real_control_plane_agree(tmp_path: Path) -> None:
    async with Stack(tmp_path) as stack:
        data = tmp_path / "second"
        data.mkdir()
        said: list[str] = []

        async def init(version: str, credential: SecretStr = stack.control.credential) -> None:
            options = InitOptions(stack.control.url, SignIn(api_token=credential), token_version=version)
            async with open_output(f"dir:{data}", {}) as output:
                await run_init(options, output, SystemClock(), said.append)

        await init("1")
        first = {path.name: path.read_bytes() for path in data.iterdir()}
        await init("1")
        assert {path.name: path.read_bytes() for path in data.iterdir()} == first
        await init("2")
        assert (data / "tunnel-token").read_bytes() != first["tunnel-token"]
        with pytest.raises(SetupRefused, match="API_TOKEN was refused"):
            await init("2", SecretStr("sk-ant-oat01-nobody"))
        async with TunnelsClient(stack.control.url, stack.control.credential) as api:
            assert len(await api.list_tunnels()) == 2


async def call_until_refused(in_use: Customer) -> None:
    """The edge hears of an archived certificate within seconds."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            async with in_use.client(in_use.data / "ca.crt") as client:
                assert await call(client, in_use.host) < 500


@pytest.mark.slow
@requirement("setup:37")
async def test_a_tunnel_without_an_active_certificate_lets_nothing_through(in_use: Customer) -> None:
    stack = in_use.stack
    async with in_use.client(in_use.data / "ca.crt") as client:
        assert await call(client, in_use.host) < 500
    async with TunnelsClient(stack.control.url, stack.control.credential) as api:
        tunnel_id = TunnelID(stack.tunnel_id)
        for record in await api.list_certificates(tunnel_id):
            await api.archive_certificate(tunnel_id, record.id)
    with pytest.raises(TunnelFailed) as refused:
        await call_until_refused(in_use)
    assert refused.value.hop == "edge"

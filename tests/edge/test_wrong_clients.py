"""Twelve kinds of wrong client, each with its stated outcome, and the right one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from qanat.edge.proxy_protocol import SIGNATURE
from qanat.edge.server import Edge
from tests.support import edge_clients as wrong
from tests.support.edge import (
    BASE,
    CLIENT_NAME,
    TIMEOUT,
    Client,
    DictDirectory,
    EchoProxy,
    OperatorFiles,
    Tunnel,
    connect,
    make_tunnel,
    running_edge,
)
from tests.support.requirements import requirement


@dataclass
class Scene:
    """An edge with a revocation list and short patience, one connected tunnel, and one of another organization."""

    edge: Edge
    files: OperatorFiles
    tunnel: Tunnel
    foreign: Tunnel
    proxy: EchoProxy
    revoked: str

    async def ask(
        self, name: str | None = CLIENT_NAME, host: str | None = None, extra: str = "", local: str = "127.0.0.1"
    ) -> str:
        address, target = self.edge.client_address, host or self.tunnel.host()
        return await wrong.ask(self.files, address, target, name, extra, local)

    async def speak(self, data: bytes, tls: bool = True, alpn: str = "http/1.1") -> str:
        context = self.files.client_context(alpn=alpn) if tls else None
        return wrong.status_and_code(await wrong.speak(self.edge.client_address, data, context))


@pytest.fixture
async def scene(files: OperatorFiles, directory: DictDirectory) -> AsyncIterator[Scene]:
    revoked, crl = wrong.revoked_client(files)
    tunnel, foreign, proxy = make_tunnel(), make_tunnel("z9y8x7w6", "org-2"), EchoProxy()
    directory.add(tunnel)
    directory.add(foreign)
    changes = {
        "clients": {"client_crl_file": str(crl), "allowed_addresses": ["127.0.0.1/32"]},
        "limits": {"handshake_timeout": "300ms"},
    }
    async with running_edge(files, directory, **changes) as edge:
        connections = [await connect(edge.connector_address, files, each.token, proxy) for each in (tunnel, foreign)]
        yield Scene(edge, files, tunnel, foreign, proxy, revoked)
        for connection in connections:
            connection.close()


async def _slow_handshake(scene: Scene) -> str:
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection(*scene.edge.client_address)
        writer.write(b"\x16\x03\x01\x02\x00\x01")
        with contextlib.suppress(OSError):
            assert not await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return "refused"


def _head(scene: Scene, extra: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {scene.tunnel.host()}\r\n{extra}\r\n\r\n".encode()


H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
WRONG: dict[str, tuple[Callable[[Scene], Awaitable[str]], str]] = {
    "no certificate": (lambda scene: scene.ask(None), "refused"),
    "other CA": (lambda scene: scene.ask(wrong.other_ca_client(scene.files)), "refused"),
    "expired": (lambda scene: scene.ask(wrong.expired_client(scene.files)), "refused"),
    "revoked by CRL": (lambda scene: scene.ask(scene.revoked), "refused"),
    "mapping removed": (lambda scene: scene.ask(wrong.unmapped_client(scene.files)), "403 client_not_mapped"),
    "wrong organization": (lambda scene: scene.ask(host=scene.foreign.host()), "404 unknown_host"),
    "wrong address": (lambda scene: scene.ask(local="127.0.0.2"), "refused"),
    "plain HTTP": (lambda scene: scene.speak(_head(scene, "Connection: close"), tls=False), "refused"),
    "HTTP/2": (lambda scene: scene.speak(H2_PREFACE, alpn="h2"), "426 upgrade_required"),
    "oversized headers": (lambda scene: scene.ask(extra=f"X-Large: {'x' * 20_000}\r\n"), "431 headers_too_large"),
    "endless header": (lambda scene: scene.speak(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000), "431 headers_too_large"),
    "slow handshake": (_slow_handshake, "refused"),
    "unknown host": (lambda scene: scene.ask(host=f"tickets.unknown1.{BASE}"), "404 unknown_host"),
    "bare domain": (lambda scene: scene.ask(host=scene.tunnel.record.domain), "404 unknown_host"),
    "two labels": (lambda scene: scene.ask(host=f"a.{scene.tunnel.host()}"), "404 unknown_host"),
    "no upgrade": (lambda scene: scene.speak(_head(scene, "Connection: close")), "426 upgrade_required"),
    "two hosts": (lambda scene: scene.ask(extra="Host: other.example\r\n"), "400 bad_request"),
    "a body": (lambda scene: scene.ask(extra="Content-Length: 3\r\n"), "400 bad_request"),
}


@requirement("edge:wrong-clients")
@pytest.mark.parametrize("kind", WRONG)
async def test_a_wrong_client_is_refused_as_stated(scene: Scene, kind: str) -> None:
    attempt, outcome = WRONG[kind]
    assert await attempt(scene) == outcome
    assert not scene.proxy.heads, "nothing of it may have reached a connector"
    counted = sum(
        sample.value
        for metric in scene.edge.metrics.registry.collect()
        for sample in metric.samples
        if sample.name in ("qanat_edge_refused_total", "qanat_edge_cut_total")
    )
    assert counted == 1, "a refusal is loud and counted"


@requirement("edge:wrong-clients")
async def test_the_right_client_is_served(scene: Scene) -> None:
    assert await scene.ask() == "101"


@requirement("edge:internal-headers")
async def test_smuggled_internal_headers_are_stripped_and_counted(scene: Scene) -> None:
    smuggled = "cf-cloudflared-proxy-src: 10.0.0.1\r\ncf-int-x: 1\r\n"
    assert await scene.ask(extra=smuggled) == "101"
    assert not [name for name, _ in scene.proxy.heads[0].headers if name.startswith("cf-")]
    assert scene.edge.metrics.registry.get_sample_value("qanat_edge_stripped_headers_total") == 2


@requirement("edge:proxy-protocol")
async def test_behind_a_balancer_the_address_in_its_header_counts(
    files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    settings = {"allowed_addresses": ["192.0.2.0/24"], "proxy_protocol": {"trusted": ["127.0.0.0/8"]}}

    def header(address: bytes) -> bytes:
        return SIGNATURE + b"\x21\x11\x00\x0c" + address + bytes(4) + b"\x00\x01\x00\x02"

    async with running_edge(files, directory, clients=settings) as edge:
        assert await wrong.speak(edge.client_address, header(b"\xc6\x33\x64\x01")) == b""  # 198.51.100.1
        assert await wrong.speak(edge.client_address, b"\x16\x03\x01") == b""
        answer = await wrong.through_balancer(files, edge.client_address, header(b"\xc0\x00\x02\x07"), tunnel.host())
        assert answer == "503 tunnel_not_connected"
        event = await directory.event("client_refused")
        assert event.fields["address"] == "192.0.2.7"


@requirement("edge:wrong-clients")
async def test_a_foreign_tunnel_and_one_that_does_not_exist_look_the_same(scene: Scene) -> None:
    answers = set()
    for host in (scene.foreign.host(), f"tickets.unknown1.{BASE}", scene.tunnel.record.domain):
        guest = await Client.dial(scene.edge.client_address, scene.files.client_context())
        answer = await guest.upgrade(host)
        answers.add((answer.status, tuple(answer.headers.items()), answer.body))
        await guest.close()
    assert len(answers) == 1

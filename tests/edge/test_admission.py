"""Who comes in: addresses of both families, names and fingerprints of certificates, and nobody new while it drains."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from ipaddress import ip_network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from qanat.edge.admission import identify, is_allowed
from qanat.edge.config import ClientMapping
from qanat.edge.server import Edge
from qanat.tunnel.connection import RegistrationRefused
from qanat.tunnel.quic_udp import dial_quic
from tests.edge.test_endings import metric, until
from tests.support.edge import (
    CLIENT_NAME,
    TIMEOUT,
    Client,
    DictDirectory,
    EchoProxy,
    OperatorFiles,
    client,
    connect,
    make_tunnel,
    running_edge,
)
from tests.support.edge_clients import ask
from tests.support.requirements import requirement
from tests.support.tunnel import Upstreams

NETWORKS = [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")]


@requirement("edge:wrong-clients")
@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("192.0.2.9", True),
        ("::ffff:192.0.2.9", True),
        ("2001:db8::1", True),
        ("2001:db8::1%eth0", True),
        ("192.0.3.1", False),
        ("::ffff:192.0.3.1", False),
        ("2001:db9::1", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_addresses_of_both_families_are_judged(address: str, allowed: bool) -> None:
    assert is_allowed(address, NETWORKS) is allowed


@requirement("edge:wrong-clients")
@pytest.mark.parametrize(("allowed", "outcome"), [("::1/128", "503 tunnel_not_connected"), ("127.0.0.0/8", "refused")])
async def test_a_client_of_the_other_family_needs_an_entry_of_its_own(
    files: OperatorFiles, directory: DictDirectory, allowed: str, outcome: str
) -> None:
    tunnel = directory.add(make_tunnel())
    settings = {"listen_addr": "[::1]:0", "allowed_addresses": [allowed]}
    async with running_edge(files, directory, clients=settings) as edge:
        assert await ask(files, edge.client_address, tunnel.host(), CLIENT_NAME, local="::1") == outcome


def test_every_entry_for_a_client_adds_to_what_it_may_reach() -> None:
    fingerprint, other = "ab" * 32, "cd" * 32
    certificate = {"subjectAltName": (("DNS", "gw.example.net"), ("URI", "spiffe://example.net/gw"))}
    entries = [
        {"san": "gw.example.net", "organizations": ["a"]},
        {"san": "spiffe://example.net/gw", "organizations": ["b"]},
        {"fingerprint": ":".join(["AB"] * 32), "organizations": ["c"]},
        {"fingerprint": other, "organizations": ["d"]},
        {"san": "gw", "organizations": ["e"]},
    ]
    found = identify(certificate, fingerprint, [ClientMapping.model_validate(entry) for entry in entries])
    assert sorted(found.organizations or ()) == ["a", "b", "c"]
    everybody = ClientMapping.model_validate({"san": "gw.example.net", "organizations": "*"})
    assert identify(certificate, fingerprint, [everybody]).organizations is None


@requirement("edge:wrong-clients")
async def test_a_client_may_be_known_by_its_fingerprint(files: OperatorFiles, directory: DictDirectory) -> None:
    tunnel = directory.add(make_tunnel())
    certificate = x509.load_pem_x509_certificate(files.path(CLIENT_NAME).read_bytes())
    mapping = {"fingerprint": certificate.fingerprint(hashes.SHA256()).hex(), "organizations": ["org-1"]}
    async with running_edge(files, directory, client_organizations=[mapping]) as edge:
        assert await ask(files, edge.client_address, tunnel.host(), CLIENT_NAME) == "503 tunnel_not_connected"
        files.client("another.example.net")
        assert await ask(files, edge.client_address, tunnel.host(), "another.example.net") == "403 client_not_mapped"


@requirement("edge:drain")
async def test_a_node_that_drains_refuses_what_is_new_and_says_that_it_may_be_tried_again(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    connection = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    async with client(edge, files) as running, client(edge, files) as late:
        assert (await running.upgrade(tunnel.host())).status == 101
        await until(lambda: metric(edge, "clients") == 2)
        draining = asyncio.create_task(edge.drain())
        await until(lambda: metric(edge, "draining") == 1)
        answer = await late.upgrade(tunnel.host())
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"], error["hop"], error["retryable"]) == (503, "edge_draining", "edge", True)
        for address, context in ((edge.client_address, files.client_context()), (edge.connector_address, None)):
            with pytest.raises((OSError, ssl.SSLError)):
                await asyncio.open_connection(*address, ssl=context)
    await draining
    await connection.wait_closed()


@requirement("edge:drain")
async def test_a_draining_node_sends_connectors_elsewhere(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    edge._check.draining = True
    with pytest.raises(RegistrationRefused, match="Unauthorized here: edge draining"):
        await connect(edge.connector_address, files, tunnel.token, EchoProxy())


@requirement("edge:limits")
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"connector_connections": 1}, "too_many_connections"),
        ({"handshakes": 1, "waiting_handshakes": 0}, "handshake_failed"),
    ],
)
async def test_more_at_the_connectors_door_than_allowed_are_turned_away(
    files: OperatorFiles, directory: DictDirectory, limits: dict[str, int], reason: str
) -> None:
    async with running_edge(files, directory, limits=limits) as edge:
        _, first = await asyncio.open_connection(*edge.connector_address)
        first.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a handshake
        await first.drain()
        await until(lambda: len(edge.connectors._doors._open) == 1)
        context = ssl.create_default_context(cafile=str(files.path("connector-listener-ca")))
        with pytest.raises((OSError, ssl.SSLError)):
            await asyncio.open_connection(*edge.connector_address, ssl=context, server_hostname="h2.cftunnel.com")
        await until(lambda: metric(edge, "cut_total", reason=reason) == 1)
        first.close()
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(first.wait_closed(), return_exceptions=True)


def beginning_of_quic() -> bytes:
    """A first datagram as anybody can make one: its header promises a handshake that is not in it."""
    return (b"\xc3\0\0\0\1\x08" + os.urandom(8) + b"\0\0\x44\x9e").ljust(1200, b"\0")


@requirement("edge:limits")
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"connector_connections": 2}, "too_many_connections"),
        ({"handshakes": 1, "waiting_handshakes": 1}, "too_many_handshakes"),
    ],
)
async def test_quic_connections_count_from_their_first_datagram(
    files: OperatorFiles, directory: DictDirectory, limits: dict[str, int], reason: str
) -> None:
    async with running_edge(files, directory, connectors={"quic": True}, limits=limits) as edge:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anybody:
            for _ in range(5):
                anybody.sendto(beginning_of_quic(), edge.connector_address)
            await until(lambda: metric(edge, "cut_total", reason=reason) == 3)
        assert len(edge.connectors._quic[0].connections) == 2
        if reason == "too_many_connections":
            _, writer = await asyncio.open_connection(*edge.connector_address)
            await until(lambda: metric(edge, "cut_total", reason=reason) == 4)
            writer.close()


@requirement("edge:limits")
async def test_a_quic_connection_whose_handshake_is_done_makes_room_for_another_handshake(
    files: OperatorFiles, directory: DictDirectory
) -> None:
    limits = {"handshakes": 1, "waiting_handshakes": 0}
    ca = files.path("connector-listener-ca").read_bytes()
    async with running_edge(files, directory, connectors={"quic": True}, limits=limits) as edge:
        (listener,) = edge.connectors._quic
        dialled = []
        for _ in range(3):
            dialled.append(await dial_quic(*edge.connector_address, Upstreams(), ca))
            await until(lambda: not listener.shaking)
        assert len(listener.connections) == 3
        for connection in dialled:
            connection.close()


async def test_a_client_that_only_connects_is_no_harm_to_others(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    silent = await Client.dial(edge.client_address, files.client_context())
    assert await ask(files, edge.client_address, tunnel.host(), CLIENT_NAME) == "503 tunnel_not_connected"
    await silent.close()

"""Where edges are found: given addresses, names, SRV records, and what is known when DNS is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.rrset
import pytest

from qanat.config import validate
from qanat.connector.config import WSS_PATH, ConnectorConfig
from qanat.connector.discovery import Discovery, EdgeNotFound
from qanat.connector.spread import EdgeAddress
from tests.support.requirements import requirement

RECORDS = {
    "_tunnel._tcp.example.": ["20 1 7845 localhost.", "10 1 7844 localhost."],
    "_v2-origintunneld._tcp.argotunnel.com.": ["1 1 7844 localhost."],
    "_us-v2-origintunneld._tcp.argotunnel.com.": ["1 1 7000 localhost."],
}


class DNSServer(asyncio.DatagramProtocol):
    """Knows a few SRV records."""

    def __init__(self) -> None:
        self.silent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        name = query.question[0].name
        if self.silent or str(name) not in RECORDS:
            answer.set_rcode(dns.rcode.SERVFAIL)
        else:
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "SRV", *RECORDS[str(name)]))
        self.transport.sendto(answer.to_wire(), addr)


@pytest.fixture
async def dns_server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DNSServer]:
    """The resolver everybody asks, for a while."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        DNSServer, local_addr=("127.0.0.1", 0)
    )
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], transport.get_extra_info("sockname")[1]
    monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
    yield server
    transport.close()


def discovery(**settings: object) -> Discovery:
    return Discovery(validate(ConnectorConfig, {"token": "x", "edge_ip_version": "4"} | settings))


async def test_given_addresses_are_taken_as_they_are() -> None:
    found = await discovery(edge=["192.0.2.1", "192.0.2.2:7000", "192.0.2.1:7844"]).addresses("http2")
    assert found == [EdgeAddress("192.0.2.1", 7844), EdgeAddress("192.0.2.2", 7000)]


async def test_names_are_resolved() -> None:
    assert await discovery(edge=["localhost:1"]).addresses("quic") == [EdgeAddress("127.0.0.1", 1)]


@requirement("connector:srv")
async def test_srv_records_are_asked_for_and_taken_by_priority(dns_server: DNSServer) -> None:
    found = await discovery(edge=["srv:_tunnel._tcp.example"]).addresses("http2")
    assert found == [EdgeAddress("127.0.0.1", 7844), EdgeAddress("127.0.0.1", 7845)]


@requirement("connector:srv")
async def test_without_edges_cloudflareds_own_record_is_asked_for_with_its_region(dns_server: DNSServer) -> None:
    assert await discovery().addresses("http2") == [EdgeAddress("127.0.0.1", 7844)]
    assert await discovery(region="us").addresses("http2") == [EdgeAddress("127.0.0.1", 7000)]


@requirement("connector:srv")
async def test_what_was_found_serves_on_while_dns_is_away(dns_server: DNSServer) -> None:
    finder = discovery(edge=["srv:_tunnel._tcp.example"])
    known = await finder.addresses("http2")
    dns_server.silent = True
    assert await finder.addresses("http2") == known
    with pytest.raises(EdgeNotFound, match=r"_tunnel\._tcp\.example"):
        await discovery(edge=["srv:_tunnel._tcp.example"]).addresses("http2")


async def test_one_name_that_cannot_be_resolved_leaves_the_others() -> None:
    found = await discovery(edge=["no..such..name", "192.0.2.1"]).addresses("http2")
    assert found == [EdgeAddress("192.0.2.1", 7844)]
    with pytest.raises(EdgeNotFound):
        await discovery(edge=["no..such..name"]).addresses("http2")


async def test_the_websocket_rung_goes_to_the_same_hosts_or_to_given_urls() -> None:
    edges = {"edge": ["edge.example:7844", "edge.example:7845"]}
    assert await discovery(**edges).addresses("wss") == [EdgeAddress("edge.example", 443, "edge.example", WSS_PATH)]
    urls = ["wss://front.example", "wss://front.example:8443/other"]
    assert await discovery(**edges, edge_wss=urls).addresses("wss") == [
        EdgeAddress("front.example", 443, "front.example", WSS_PATH),
        EdgeAddress("front.example", 8443, "front.example", "/other"),
    ]

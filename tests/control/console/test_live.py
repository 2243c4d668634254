"""What a tunnel's page says when something breaks: the whole stack, its plugs pulled one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qanat.dev.request import ask, example_request
from qanat.pki.issue import issue_server
from qanat.pki.material import load_pair
from qanat.samples import server as samples
from qanat.samples import tickets
from qanat.samples.database import Database
from qanat.stack import Stack
from tests.support.live_page import LivePage, live_page
from tests.support.pki import serial, throwaway_ca
from tests.support.requirements import requirement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack(tmp_path) as stack:
        await ask(stack, example_request(stack, "qanat-demo"))
        yield stack


@pytest.fixture
async def page(stack: Stack) -> AsyncIterator[LivePage]:
    async with live_page(stack) as page:
        yield page


@requirement("console:live:calls")
async def test_a_call_shows_its_route_and_tool_and_teaches_the_route(stack: Stack, page: LivePage) -> None:
    text = await page.says("tools/call", "tools/list", "tickets/mcp up")
    answer = await ask(stack, example_request(stack, "qanat-demo"))
    assert answer.blocks("mcp_tool_use")[0]["name"] in text
    assert "Checkout" not in text, "a result is nobody's business"
    assert text.startswith("Connected")


@requirement("console:live:upstream")
async def test_the_upstreams_plug_is_named_and_back_it_is_green(stack: Stack, page: LivePage) -> None:
    await page.says("tickets/mcp up")
    await stack.stop_part("samples")
    assert (await page.says("tickets/mcp down upstream")).startswith("Down Upstream:")
    port = int(stack.samples.urls["tickets"].rpartition(":")[2])
    async with samples.serve_mcp(tickets.make_server(Database("tickets")), port=port):
        assert (await page.says("tickets/mcp up")).startswith("Connected")


@requirement("console:live:connector")
async def test_the_connectors_plug_is_named_and_back_it_is_green(stack: Stack, page: LivePage) -> None:
    await page.says("tickets/mcp up")
    await stack.stop_part("connector")
    await page.says("Not connected", "tickets/mcp down connector")
    await stack.start_connector()
    assert (await page.says("tickets/mcp up")).startswith("Connected")


@requirement("console:live:edge")
async def test_the_edges_plug_is_named(stack: Stack, page: LivePage) -> None:
    await page.says("tickets/mcp up")
    await stack.stop_part("edge")
    await page.says("tickets/mcp down edge")


@requirement("console:live:certificate")
async def test_a_server_certificate_that_no_registered_ca_signed_is_named(stack: Stack, page: LivePage) -> None:
    await page.says("tickets/mcp up")
    (revoke,) = await page.actions("/revoke")
    await page.post(revoke)
    assert (await page.says("No certificate")).startswith("No certificate Gateway: refuses calls")
    await page.post(f"{page.path}/certificates", pem=throwaway_ca("another CA").certificate_pem.decode())
    assert (await page.says("tickets/mcp down proxy")).startswith("Down Proxy:")


@requirement("console:live:expired")
async def test_a_server_certificate_that_runs_out_is_named_and_a_new_one_is_green(stack: Stack, page: LivePage) -> None:
    await page.says("tickets/mcp up")
    replace_certificate(stack, timedelta(seconds=2))
    assert "expired" in await page.says("tickets/mcp down proxy")
    replace_certificate(stack, timedelta(days=1))
    await page.says("tickets/mcp up")


def replace_certificate(stack: Stack, lifetime: timedelta) -> None:
    """What `setup renew-cert` does, for a certificate that lives so long from now on."""
    read = {name: (stack.customer / name).read_bytes() for name in ("ca.crt", "ca.key", "tls.crt", "tls.key")}
    ca, key = load_pair(read["ca.crt"], read["ca.key"]), load_pair(read["tls.crt"], read["tls.key"]).key
    made = issue_server(ca, stack.tunnel_domain, datetime.now(UTC), serial(), lifetime=lifetime, key=key)
    new = stack.customer / "tls.crt.new"
    new.write_bytes(made.certificate_pem)
    new.rename(stack.customer / "tls.crt")


@requirement("console:live:unknown")
async def test_what_no_gateway_speaks_of_is_unknown_and_never_green(stack: Stack, page: LivePage) -> None:
    await page.says("tickets/mcp up")
    await stack.stop_part("gateway")
    text = await page.says("tickets/mcp unknown")
    assert text.startswith("Unknown")

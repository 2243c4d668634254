"""What the page says by itself while one looks: plugs are pulled and put back. Only here are parts broken.

How long the page took is printed (`pytest -s`), never asserted: the machine may be busy.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from playwright.sync_api import Page, expect

from qanat.dev.request import ask, example_request
from tests.console.test_certificates import add
from tests.control.console.test_live import replace_certificate
from tests.control.test_certificates import make_ca
from tests.support.browser import PHONE, ConsoleBrowser
from tests.support.console import sign_in
from tests.support.control import ControlThread, control_config
from tests.support.pki import throwaway_ca
from tests.support.plugs import Part, Watched, another_edge, connector_process, unplugged
from tests.support.requirements import requirement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def at(page: Page, console: ConsoleBrowser, called: None) -> Iterator[Watched]:
    """The live tunnel's page, which is green; it is never loaded again, so what changes has come by itself."""
    page.goto(f"{console.url}/tunnels/{console.running.stack.tunnel_id}")
    page.evaluate("window.loaded = 'once'")
    watched = Watched(page)
    watched.is_green(after=time.monotonic(), of="before")
    yield watched
    assert page.evaluate("window.loaded") == "once"


TOLD: dict[Part, tuple[str, ...]] = {
    "samples": ("Down", "Upstream:", "tickets"),
    "connector": ("Not connected", "Connector:"),
    "edge": ("Not connected", "Edge:"),
    "gateway": ("Unknown", "Gateway:"),
}


@requirement("console:live")
@pytest.mark.parametrize("part", TOLD)
def test_a_part_that_stops_is_named_and_back_it_is_green(part: Part, at: Watched, console: ConsoleBrowser) -> None:
    with unplugged(console.running, part) as began:
        at.tells(*TOLD[part], after=began, of=f"{part} stopped")
    at.is_green(after=time.monotonic(), of=f"{part} back")


@requirement("console:live")
def test_a_server_certificate_that_runs_out_is_named_and_a_new_one_is_green(
    at: Watched, console: ConsoleBrowser
) -> None:
    replace_certificate(console.running.stack, timedelta(seconds=8))
    runs_out = time.monotonic() + 8
    try:
        at.tells("Down", "Proxy:", "expired", after=runs_out, of="server certificate expired")
    finally:
        replace_certificate(console.running.stack, timedelta(days=90))
    at.is_green(after=time.monotonic(), of="server certificate renewed")


@requirement("console:live")
def test_a_ca_that_is_unregistered_is_named_and_back_it_is_green(at: Watched, console: ConsoleBrowser) -> None:
    stack, foreign = console.running.stack, throwaway_ca("another CA").certificate
    registered = (stack.customer / "ca.crt").read_text()
    with console.page() as other:
        other.on("dialog", lambda dialog: dialog.accept())
        other.goto(f"{console.url}/tunnels/{stack.tunnel_id}")
        other.get_by_role("button", name="Revoke").click()
        at.tells("No certificate", "Gateway:", after=time.monotonic(), of="CA unregistered")
        add(other, foreign.public_bytes(Encoding.PEM).decode())
        at.tells("Down", "Proxy:", after=time.monotonic(), of="another CA registered")
        add(other, registered)
        at.is_green(after=time.monotonic(), of="CA registered again")
        other.get_by_role("button", name=f"Revoke {foreign.fingerprint(SHA256()).hex()[:8]}").click()
        expect(other.get_by_role("status").first).to_contain_text("Certificate revoked")


@requirement("console:live", "console:live:killed")
def test_a_frozen_or_killed_connector_and_a_killed_edge_are_named_without_any_watched_route(
    page: Page, console: ConsoleBrowser, tunnel: str, tmp_path: Path
) -> None:
    """SIGSTOP and SIGKILL, so that nobody says goodbye: all is learned from silence alone."""
    running = console.running
    operations = running.stack.control.operations
    running.run(operations.certificates.create(console.actor, tunnel, make_ca()))
    token = running.run(operations.tunnels.reveal_token(console.actor, tunnel)).tunnel_token
    (tmp_path / "token").write_text(token.get_secret_value())
    page.goto(f"{console.url}/tunnels/{tunnel}")
    watched = Watched(page)
    with another_edge(running, tmp_path, "edge-far") as edge:
        with connector_process(running.stack, edge, tmp_path / "token") as connector:
            watched.is_green(after=time.monotonic(), of="connector process started")
            connector.send_signal(signal.SIGSTOP)
            try:
                watched.tells("Not connected", "Connector:", after=time.monotonic(), of="connector frozen")
            finally:
                connector.send_signal(signal.SIGCONT)
            watched.is_green(after=time.monotonic(), of="connector thawed")
            connector.send_signal(signal.SIGKILL)
            watched.tells("Not connected", "Connector:", after=time.monotonic(), of="connector killed")
        with connector_process(running.stack, edge, tmp_path / "token"):
            watched.is_green(after=time.monotonic(), of="connector process started again")
            edge.kill()
            watched.tells("Silent", "node edge-far since", after=time.monotonic(), of="edge killed")
            expect(watched.part.get_by_role("region", name="Connectors")).to_contain_text("silent")
            running.run(edge.ended())
            running.run(edge.start())
            watched.is_green(after=time.monotonic(), of="edge started again")


@requirement("console:live")
def test_a_call_appears_with_its_tool_and_never_its_arguments(at: Watched, console: ConsoleBrowser) -> None:
    running = console.running
    running.run(ask(running.stack, example_request(running.stack, "qanat-demo")))
    calls = at.page.get_by_role("region", name="Last calls")
    expect(calls).to_contain_text("list_tickets")
    expect(calls).to_contain_text("tools/call")
    assert "Checkout returns 502" not in at.page.content()


def test_the_list_tells_by_itself_too(page: Page, console: ConsoleBrowser, called: None) -> None:
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="dev", exact=True))
    expect(row.locator(".badge")).to_have_text("Connected")
    with unplugged(console.running, "connector"):
        expect(row.locator(".badge")).to_have_text("Not connected")
    expect(row.locator(".badge")).to_have_text("Connected")


FOCUS = """() => {
  const part = document.querySelector('[data-live]');
  const region = part.querySelector('[role=region]');
  region.focus();
  const cell = part.querySelector('[aria-label="Connectors"] code');
  getSelection().selectAllChildren(cell);
  window.chosen = String(getSelection());
  region.scrollLeft = 120;
  window.scrollTo(0, 200);
  window.region = region;
}"""
LEFT = """() => [document.activeElement === window.region, String(getSelection()) === window.chosen,
  window.region.scrollLeft, Math.round(scrollY)]"""


@requirement("console:live:focus")
def test_what_changes_by_itself_takes_neither_focus_nor_selection_nor_scroll(
    at: Watched, console: ConsoleBrowser
) -> None:
    at.page.set_viewport_size({"width": PHONE, "height": 500})
    calls = at.part.get_by_role("region", name="Last calls").locator("tbody tr")
    newest = calls.first.get_attribute("data-key")
    at.page.evaluate(FOCUS)
    running = console.running
    running.run(ask(running.stack, example_request(running.stack, "qanat-demo")))
    expect(calls.first).not_to_have_attribute("data-key", newest or "")
    assert at.page.evaluate(LEFT) == [True, True, 120, 200]


def test_a_page_whose_stream_has_ended_says_that_it_is_old(console: ConsoleBrowser, tmp_path: Path) -> None:
    """Over a control plane of its own, which stops under the open page and comes back where it was."""
    context = console.browser.new_context()
    try:
        with ControlThread(control_config(tmp_path)) as control:
            tenant = control.new_tenant()
            person = sign_in(tenant)
            person.post("/tunnels", name="left alone")
            cookie = person.client.cookies["qanat"]
            context.add_cookies([{"name": "qanat", "value": cookie, "url": control.url}])
            page = context.new_page()
            page.goto(f"{control.url}/console/tunnels")
            page.get_by_role("link", name="left alone", exact=True).click()
            expect(page.locator("[data-live]:not([data-stale])").first).to_contain_text("No certificate")
            address = control.url.removeprefix("http://")
        began = time.monotonic()
        expect(page.get_by_text("No word from the control plane since")).to_be_visible()
        expect(page.locator("[data-live][data-stale]").first).to_be_visible()
        print(f"\ncontrol plane stopped: told after {time.monotonic() - began:.1f} s")
        with ControlThread(control_config(tmp_path, listen_addr=address)):
            began = time.monotonic()
            expect(page.locator("[data-live]:not([data-stale])").first).to_be_visible()
            expect(page.get_by_text("No word from the control plane since")).to_have_count(0)
            print(f"\ncontrol plane back: true again after {time.monotonic() - began:.1f} s")
    finally:
        context.close()

"""What the page says by itself while one looks: a plug is pulled and put back. Only here are parts broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from qanat.dev.request import ask, example_request
from tests.support.browser import ConsoleBrowser
from tests.support.console import sign_in
from tests.support.control import ControlThread, control_config
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow


@pytest.fixture
def at(page: Page, console: ConsoleBrowser) -> Iterator[Page]:
    """The live tunnel's page; its address never changes, so what changes has come by itself."""
    page.goto(f"{console.url}/tunnels/{console.running.stack.tunnel_id}")
    yield page
    assert page.url.endswith(console.running.stack.tunnel_id)


@requirement("console:live")
def test_a_connector_that_goes_and_comes_is_told_and_named(at: Page, console: ConsoleBrowser) -> None:
    running = console.running
    right_now = at.get_by_role("region", name="Right now")
    expect(right_now.locator(".verdict")).to_contain_text("Connected")
    running.run(running.stack.stop_part("connector"))
    try:
        expect(right_now.locator(".verdict")).to_contain_text("Not connected")
        expect(right_now.locator(".verdict")).to_contain_text("Connector:")
    finally:
        running.run(running.stack.start_connector())
    expect(right_now.locator(".verdict")).to_contain_text("connections to the edge")
    rows = right_now.get_by_role("region", name="Connectors").locator("tbody tr")
    expect(rows.first).to_contain_text("http2")


@requirement("console:live")
def test_a_call_appears_with_its_tool_and_never_its_arguments(at: Page, console: ConsoleBrowser) -> None:
    running = console.running
    running.run(ask(running.stack, example_request(running.stack, "qanat-demo")))
    calls = at.get_by_role("region", name="Last calls")
    expect(calls).to_contain_text("list_tickets")
    expect(calls).to_contain_text("tools/call")
    assert "Checkout returns 502" not in at.content()


def test_a_page_whose_stream_has_ended_says_that_it_is_stale(console: ConsoleBrowser, tmp_path: Path) -> None:
    """Over a control plane of its own, which stops under the open page."""
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
        expect(page.locator("[data-live][data-stale]").first).to_be_visible()
    finally:
        context.close()

"""The playground and the picker in a browser: with script and without, by keyboard, on a phone, and for axe."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.console.conftest import SCRIPT
from tests.console.test_access import AXE, violations
from tests.support.browser import PHONE, ConsoleBrowser, Theme
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow


def open_tickets(page: Page, console: ConsoleBrowser) -> None:
    """List the tools of the live tunnel's `tickets`."""
    page.goto(f"{console.url}/playground?tunnel={console.running.stack.tunnel_id}&route=tickets&path=/mcp")
    page.get_by_role("button", name="List tools").click()
    expect(page.get_by_role("status")).to_contain_text("6 tools")


@SCRIPT
@requirement("console:playground")
def test_a_watched_route_is_chosen_its_tools_are_listed_and_one_is_called(
    page: Page, console: ConsoleBrowser, called: None
) -> None:
    page.goto(f"{console.url}/playground")
    page.get_by_role("link", name="tickets/mcp").click()
    expect(page.get_by_label("Route")).to_have_value("tickets")
    page.get_by_role("button", name="List tools").click()
    page.get_by_text("Arguments of get_ticket").click()
    tool = page.get_by_role("region", name="get_ticket")
    tool.get_by_label("id (required)").fill("4101")
    tool.get_by_role("button", name="Call get_ticket").click()
    expect(page.get_by_role("region", name="Result")).to_contain_text("Checkout returns 502")
    times = page.get_by_role("region", name="Time of each hop")
    for hop in ("edge", "connector", "proxy", "upstream"):
        expect(times.get_by_role("cell", name=hop, exact=True).first).to_be_visible()
    expect(times.get_by_role("row", name=re.compile("called the tool"))).to_contain_text("ms")
    expect(page.get_by_role("region", name="get_ticket").get_by_label("id (required)")).to_have_value("4101")


def test_what_is_wrong_is_said_where_it_is_heard(page: Page, console: ConsoleBrowser) -> None:
    open_tickets(page, console)
    page.get_by_text("Arguments of get_ticket").click()
    page.get_by_role("region", name="get_ticket").get_by_label("id (required)").fill("many")
    page.get_by_role("button", name="Call get_ticket").click()
    expect(page.get_by_role("alert")).to_contain_text("id")
    page.get_by_label("Route").fill("nowhere")
    page.get_by_role("button", name="List tools").click()
    expect(page.get_by_role("alert")).to_contain_text("proxy: no_route")


@requirement("console:keyboard")
def test_a_tool_is_called_by_keyboard_alone(page: Page, console: ConsoleBrowser) -> None:
    open_tickets(page, console)
    page.get_by_text("Arguments of search_tickets").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("VAT")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Result")).to_contain_text("Invoice PDF shows the old VAT number")


@requirement("setup:37:picker")
def test_the_url_of_a_tunnel_follows_what_is_typed(page: Page, console: ConsoleBrowser) -> None:
    page.goto(f"{console.url}/agents")
    domain = console.running.stack.tunnel_domain
    shown = page.locator("output")
    expect(shown).to_have_text(f"https://{domain}")
    page.get_by_label("Subdomain").fill("Tickets")
    page.get_by_label("Path").fill("/mcp")
    expect(shown).to_have_text(f"https://tickets.{domain}/mcp")
    page.get_by_label("Subdomain").fill("-no")
    expect(shown).to_have_text("")
    expect(page.locator(".problem")).to_contain_text("letters, digits and hyphens")
    page.get_by_label("Subdomain").fill("tickets")
    expect(page.locator(".problem")).to_have_text("")
    page.get_by_role("button", name="mcp_servers").click()
    expect(page.get_by_role("region", name="Entry")).to_contain_text(f'"url": "https://tickets.{domain}/mcp"')


@requirement("setup:37:picker")
def test_without_script_the_url_is_shown_when_asked_for(console: ConsoleBrowser, tunnel: str) -> None:
    with console.page(script=False) as page:
        page.goto(f"{console.url}/agents")
        expect(page.get_by_role("link", name="staging")).to_have_count(0)
        page.get_by_label("Subdomain").fill("tickets")
        page.get_by_label("Path").fill("mcp")
        page.get_by_role("button", name="mcp_servers").click()
        expect(page.locator("output")).to_have_text(f"https://tickets.{console.running.stack.tunnel_domain}/mcp")


@requirement("console:axe")
@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (cd tests/npm && npm install)")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(console: ConsoleBrowser, called: None, theme: Theme) -> None:
    found = []
    with console.page(theme=theme, bypass_csp=True) as page:
        for path in ("/playground", "/agents", "/agents?tunnel=" + console.running.stack.tunnel_id + "&route=-"):
            page.goto(f"{console.url}{path}")
            found += violations(page)
        open_tickets(page, console)
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        found += violations(page)
        page.get_by_role("button", name="Call list_tickets").click()
        expect(page.get_by_role("region", name="Result")).to_be_visible()
        found += violations(page)
        page.get_by_label("Route").fill("nowhere")
        page.get_by_role("button", name="List tools").click()
        expect(page.get_by_role("alert")).to_be_visible()
        found += violations(page)
    with console.page("viewer", theme=theme, bypass_csp=True) as page:
        page.goto(f"{console.url}/playground")
        assert page.locator("main form").count() == 0
        found += violations(page)
    assert found == []


@requirement("console:narrow")
def test_a_phone_never_scrolls_sideways(console: ConsoleBrowser, called: None) -> None:
    with console.page(width=PHONE) as page:
        wide = []
        for path in ("/playground", "/agents"):
            page.goto(f"{console.url}{path}")
            wide.append(page.evaluate("document.documentElement.scrollWidth"))
        open_tickets(page, console)
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        wide.append(page.evaluate("document.documentElement.scrollWidth"))
        page.get_by_role("button", name="Call list_tickets").click()
        expect(page.get_by_role("region", name="Result")).to_be_visible()
        wide.append(page.evaluate("document.documentElement.scrollWidth"))
        assert max(wide) <= PHONE, wide

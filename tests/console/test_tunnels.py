"""Tunnels: list, filter, create, the token, archive; with script and without."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.console.conftest import SCRIPT
from tests.support.browser import ConsoleBrowser
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow
TOKEN = "code.secret"


@SCRIPT
def test_the_list_tells_what_is_true_of_each_tunnel(page: Page, tunnel: str, console: ConsoleBrowser) -> None:
    page.reload()
    rows = page.get_by_role("region", name="Tunnels").get_by_role("row")
    live = rows.filter(has=page.get_by_role("link", name="dev"))
    expect(live).to_contain_text(console.running.stack.tunnel_domain)
    expect(live).to_contain_text("Connected")
    expect(rows.filter(has=page.get_by_role("link", name="staging"))).to_contain_text("No certificate")


@SCRIPT
def test_a_tunnel_is_created_and_its_page_opens(page: Page, console: ConsoleBrowser) -> None:
    page.get_by_role("link", name="New tunnel").click()
    page.get_by_label("Name", exact=True).fill("press office")
    page.get_by_role("button", name="Create tunnel").click()
    expect(page.get_by_role("heading", name="press office")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("Tunnel created")
    expect(page.get_by_text(re.compile(r"^tnl_\w+$")).first).to_be_visible()
    expect(page.get_by_text(re.compile(r"^[a-z0-9]{8}\.tunnel\.localhost$")).first).to_be_visible()
    console.archive_all_but_the_live_one()


def test_a_tunnel_without_a_name_is_not_sent(page: Page) -> None:
    page.get_by_role("button", name="Create tunnel").click()
    assert page.get_by_label("Name", exact=True).evaluate("field => field.validity.valueMissing")
    expect(page.get_by_role("heading", name="MCP tunnels")).to_be_visible()


def test_the_eleventh_tunnel_is_refused_with_the_reason(page: Page, console: ConsoleBrowser, tunnel: str) -> None:
    for number in range(8):
        console.new_tunnel(f"number {number}")
    page.get_by_label("Name", exact=True).fill("one too many")
    page.get_by_role("button", name="Create tunnel").click()
    expect(page.get_by_role("alert")).to_contain_text("maximum of 10")
    expect(page.get_by_role("link", name="one too many")).to_have_count(0)


@SCRIPT
def test_the_token_is_shown_when_asked_for_and_hidden_again(page: Page, tunnel: str, console: ConsoleBrowser) -> None:
    page.goto(f"{console.url}/tunnels/{tunnel}")
    assert "eyJ" not in page.content()
    page.get_by_role("button", name="Show token").click()
    expect(page.locator(TOKEN)).to_have_text(re.compile("^eyJ"))
    page.get_by_role("link", name="Hide").or_(page.get_by_role("button", name="Hide")).click()
    expect(page.locator(TOKEN)).to_have_count(0)
    assert "eyJ" not in page.content()


@SCRIPT
def test_rotating_asks_first_and_the_old_token_is_gone(page: Page, tunnel: str, console: ConsoleBrowser) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{console.url}/tunnels/{tunnel}")
    page.get_by_role("button", name="Show token").click()
    before = page.locator(TOKEN).inner_text()
    page.goto(f"{console.url}/tunnels/{tunnel}")
    page.locator("summary", has_text="Rotate token").click()
    expect(page.get_by_text("stops working for new connections")).to_be_visible()
    page.get_by_label("Reason, for the audit trail").first.fill("a laptop was stolen")
    page.get_by_role("button", name="Rotate token").click()
    expect(page.get_by_role("status").first).to_contain_text("Token rotated")
    page.get_by_role("button", name="Show token").click()
    expect(page.locator(TOKEN)).to_have_text(re.compile("^eyJ"))
    assert page.locator(TOKEN).inner_text() != before
    page.goto(f"{console.url}/audit?target={tunnel}")
    expect(page.get_by_role("row").filter(has_text="a laptop was stolen")).to_contain_text("user_ada")


def test_the_domain_and_the_token_are_copied(console: ConsoleBrowser, tunnel: str) -> None:
    with console.page(permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(f"{console.url}/tunnels/{tunnel}")
        domain = page.get_by_text(re.compile(r"^[a-z0-9]{8}\.tunnel\.localhost$")).first.inner_text()
        page.locator(f'[data-copy="{domain}"]').click()
        expect(page.get_by_text("Copied").first).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == domain
        page.get_by_role("button", name="Show token").click()
        token = page.locator(TOKEN).inner_text()
        page.locator(f'[data-copy="{token}"]').click()
        expect(page.get_by_text("Copied").first).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == token


@requirement("setup:38")
@SCRIPT
def test_archiving_is_confirmed_and_shown_and_cannot_be_done_twice(
    page: Page, tunnel: str, console: ConsoleBrowser
) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{console.url}/tunnels/{tunnel}")
    archive = page.get_by_role("button", name="Archive tunnel")
    page.get_by_label(re.compile("to confirm")).fill("something else")
    archive.click()
    expect(page.get_by_role("alert")).to_contain_text("confirm")
    page.get_by_label(re.compile("to confirm")).fill(tunnel)
    archive.click()
    expect(page.get_by_role("status").first).to_contain_text("Tunnel archived")
    for action in ("Archive tunnel", "Show token", "Rotate token", "Add certificate"):
        expect(page.get_by_role("button", name=action)).to_have_count(0)
    page.goto(f"{console.url}/tunnels")
    expect(page.locator(f'a[href$="/{tunnel}"]')).to_have_count(0)
    for name in ("Archived", "All"):
        page.get_by_role("navigation", name="Which tunnels").get_by_role("link", name=name).click()
        row = page.get_by_role("row").filter(has=page.locator(f'a[href$="/{tunnel}"]'))
        expect(row).to_contain_text("Archived")

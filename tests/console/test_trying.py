"""Programmatic access, the picker for agents and the playground; with script and without, and by keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.console.conftest import SCRIPT
from tests.console.test_access import tab_to
from tests.console.test_identity import create_rule, issuer, name_of
from tests.support.browser import ConsoleBrowser
from tests.support.control import ControlThread, control_config
from tests.support.openid_stub import openid_stub
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow
__all__ = ["issuer"]


def list_tools(page: Page, console: ConsoleBrowser) -> Page:
    """The playground, once it has listed the tools of the live tunnel's server."""
    page.goto(f"{console.url}/playground?tunnel={console.running.stack.tunnel_id}&route=tickets&path=/mcp")
    page.get_by_role("button", name="List tools").click()
    expect(page.get_by_role("heading", name="Tools of tickets/mcp")).to_be_visible()
    return page


@SCRIPT
def test_a_tool_is_listed_and_called_and_each_hop_has_its_time(page: Page, console: ConsoleBrowser) -> None:
    list_tools(page, console)
    page.get_by_text("Arguments of get_ticket").click()
    form = page.locator("form", has=page.get_by_role("button", name="Call get_ticket"))
    form.locator("input[inputmode=decimal]").first.fill("4101")
    page.get_by_role("button", name="Call get_ticket").click()
    expect(page.get_by_role("heading", name="Call of get_ticket")).to_be_visible()
    expect(page.get_by_text("The tool answered.")).to_be_visible()
    times = page.get_by_role("region", name="Time of each hop").locator("tbody")
    for hop in ("edge", "connector", "proxy", "upstream"):
        expect(times).to_contain_text(hop)
    assert page.locator("#result").get_by_role("region", name="Result").count() >= 1


def test_a_route_that_is_not_there_is_refused_by_the_hop_that_knows(page: Page, console: ConsoleBrowser) -> None:
    page.goto(f"{console.url}/playground?tunnel={console.running.stack.tunnel_id}&route=nowhere&path=/mcp")
    page.get_by_role("button", name="List tools").click()
    expect(page.get_by_role("alert")).to_contain_text("proxy")


@requirement("setup:37")
def test_calls_to_a_tunnel_without_a_certificate_are_refused(page: Page, console: ConsoleBrowser, tunnel: str) -> None:
    page.goto(f"{console.url}/playground?tunnel={tunnel}&route=tickets&path=/mcp")
    expect(page.get_by_label("Tunnel")).to_have_value(tunnel)
    page.get_by_role("button", name="List tools").click()
    expect(page.get_by_role("alert")).to_contain_text("certificate")


@SCRIPT
@requirement("setup:37:picker")
def test_only_tunnels_with_a_certificate_are_offered_and_the_url_is_shown(
    page: Page, console: ConsoleBrowser, tunnel: str
) -> None:
    page.goto(f"{console.url}/agents")
    expect(page.get_by_role("link", name="dev", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="staging", exact=True)).to_have_count(0)
    page.get_by_label("Subdomain (optional)").fill("tickets")
    page.get_by_label("Path (optional)").fill("/mcp")
    page.get_by_role("button", name="Show the entry").click()
    entry = page.get_by_role("region", name="Entry for mcp_servers")
    url = f"https://tickets.{console.running.stack.tunnel_domain}/mcp"
    expect(entry).to_contain_text(url)
    expect(page.locator("output")).to_have_text(url)


def test_the_url_follows_what_is_typed_and_a_wrong_label_is_refused_inline(page: Page, console: ConsoleBrowser) -> None:
    domain = console.running.stack.tunnel_domain
    page.goto(f"{console.url}/agents")
    shown = page.locator("output")
    for route, path, url in (
        ("", "", f"https://{domain}"),
        ("Wiki", "", f"https://wiki.{domain}"),
        ("wiki", "/a/b", f"https://wiki.{domain}/a/b"),
    ):
        page.get_by_label("Subdomain (optional)").fill(route)
        page.get_by_label("Path (optional)").fill(path)
        expect(shown).to_have_text(url)
    page.get_by_label("Subdomain (optional)").fill("-no-")
    expect(shown).to_have_text("")
    expect(page.locator(".problem")).to_contain_text("labels")


@SCRIPT
def test_a_tunnel_is_created_with_programmatic_access_by_an_existing_rule_or_a_new_one(
    page: Page, console: ConsoleBrowser, issuer: str, tunnel: str
) -> None:
    rule_id = create_rule(page, console, issuer)
    name = page.get_by_role("heading", level=1).inner_text().removeprefix("Connect a workload by ")
    for new in (False, True):
        page.goto(f"{console.url}/tunnels")
        expect(page.get_by_label("Set up programmatic access")).not_to_be_checked()
        page.get_by_label("Name", exact=True).fill(f"by workload {new}")
        page.get_by_label("Set up programmatic access").check()
        if new:
            page.get_by_label("Federation rule").select_option("new")
            if not page.locator("#rule-name").is_visible():
                page.locator("summary", has_text="Create federation rule").click()
            page.locator("#rule-name").fill(f"{name}-of-its-own")
            page.locator("#rule-issuer").select_option(label=name_of(issuer))
            page.locator("#rule-account").select_option(label=name)
            page.locator("#rule-subject").fill("repo:acme/web")
        else:
            page.get_by_label("Federation rule").select_option(rule_id)
        page.get_by_role("button", name="Create tunnel").click()
        expect(page.get_by_role("status")).to_contain_text("Tunnel created")
    page.goto(f"{console.url}/identity")
    row = (
        page.get_by_role("region", name="Federation rules, table")
        .get_by_role("row")
        .filter(has_text=f"{name}-of-its-own")
    )
    expect(row).to_contain_text("workspace:manage_tunnels")


@requirement("console:keyboard")
def test_the_picker_and_the_playground_work_by_keyboard_alone(page: Page, console: ConsoleBrowser) -> None:
    page.goto(f"{console.url}/agents")
    tab_to(page, "Subdomain")
    page.keyboard.type("tickets")
    tab_to(page, "Path")
    page.keyboard.type("mcp")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Entry for mcp_servers")).to_be_visible()
    page.goto(f"{console.url}/playground?tunnel={console.running.stack.tunnel_id}&route=tickets&path=/mcp")
    tab_to(page, "List tools")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Tools of tickets/mcp")).to_be_visible()
    tab_to(page, "Arguments of list_tickets")
    page.keyboard.press("Enter")
    tab_to(page, "Call list_tickets")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The tool answered.")).to_be_visible()


def fill_by_keyboard(page: Page, form: str, fields: dict[str, str]) -> None:
    """Unfold a form, type into its fields (a choice takes the first entry that begins so) and send it by Enter."""
    tab_to(page, form)
    page.keyboard.press("Enter")
    for name, value in fields.items():
        tab_to(page, name)
        page.keyboard.type(value)
    tab_to(page, form.replace("federation ", ""))
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("Saved")


@requirement("console:keyboard")
def test_identity_and_keys_work_by_keyboard_alone(page: Page, console: ConsoleBrowser, issuer: str) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{console.url}/identity")
    fill_by_keyboard(page, "Create service account", {"Name": "by-keyboard"})
    rule = {
        "Name": "typed-rule",
        "Issuer": name_of(issuer),
        "Subject": "repo:acme/web",
        "Service account": "by-keyboard",
    }
    fill_by_keyboard(page, "Create federation rule", rule)
    row = page.get_by_role("row").filter(has_text="typed-rule").first
    expect(row).to_contain_text(name_of(issuer))
    tab_to(page, "typed-rule")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Connect a workload")).to_be_visible()
    page.goto(f"{console.url}/keys")
    tab_to(page, "Name of a new API key")
    page.keyboard.type("typed")
    page.keyboard.press("Enter")
    expect(page.locator("code.secret")).to_be_visible()
    tab_to(page, "Archive typed")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Archive typed")).to_have_count(0)


@requirement("console:keyboard")
def test_an_issuer_is_registered_by_keyboard_alone(console: ConsoleBrowser, tmp_path: Path) -> None:
    with openid_stub() as stub:
        federation = {"fetch_policy": stub.settings()["fetch_policy"]}
        with ControlThread(control_config(tmp_path, federation=federation)) as control, console.page(None) as page:
            page.goto(f"{control.url}/console/identity")
            tab_to(page, "Operator credential")
            page.keyboard.type(control.server.credential.get_secret_value())
            page.keyboard.press("Enter")
            expect(page.get_by_role("heading", name="Workload identity", level=1)).to_be_visible()
            fill_by_keyboard(page, "Register issuer", {"Name": "typed", "Issuer URL": stub.issuer})
            expect(page.get_by_role("row").filter(has_text=stub.issuer)).to_contain_text("discovery")

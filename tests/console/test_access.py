"""Who can use it: viewers, people with a keyboard alone, with a screen reader, with a phone, with a slow line."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Request, expect

from qanat.control.console.app import PAGES
from tests.console.test_identity import create_rule, issuer
from tests.control.test_certificates import make_ca
from tests.support.browser import PHONE, ConsoleBrowser, Theme
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow
AXE = Path(__file__).parents[1] / "npm/node_modules/axe-core/axe.min.js"
MAX_BYTES = 100_000
__all__ = ["issuer"]


def paths(console: ConsoleBrowser, tunnel: str) -> list[str]:
    """Every page, the live tunnel's and a new one's among them."""
    live = console.running.stack.tunnel_id
    return [
        *("/tunnels", "/tunnels?show=archived", "/tunnels?show=all", f"/tunnels/{live}", f"/tunnels/{tunnel}"),
        *("/identity", "/keys", "/audit", f"/audit?target={live}", "/tunnels/tnl_01nothing"),
        *("/agents", f"/agents?tunnel={live}&route=tickets&path=mcp", "/playground"),
        f"/playground?tunnel={live}&route=tickets&path=/mcp",
    ]


def violations(page: Page) -> list[str]:
    """What axe finds, best practices included, one line each."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = page.evaluate("axe.run().then(result => result.violations)")
    return [f"{page.url}: {each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]


@requirement("console:axe")
@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (cd tests/npm && npm install)")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(
    console: ConsoleBrowser, tunnel: str, called: None, theme: Theme, issuer: str
) -> None:
    found = []
    with console.page(theme=theme, bypass_csp=True) as page:
        create_rule(page, console, issuer)
        found += violations(page)
        for path in paths(console, tunnel):
            page.goto(f"{console.url}{path}")
            page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
            found += violations(page)
        page.goto(f"{console.url}/tunnels/{tunnel}")
        page.get_by_role("button", name="Show token").click()
        expect(page.locator("code.secret")).to_be_visible()
        found += violations(page)
        page.goto(f"{console.url}/playground?tunnel={console.running.stack.tunnel_id}&route=tickets&path=/mcp")
        page.get_by_role("button", name="List tools").click()
        expect(page.locator("#result")).to_be_visible()
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        found += violations(page)
        page.goto(f"{console.url}/tunnels/{tunnel}")
        page.locator("#pem").fill("nonsense")
        page.get_by_role("button", name="Add certificate").click()
        found += violations(page)
    with console.page(None, theme=theme, bypass_csp=True) as page:
        page.get_by_label("Operator credential").fill("guess")
        found += violations(page)
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_role("alert")).to_be_visible()
        found += violations(page)
    assert found == []


CUT_OFF = """() => [...document.querySelectorAll('main *, header *')].filter(each => {
  const box = each.getBoundingClientRect();
  return box.width > 1 && box.right > innerWidth + 1 && !each.closest('.scroll') && !each.closest('.hidden');
}).map(each => each.outerHTML.slice(0, 80))"""
"""What reaches beyond the screen and is in nothing that scrolls."""


@requirement("console:narrow")
def test_a_phone_never_scrolls_sideways(console: ConsoleBrowser, tunnel: str, called: None, issuer: str) -> None:
    with console.page(width=PHONE) as page:
        create_rule(page, console, issuer)
        wide = {}
        for path in (None, *paths(console, tunnel)):
            if path is not None:
                page.goto(f"{console.url}{path}")
            page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
            if (width := page.evaluate("document.documentElement.scrollWidth")) > PHONE or page.evaluate(CUT_OFF):
                wide[path] = (width, page.evaluate(CUT_OFF))
        page.goto(f"{console.url}/tunnels/{tunnel}")
        page.get_by_role("button", name="Show token").click()
        expect(page.locator("code.secret")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
        assert wide == {}


def test_a_long_name_and_a_button_below_a_field_fit_on_a_phone(console: ConsoleBrowser, called: None) -> None:
    operations, actor = console.running.stack.control.operations, console.actor
    tunnel = console.new_tunnel("w" * 255)
    console.running.run(operations.certificates.create(actor, tunnel, make_ca()))
    console.running.run(operations.watches.add(actor, tunnel, "wiki", "/mcp"))
    with console.page(width=PHONE) as page:
        for path in ("/agents", "/playground", f"/tunnels/{tunnel}"):
            page.goto(f"{console.url}{path}")
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE, path
        field, button = page.locator("#confirm").bounding_box(), page.get_by_text("Archive tunnel").bounding_box()
        assert field is not None
        assert button is not None
        assert button["y"] - field["y"] - field["height"] >= 8
    console.archive(tunnel)


def keep(urls: list[str], request: Request) -> None:
    urls.append(request.url)


WATCH = """window.shifts = [];
new PerformanceObserver(list => window.shifts.push(...list.getEntries().map(each => each.value)))
  .observe({type: 'layout-shift', buffered: true});
window.told = new Promise(tell => {
  window.EventSource = class extends EventSource {
    constructor(url) { super(url); this.addEventListener('message', () => { tell(true); }); }
  };
});"""
WEIGH = """() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
  .map(each => [each.name, each.transferSize])"""


@requirement("console:light")
def test_the_first_pages_are_light_ask_nobody_else_and_do_not_jump(console: ConsoleBrowser, called: None) -> None:
    for path in ("/tunnels", f"/tunnels/{console.running.stack.tunnel_id}"):
        with console.page(None) as page:
            asked: list[str] = []
            page.context.add_cookies([{"name": "qanat", "value": console.cookie(), "url": console.url}])
            page.add_init_script(WATCH)
            page.on("request", partial(keep, asked))
            page.goto(f"{console.url}{path}", wait_until="load")
            page.evaluate("document.querySelector('[data-live]') && window.told")
            weight = dict(page.evaluate(WEIGH))
            assert len(weight) >= 3, weight
            assert 1000 < sum(weight.values()) < MAX_BYTES, json.dumps(weight)
            assert [url for url in asked if not url.startswith(console.url)] == []
            page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            assert page.evaluate("window.shifts.reduce((sum, each) => sum + each, 0)") == 0


@requirement("console:headers")
def test_no_page_breaks_its_own_policy_or_fails_in_script(console: ConsoleBrowser, tunnel: str, called: None) -> None:
    said: list[str] = []
    with console.page() as page:
        page.on("console", lambda message: said.append(f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"{page.url}: {error}"))
        for path in paths(console, tunnel):
            page.goto(f"{console.url}{path}")
    assert [line for line in said if "404" not in line] == []


@requirement("setup:39")
def test_a_viewer_sees_everything_and_is_offered_no_action(console: ConsoleBrowser, tunnel: str) -> None:
    with console.page("viewer") as page:
        for path in paths(console, tunnel):
            page.goto(f"{console.url}{path}")
            assert page.locator("main form[method=post]").count() == 0, path
            assert page.locator("main form:not([method=get]) button").count() == 0, path
        page.goto(f"{console.url}/tunnels/{console.running.stack.tunnel_id}")
        expect(page.get_by_role("region", name="Right now")).to_contain_text("Connected")
        expect(page.get_by_text("read-only")).to_be_visible()


def changing(**ids: str) -> list[str]:
    """The address of everything that can be changed, from the console's own table."""
    paths = [path for path, methods in PAGES.items() if "POST" in methods]
    return [re.sub(r"{(\w+)}", lambda found: ids.get(found[1], "none"), path) for path in paths]


@requirement("setup:39")
def test_a_viewers_crafted_requests_change_nothing(console: ConsoleBrowser, tunnel: str) -> None:
    """With the session's own form token, from a page of ours: everything a form could send, to every address."""
    send = """([url, fields]) => fetch(url, {method: 'POST', body: new URLSearchParams(fields), redirect: 'manual'})
      .then(async answer => [answer.status, await answer.text()])"""
    certificate = make_ca()
    every = changing(tunnel_id=tunnel)
    assert len(every) >= 15, every
    with console.page("viewer") as page:
        csrf = page.locator("[name=csrf]").first.get_attribute("value")
        fields = {"csrf": csrf, "name": "crafted", "confirm": tunnel, "pem": certificate, "kind": "api"}
        fields |= {"route": "crafted", "path": "/", "tunnel": tunnel, "tool": "crafted", "status": "archived"}
        for path in every:
            status, text = page.evaluate(send, [f"{console.url}{path}", fields])
            assert status == 403, path
            assert "eyJ" not in text
        page.goto(f"{console.url}/tunnels/{tunnel}")
        expect(page.get_by_role("heading", name="Certificates")).to_contain_text("0 of 2")
        for path in (f"/tunnels/{tunnel}", "/tunnels?show=all", "/keys", "/identity", "/audit"):
            page.goto(f"{console.url}{path}")
            expect(page.get_by_text("crafted")).to_have_count(0)


FOCUSED = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const label = e.labels?.[0]?.innerText ?? "";
  const name = e.getAttribute("aria-label") || e.innerText || label;
  return { name, seen: getComputedStyle(e).outlineStyle !== "none" };
}"""


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the focus is on what has this accessible name; it must be visible there.

    Whoever sent a form waits for what it shows before: keys go to whichever page is there.
    """
    for _ in range(80):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused and name in focused["name"]:
            assert focused["seen"], f"{name}: focus is not seen"
            return
    raise AssertionError(f"{name!r} cannot be reached by Tab")


@requirement("console:keyboard")
def test_the_main_flows_work_by_keyboard_alone(console: ConsoleBrowser, tunnel: str) -> None:
    credential = console.running.stack.control.credential.get_secret_value()
    with console.page(None) as page:
        page.on("dialog", lambda dialog: dialog.accept())
        tab_to(page, "Skip to content")
        tab_to(page, "Operator credential")
        page.keyboard.type(credential)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="MCP tunnels")).to_be_visible()
        tab_to(page, "Name")
        page.keyboard.type("by keyboard")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="by keyboard")).to_be_visible()
        tab_to(page, "Show token")
        page.keyboard.press("Enter")
        expect(page.locator("code.secret")).to_be_visible()
        tab_to(page, "Hide")
        page.keyboard.press("Enter")
        expect(page.locator("code.secret")).to_have_count(0)
        tab_to(page, "Rotate token")
        page.keyboard.press("Enter")
        tab_to(page, "Reason")
        page.keyboard.type("yearly")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status").first).to_contain_text("Token rotated")
        tab_to(page, "CA certificate, PEM")
        page.keyboard.insert_text(make_ca())
        tab_to(page, "Add certificate")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status").first).to_contain_text("Certificate registered")
        tab_to(page, "Revoke")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status").first).to_contain_text("Certificate revoked")
        tab_to(page, "to confirm")
        page.keyboard.type(page.url.split("/tunnels/")[1].split("?")[0])
        tab_to(page, "Archive tunnel")
        page.keyboard.press("Space")
        expect(page.get_by_role("status").first).to_contain_text("Tunnel archived")
        tab_to(page, "Sign out")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()

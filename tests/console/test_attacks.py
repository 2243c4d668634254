"""Tricks, tried with a real browser: planted script, forms of other sites, planted sessions, links that lead away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from playwright.sync_api import Page, expect

from qanat.api.internal import Event, EventBatch
from tests.console.conftest import SCRIPT
from tests.support.browser import ConsoleBrowser

pytestmark = pytest.mark.slow
PLANTED = '"\'><script>window.planted=1</script><img src=x onerror="window.planted=1"><svg/onload=window.planted=1>'


@contextmanager
def site(page: str) -> Iterator[str]:
    """Another site: serves this page at every path, on this machine under another name and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, name="attacker")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def plant_events(console: ConsoleBrowser, tunnel_id: str) -> None:
    """What a hostile connector, proxy or upstream may have said of itself."""
    now, batch = datetime.now(UTC), []
    connector = dict.fromkeys(("connector_id", "version", "address", "protocol"), PLANTED)
    call = dict.fromkeys(("route", "method", "tool", "error", "hop"), PLANTED)
    for kind, fields in (
        ("connector_registered", {**connector, "conn_index": 0}),
        ("call", {**call, "duration_ms": 5}),
    ):
        batch.append(
            Event.model_validate({"time": now, "kind": kind, "node": PLANTED, "tunnel_id": tunnel_id, "fields": fields})
        )
    console.running.run(console.running.stack.control.operations.events.record(EventBatch(events=tuple(batch))))


def assert_nothing_ran(page: Page) -> None:
    assert page.evaluate("window.planted") is None
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("main script").count() == 0


def test_script_planted_in_names_reasons_and_reports_is_shown_and_never_runs(
    page: Page, console: ConsoleBrowser
) -> None:
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.get_by_label("Name", exact=True).fill(PLANTED)
    page.get_by_role("button", name="Create tunnel").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(PLANTED)
    found = re.search(r"tnl_\w+", page.url)
    assert found is not None
    assert_nothing_ran(page)
    plant_events(console, found[0])
    expect(page.get_by_role("region", name="Right now")).to_contain_text("window.planted=1")
    assert_nothing_ran(page)
    page.locator("summary", has_text="Rotate token").click()
    page.get_by_label("Reason, for the audit trail").first.fill(PLANTED)
    page.get_by_role("button", name="Rotate token").click()
    for path in ("/audit", f"/audit?target={found[0]}", "/tunnels?show=all", "/tunnels?show=%22%3E%3Cscript%3E"):
        page.goto(f"{console.url}{path}")
        assert_nothing_ran(page)
    page.goto(f"{console.url}/keys")
    page.get_by_label("Name of a new API key").fill(PLANTED)
    page.get_by_role("button", name="Create API key").click()
    expect(page.get_by_role("cell", name=PLANTED, exact=True)).to_be_visible()
    assert_nothing_ran(page)
    page.goto(f"{console.url}/identity")
    page.locator("summary", has_text="Create service account").click()
    page.locator("#account-name").fill("planted")
    page.locator("#account-description").fill(PLANTED)
    page.get_by_role("button", name="Create service account").click()
    expect(page.get_by_role("heading", name="Service accounts")).to_be_visible()
    assert_nothing_ran(page)
    assert [text for text in refused if "Content Security Policy" in text] == [], "escaped, so the policy had no work"
    console.archive_all_but_the_live_one()


@pytest.mark.parametrize("path", ["/audit?target={}", "/tunnels?done={}", "/sign-in?done={}", "/tunnels/{}", "/{}"])
def test_script_planted_in_a_link_never_runs(page: Page, console: ConsoleBrowser, path: str) -> None:
    page.goto(console.url + path.format("%22%3E%3Cimg%20src%3Dx%20onerror%3Dwindow.planted%3D1%3E"))
    assert_nothing_ran(page)


FORGED = """<!doctype html><title>you have won</title>
<form id="f" method="post" action="{url}"><input name="name" value="forged"><input name="csrf" value="{csrf}"></form>
<iframe src="{console}/tunnels"></iframe>
<script>document.getElementById("f").submit()</script>"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_form_of_another_site_changes_nothing(console: ConsoleBrowser, host: str) -> None:
    """From another port of the same host the browser even sends the cookie: SameSite knows no ports."""
    with console.page() as page:
        csrf = page.locator("[name=csrf]").first.get_attribute("value")
        with site(FORGED.format(url=f"{console.url}/tunnels", csrf=csrf, console=console.url)) as attacker:
            page.goto(attacker.replace("127.0.0.1", host))
            page.wait_for_url(f"{console.url}/**")
            expect(page.locator("body")).not_to_contain_text("forged")
        page.goto(f"{console.url}/tunnels?show=all")
        expect(page.get_by_role("heading", name="MCP tunnels")).to_be_visible()
        expect(page.get_by_text("forged")).to_have_count(0)


def test_no_other_site_may_frame_a_page_or_read_an_answer(console: ConsoleBrowser) -> None:
    text = f'<!doctype html><title>frame</title><iframe src="{console.url}/tunnels"></iframe>'
    with console.page() as page, site(text) as attacker:
        page.goto(attacker)
        frame = page.frames[1]
        assert "MCP tunnels" not in frame.content()
        read = "url => fetch(url, {credentials: 'include'}).then(answer => answer.text(), () => 'refused')"
        assert page.evaluate(read, f"{console.url}/tunnels") == "refused"


def test_a_session_that_somebody_planted_is_never_the_one_signed_in(console: ConsoleBrowser) -> None:
    credential = console.running.stack.control.credential.get_secret_value()
    planted = console.cookie("viewer", "user_mallory")
    with console.page(None) as page:
        page.context.add_cookies([{"name": "qanat", "value": planted, "url": console.url}])
        page.goto(f"{console.url}/sign-in")
        page.get_by_label("Operator credential").fill(credential)
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_role("heading", name="MCP tunnels")).to_be_visible()
        cookie = next(found for found in page.context.cookies() if found["name"] == "qanat")
        assert cookie["value"] != planted
        assert cookie["httpOnly"]
        assert cookie["sameSite"] in ("Lax", "Strict")
        assert page.evaluate("document.cookie") == ""
        expect(page.get_by_text("user_mallory")).to_have_count(0)


@pytest.mark.parametrize("name", ["next", "return_to", "redirect", "url", "done"])
def test_no_link_to_the_sign_in_leads_to_another_site(console: ConsoleBrowser, name: str) -> None:
    credential = console.running.stack.control.credential.get_secret_value()
    with site("<title>elsewhere</title>") as elsewhere, console.page(None) as page:
        page.goto(f"{console.url}/sign-in?{name}={elsewhere}")
        page.get_by_label("Operator credential").fill(credential)
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_role("heading", name="MCP tunnels")).to_be_visible()
        assert page.url.startswith(console.url)
        page.goto(f"{console.url}//{elsewhere.removeprefix('http://')}")
        assert page.url.startswith(console.url)


@SCRIPT
def test_signing_out_ends_the_session_everywhere(page: Page, console: ConsoleBrowser) -> None:
    cookie = next(found for found in page.context.cookies() if found["name"] == "qanat")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_contain_text("Signed out")
    page.context.add_cookies([{"name": "qanat", "value": cookie["value"], "url": console.url}])
    page.goto(f"{console.url}/tunnels")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()

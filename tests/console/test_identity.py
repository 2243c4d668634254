"""Workload identity, from the first issuer to a wizard that sees the first exchange; keys and the audit trail."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from qanat.control.operations.issuers import IssuerChange
from tests.console.conftest import SCRIPT
from tests.support.browser import ConsoleBrowser
from tests.support.control import plain_client
from tests.support.federation import GRANT_TYPE, INLINE, sign

pytestmark = pytest.mark.slow
COUNT = iter(range(1000))


@pytest.fixture
def issuer(console: ConsoleBrowser) -> str:
    """The URL of an issuer whose keys we hold."""
    url = f"https://issuer-{next(COUNT)}.internal.example"
    change = IssuerChange(name=name_of(url), issuer_url=url, jwks=INLINE, check_jti=False)
    console.running.run(console.running.stack.control.operations.issuers.create(console.actor, change))
    return url


def name_of(issuer: str) -> str:
    """What an issuer is called here, by its URL or by that name."""
    return re.sub(r"\W+", "-", issuer)


def unfold(page: Page, text: str) -> None:
    page.locator("summary", has_text=re.compile(f"^{text}$")).click()


def exchange(console: ConsoleBrowser, rule_id: str, issuer: str, **changes: Any) -> int:
    """What a workload does; the status it gets."""
    control, now = console.running.stack.control, int(time.time())
    claims = {"iss": issuer, "sub": "repo:acme/web", "aud": control.url, "iat": now, "exp": now + 300} | changes
    body = {
        "grant_type": GRANT_TYPE,
        "assertion": sign(claims),
        "federation_rule_id": rule_id,
        "organization_id": console.actor.organization_id,
    }
    with plain_client(base_url=control.url) as client:
        return client.post("/v1/oauth/token", json=body).status_code


def create_rule(page: Page, console: ConsoleBrowser, issuer: str) -> str:
    """By the forms: a service account, then a rule; ends on the wizard of the rule, whose id comes back."""
    name = f"ci-{next(COUNT)}"
    page.goto(f"{console.url}/identity")
    unfold(page, "Create service account")
    accounts = page.get_by_role("region", name="Service accounts")
    accounts.get_by_label("Name", exact=True).first.fill(name)
    accounts.get_by_role("button", name="Create service account").click()
    expect(page.get_by_role("status").first).to_contain_text("Saved")
    unfold(page, "Create federation rule")
    rules = page.get_by_role("region", name="Federation rules")
    rules.locator("#rule-name").fill(name)
    rules.locator("#rule-issuer").select_option(label=name_of(issuer))
    rules.locator("#rule-subject").fill("repo:acme/web")
    rules.locator("#rule-account").select_option(label=name)
    rules.get_by_role("button", name="Create rule").click()
    page.get_by_role("link", name=name).first.click()
    expect(page.get_by_role("heading", name="Connect a workload")).to_be_visible()
    found = re.search(r"fdrl_\w+", page.url)
    assert found is not None, page.url
    return found[0]


def test_the_wizard_sees_the_refused_and_then_the_first_good_exchange_by_itself(
    page: Page, console: ConsoleBrowser, issuer: str
) -> None:
    rule_id = create_rule(page, console, issuer)
    wait = page.get_by_role("region", name="Let it sign in")
    expect(wait).to_contain_text("Waiting")
    assert exchange(console, rule_id, issuer, sub="repo:evil/web") == 401
    expect(wait).to_contain_text("Refused")
    assert exchange(console, rule_id, issuer) == 200
    expect(wait).to_contain_text("Connected")
    expect(wait).to_contain_text("repo:acme/web")


def test_without_script_the_wizard_tells_when_looked_at_again(console: ConsoleBrowser, issuer: str) -> None:
    with console.page(script=False) as page:
        rule_id = create_rule(page, console, issuer)
        expect(page.get_by_text("Waiting")).to_be_visible()
        assert exchange(console, rule_id, issuer) == 200
        page.get_by_role("link", name="Look again").click()
        expect(page.get_by_text("Connected", exact=True)).to_be_visible()
        page.goto(f"{console.url}/identity")
        history = page.get_by_role("region", name="Authentication history, table")
        expect(history).to_contain_text("repo:acme/web")


@SCRIPT
def test_an_issuer_that_may_not_be_asked_is_refused_with_the_reason(page: Page, console: ConsoleBrowser) -> None:
    page.goto(f"{console.url}/identity")
    unfold(page, "Register issuer")
    issuers = page.get_by_role("region", name="Issuers")
    issuers.get_by_label("Name", exact=True).fill("metadata")
    issuers.locator("#issuer-url").fill("http://169.254.169.254/")
    issuers.get_by_role("button", name="Register issuer").click()
    expect(page.get_by_role("alert").first).to_contain_text("issuer_url")
    expect(page.get_by_role("cell", name="metadata")).to_have_count(0)


@SCRIPT
def test_a_rule_is_archived_and_opens_nothing_any_more(page: Page, console: ConsoleBrowser, issuer: str) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    rule_id = create_rule(page, console, issuer)
    assert exchange(console, rule_id, issuer) == 200
    page.goto(f"{console.url}/identity")
    row = page.get_by_role("row").filter(has=page.locator(f'a[href*="{rule_id}"]'))
    row.get_by_role("button", name="Archive").click()
    expect(page.get_by_role("region", name="Federation rules").locator(f'a[href*="{rule_id}"]')).to_have_count(0)
    assert exchange(console, rule_id, issuer) == 401


@SCRIPT
def test_a_key_is_shown_once_turned_off_and_archived(page: Page, console: ConsoleBrowser) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    name = f"reports {next(COUNT)}"
    page.goto(f"{console.url}/keys")
    page.get_by_label("Name of a new API key").fill(name)
    page.get_by_role("button", name="Create API key").click()
    value = page.locator("code.secret").inner_text()
    assert len(value) > 30
    page.goto(f"{console.url}/keys")
    assert value not in page.content()
    row = page.get_by_role("row").filter(has_text=name)
    expect(row).to_contain_text("Active")
    row.get_by_role("button", name="Turn off").click()
    expect(row).to_contain_text("Inactive")
    row.get_by_role("button", name="Turn on").click()
    expect(row).to_contain_text("Active")
    row.get_by_role("button", name="Archive").click()
    expect(row.get_by_role("button", name="Turn on")).to_have_count(0)


@SCRIPT
def test_a_tunnels_api_key_works_until_it_is_revoked(page: Page, console: ConsoleBrowser) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    name = f"setup {next(COUNT)}"
    page.goto(f"{console.url}/keys")
    page.get_by_label("Name of a new Tunnels API key").fill(name)
    page.get_by_role("button", name="Create Tunnels API key").click()
    key = page.locator("code.secret").inner_text()
    headers = {"authorization": f"Bearer {key}", "anthropic-version": "2023-06-01"}
    headers["anthropic-beta"] = "mcp-tunnels-2026-06-22"
    with plain_client(base_url=console.running.stack.control.url, headers=headers) as client:
        assert client.get("/v1/tunnels").status_code == 200
        page.goto(f"{console.url}/keys")
        page.get_by_role("row").filter(has_text=name).get_by_role("button", name="Revoke").click()
        expect(page.get_by_role("row").filter(has_text=name)).to_have_count(0)
        assert client.get("/v1/tunnels").status_code == 401


@SCRIPT
def test_the_audit_trail_says_who_did_what_to_which_tunnel(page: Page, tunnel: str, console: ConsoleBrowser) -> None:
    page.goto(f"{console.url}/tunnels/{tunnel}")
    page.get_by_role("button", name="Show token").click()
    page.goto(f"{console.url}/audit")
    page.get_by_label("Only changes of this id").fill(tunnel)
    page.get_by_role("button", name="Show").click()
    row = page.get_by_role("row").filter(has_text="reveal")
    expect(row).to_contain_text("user_ada")
    expect(row).to_contain_text("127.0.0.1")
    assert "eyJ" not in page.content()

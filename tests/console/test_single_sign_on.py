"""Signing in at a provider of another site, in a browser that keeps its rules about cookies and redirects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.console.test_access import AXE, violations
from tests.support.browser import ConsoleBrowser
from tests.support.control import ControlThread, control_config
from tests.support.openid_stub import OpenIDStub, openid_stub
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow
ADA = {"groups": ["tunnel-admins"], "email": "ada@corp.example", "email_verified": True}


@dataclass(frozen=True)
class Company:
    """A console at 127.0.0.1, and a provider whose pages are at localhost: another site."""

    url: str
    stub: OpenIDStub


@pytest.fixture
def company(tmp_path: Path) -> Iterator[Company]:
    with openid_stub() as stub:
        names = {"authorization_endpoint": "authorize", "end_session_endpoint": "bye"}
        stub.document = {name: f"http://localhost:{stub.port}/{path}" for name, path in names.items()}
        hosts = ["127.0.0.1", "localhost"]
        policy = {"allow_hosts": hosts, "allow_http_hosts": hosts, "allow_ports": [stub.port]}
        settings = {"single_sign_on": stub.settings(fetch_policy=policy)}
        with ControlThread(control_config(tmp_path / "sso", console=settings)) as control:
            yield Company(f"{control.url}/console", stub)


@pytest.fixture(params=[True, False], ids=["script", "no-script"])
def visitor(console: ConsoleBrowser, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = console.browser.new_context(java_script_enabled=request.param)
    yield context.new_page()
    context.close()


@requirement("console:oidc", "console:redirect", "console:oidc:logout")
def test_somebody_signs_in_where_they_were_going_and_out_again(visitor: Page, company: Company) -> None:
    company.stub.claims = ADA
    visitor.goto(f"{company.url}/audit")
    visitor.get_by_role("link", name="Sign in with Corp SSO").click()
    visitor.get_by_role("link", name="Continue").click()
    expect(visitor.get_by_role("heading", name="Audit trail")).to_be_visible()
    expect(visitor.get_by_text("ada@corp.example").first).to_be_visible()
    visitor.get_by_role("button", name="Sign out").click()
    expect(visitor.get_by_role("status")).to_contain_text("still signed in with Corp SSO")
    visitor.get_by_role("link", name="Sign out with Corp SSO too").click()
    expect(visitor).to_have_url(re.compile(rf"http://localhost:{company.stub.port}/bye\?client_id=console&"))
    visitor.goto(f"{company.url}/tunnels")
    expect(visitor.get_by_role("heading", name="Sign in")).to_be_visible()


@requirement("console:oidc:refused")
def test_somebody_without_a_group_is_told_what_to_ask_for(visitor: Page, company: Company) -> None:
    company.stub.claims = {**ADA, "groups": ["cooks"]}
    visitor.goto(f"{company.url}/")
    visitor.get_by_role("link", name="Sign in with Corp SSO").click()
    visitor.get_by_role("link", name="Continue").click()
    expect(visitor.get_by_role("alert")).to_contain_text("ada@corp.example, but the provider's claim 'groups'")
    expect(visitor.get_by_text("single_sign_on.manage")).to_be_visible()
    visitor.get_by_role("link", name="Try again").click()
    expect(visitor.get_by_role("link", name="Continue")).to_be_visible()


@requirement("console:axe")
@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (cd tests/npm && npm install)")
def test_axe_finds_nothing(console: ConsoleBrowser, company: Company) -> None:
    context = console.browser.new_context(bypass_csp=True)
    page = context.new_page()
    found = []
    for path in ("/sign-in", "/sign-in?return_to=/console/keys", "/sign-in/callback?state=x&code=y"):
        page.goto(f"{company.url}{path}")
        found += violations(page)
    company.stub.claims = ADA
    page.goto(f"{company.url}/sign-in")
    page.get_by_role("link", name="Sign in with Corp SSO").click()
    page.get_by_role("link", name="Continue").click()
    page.get_by_role("button", name="Sign out").click()
    found += violations(page)
    context.close()
    assert found == []

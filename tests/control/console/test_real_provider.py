"""Single sign-on at an OpenID provider that others wrote (npm oidc-provider), over TLS, with its own sign-in pages."""

from __future__ import annotations

import asyncio
import html
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.console import text_of
from tests.support.control import ControlThread
from tests.support.oidc_provider import OIDCProvider
from tests.support.ports import free_port
from tests.support.requirements import requirement
from tests.support.sign_in import provider_running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
SECRET = "a-secret-of-the-console"
ACCOUNTS = {
    "ada": {"email": "ada@corp.example", "email_verified": True, "groups": ["staff", "tunnel-admins"]},
    "eve": {"email": "eve@corp.example", "email_verified": True, "groups": ["staff"]},
    "kim": {"email": "kim@corp.example", "email_verified": True, "groups": ["cooks"]},
    "bob": {"email": "bob@corp.example", "email_verified": False, "groups": ["staff"]},
}


async def resolve(host: str, port: int) -> list[str]:
    await asyncio.sleep(0)
    return {"localhost": ["127.0.0.1"]}[host]


@dataclass
class Company:
    """A console, and the provider its people sign in at."""

    control: ControlThread
    provider: OIDCProvider

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[httpx2.AsyncClient]:
        context = ssl.create_default_context(cafile=str(self.provider.ca_file))
        async with httpx2.AsyncClient(verify=context, trust_env=False, timeout=30, base_url=self.control.url) as http:
            yield http

    async def arrive(self, http: httpx2.AsyncClient, login: str, **tampered: str) -> httpx2.Response:
        """Sign in as somebody at the provider's pages; the callback's parameters may be tampered with."""
        answer = await http.get("/console/sign-in/provider")
        while True:
            if answer.is_redirect:
                url = answer.request.url.join(answer.headers["location"])
                if url.path == "/console/sign-in/callback":
                    return await http.get(url.copy_merge_params(tampered))
                answer = await http.get(url)
            elif (form := re.search(r'<form[^>]*action="([^"]+)"', answer.text)) is not None:
                prompt = re.search(r'name="prompt" value="(\w+)"', answer.text)
                fields = {"prompt": prompt[1] if prompt else "login", "login": login, "password": "x"}
                answer = await http.post(answer.request.url.join(html.unescape(form[1])), data=fields)
            else:
                return answer


StartControl = Callable[..., ControlThread]


@pytest.fixture
async def open_company(tmp_path: Path, start_control: StartControl) -> AsyncIterator[Callable[..., Company]]:
    """Makes consoles of one provider; keyword arguments change `console.single_sign_on`."""
    port = free_port()
    back = f"http://127.0.0.1:{port}/console/sign-in"
    client = {
        "client_id": "console",
        "client_secret": SECRET,
        "redirect_uris": [f"{back}/callback"],
        "post_logout_redirect_uris": [back],
    }
    async with provider_running(tmp_path, None, "https://unused.example", [client], accounts=ACCOUNTS) as provider:
        issuer = provider.options["issuer"]

        def make(**changes: Any) -> Company:
            policy = {"allow_hosts": ["localhost"], "allow_ports": [provider.port]}
            base = {"issuer": issuer, "client_id": "console", "client_secret": SECRET, "ca_file": provider.ca_file}
            roles = {"manage": ["tunnel-admins"], "read_only": ["staff"], "email_domains": ["corp.example"]}
            more = {"scopes": ["openid", "email", "groups"], "fetch_policy": policy}
            settings = {"console": {"single_sign_on": {**base, **roles, **more, **changes}}}
            address = {"listen_addr": f"127.0.0.1:{port}"}
            return Company(start_control({**settings, **address}, resolve=resolve), provider)

        yield make


@requirement("console:oidc")
async def test_people_get_the_role_of_their_groups(open_company: Callable[..., Company]) -> None:
    company = open_company()
    async with company.browser() as ada, company.browser() as eve:
        answer = await company.arrive(ada, "ada")
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/tunnels")
        page = await ada.get("/console/tunnels")
        assert "ada@corp.example" in page.text
        assert 'id="create"' in page.text
        await company.arrive(eve, "eve")
        page = await eve.get("/console/tunnels")
        assert "eve@corp.example read-only" in text_of(page)
        trail = text_of(await eve.get("/console/audit"))
        assert "ada@corp.example session console.sign_in " in trail


@requirement("console:oidc:refused")
async def test_without_a_role_or_a_verified_address_nobody_gets_in(open_company: Callable[..., Company]) -> None:
    company = open_company()
    for login, said in (("kim", "names no group that opens this console"), ("bob", "no verified e-mail address")):
        async with company.browser() as http:
            answer = await company.arrive(http, login)
            assert (answer.status_code, said in text_of(answer)) == (403, True), text_of(answer)
            assert (await http.get("/console/tunnels")).status_code == 303


@requirement("console:oidc:refused")
@pytest.mark.parametrize("tampered", [{"state": "guess"}, {"iss": "https://evil.example"}, {"code": "guess"}])
async def test_a_tampered_answer_opens_nothing(open_company: Callable[..., Company], tampered: dict[str, str]) -> None:
    company = open_company()
    async with company.browser() as http:
        answer = await company.arrive(http, "ada", **tampered)
        assert answer.status_code == 403
        assert "Try again" in answer.text
        assert (await http.get("/console/tunnels")).status_code == 303


async def test_a_wrong_secret_is_named(open_company: Callable[..., Company]) -> None:
    company = open_company(client_secret="another")
    async with company.browser() as http:
        assert "invalid_client" in text_of(await company.arrive(http, "ada"))


@requirement("console:oidc:down")
async def test_a_provider_that_is_down_is_named_and_the_operator_still_gets_in(
    open_company: Callable[..., Company],
) -> None:
    company = open_company()
    await company.provider.stop()
    async with company.browser() as http:
        answer = await http.get("/console/sign-in/provider")
        assert answer.status_code == 502
        assert "localhost did not answer" in text_of(answer)
        credential = company.control.server.credential.get_secret_value()
        assert (await http.post("/console/sign-in", data={"credential": credential})).status_code == 303


@requirement("console:oidc:logout")
async def test_signing_out_at_the_provider_too_comes_back_and_asks_for_the_password_again(
    open_company: Callable[..., Company],
) -> None:
    company = open_company()
    async with company.browser() as http:
        await company.arrive(http, "ada")
        page = (await http.get("/console/tunnels")).text
        csrf = page.split('name="csrf" value="')[1][:64]
        answer = await http.post("/console/sign-out", data={"csrf": csrf})
        (link,) = re.findall(r'href="(https://localhost[^"]+)"', answer.text)
        form = await http.get(html.unescape(link))
        assert form.status_code == 200, form.text
        xsrf = re.search(r'name="xsrf" value="([^"]+)"', form.text)
        action = re.search(r'action="([^"]+)"', form.text)
        assert xsrf is not None
        assert action is not None
        done = await http.post(html.unescape(action[1]), data={"xsrf": xsrf[1], "logout": "yes"})
        assert done.headers["location"].startswith(f"{company.control.url}/console/sign-in")
        again = await http.get("/console/sign-in/provider")
        again = await http.get(again.headers["location"])
        again = await http.get(again.request.url.join(again.headers["location"]))
        assert 'name="password"' in again.text

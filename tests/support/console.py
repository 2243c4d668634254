"""A person at the console without a browser: cookies, forms, and what a page says."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

import httpx2

from qanat.control.operations.console_sessions import Role
from tests.support.control import Tenant, plain_client


@dataclass
class Person:
    """Signed in to a tenant's console."""

    client: httpx2.Client
    _csrf: str = ""

    def get(self, path: str) -> httpx2.Response:
        return self.client.get(f"/console{path}", follow_redirects=True)

    def csrf(self) -> str:
        """The form token of this session, as its pages hold it."""
        if not self._csrf:
            found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get("/keys").text)
            assert found is not None
            self._csrf = found[1]
        return self._csrf

    def post(self, path: str, /, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        """Send a form with the session's token, unless `csrf` says otherwise."""
        data = {"csrf": self.csrf(), **fields}
        return self.client.post(f"/console{path}", data=data, headers=headers or {}, follow_redirects=True)


def sign_in(tenant: Tenant, role: Role = "manager", user: str = "user_ada") -> Person:
    """Somebody with a session of that role."""
    control = tenant.control
    sessions = control.operations.console_sessions
    cookie = control.run(sessions.begin(tenant.organization_id, user, role, "127.0.0.1", "req_test"))
    client = plain_client(
        base_url=control.url,
        cookies={"qanat": cookie.get_secret_value()},
        limits=httpx2.Limits(max_keepalive_connections=0),  # so that nothing stays open and nobody need close it
    )
    return Person(client)


def text_of(answer: httpx2.Response) -> str:
    """What a reader sees, roughly."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())

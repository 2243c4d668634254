"""The console of a whole stack in a real browser: Chromium, driven by Playwright.

Everything here blocks: tests that use it are plain functions. Playwright keeps an event loop of its own running in the
thread that started it, so it lives no longer than the tests of `tests/console`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

from qanat.control.operations.console_sessions import Role
from qanat.control.operations.context import Actor
from qanat.control.operations.pages import PageRequest
from tests.support.stack import RunningStack

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
PATIENCE = 20_000
"""Milliseconds that anything in a page may take on a busy machine; nothing that works comes near."""
PHONE, DESK = 360, 1280
Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class ConsoleBrowser:
    """A browser, and the stack whose console it looks at."""

    browser: Browser
    running: RunningStack

    @property
    def url(self) -> str:
        """The console's root, without a last slash."""
        return f"{self.running.stack.control.url}/console"

    @property
    def actor(self) -> Actor:
        """Whoever prepares what a test looks at."""
        found = self.running.stack.control.bootstrapped
        return Actor("user_setup", "session", found.organization_id, found.default_workspace_id)

    def cookie(self, role: Role = "manager", user: str = "user_ada") -> str:
        """The cookie of a fresh session."""
        sessions = self.running.stack.control.operations.console_sessions
        begin = sessions.begin(self.actor.organization_id, user, role, "127.0.0.1", "req_test")
        return self.running.run(begin).get_secret_value()

    def new_tunnel(self, name: str) -> str:
        """A tunnel's id."""
        return self.running.run(self.running.stack.control.operations.tunnels.create(self.actor, name)).id

    def archive(self, tunnel_id: str) -> None:
        """Archive a tunnel: an organization may have ten that are not."""
        self.running.run(self.running.stack.control.operations.tunnels.archive(self.actor, tunnel_id))

    def archive_all_but_the_live_one(self) -> None:
        """What tests have created must not use up the places of those that follow."""
        tunnels = self.running.stack.control.operations.tunnels
        page = self.running.run(tunnels.list_page(self.actor, PageRequest(limit=100)))
        for tunnel in page.data:
            if tunnel.id != self.running.stack.tunnel_id:
                self.archive(tunnel.id)

    @contextmanager
    def page(
        self,
        role: Role | None = "manager",
        *,
        script: bool = True,
        theme: Theme = "light",
        width: int = DESK,
        **options: Any,
    ) -> Iterator[Page]:
        """A page in a browser of its own, at the list of tunnels; `role=None` is nobody, at the sign-in."""
        context = self.browser.new_context(
            java_script_enabled=script, color_scheme=theme, viewport={"width": width, "height": 900}, **options
        )
        context.set_default_timeout(PATIENCE)
        try:
            if role is not None:
                context.add_cookies([{"name": "qanat", "value": self.cookie(role), "url": self.url}])
            page = context.new_page()
            page.goto(f"{self.url}/tunnels")
            yield page
        finally:
            context.close()


@contextmanager
def console_browser(running: RunningStack) -> Iterator[ConsoleBrowser]:
    """Chromium over a stack that is up. Skips the test where there is no Chromium."""
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        except Error as error:
            pytest.skip(f"Chromium does not start here: {error.message.splitlines()[0]}")
        try:
            yield ConsoleBrowser(browser, running)
        finally:
            browser.close()

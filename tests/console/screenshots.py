"""The screenshots of the documentation: `python -m tests.console.screenshots [DIRECTORY]` takes them anew.

Every screen in both themes, and the live tunnel's on a phone; only what the documentation shows is kept with it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page

from qanat.control.operations.issuers import IssuerChange
from qanat.dev.request import ask, example_request
from tests.console.test_identity import create_rule, exchange
from tests.control.test_certificates import make_ca
from tests.support.browser import PHONE, ConsoleBrowser, Theme, console_browser
from tests.support.federation import INLINE
from tests.support.stack import running_stack

THEMES: tuple[Theme, ...] = ("light", "dark")
ISSUER = "https://token.ci.example.com"
DEFAULT = Path(__file__).parents[2] / "docs/images/console"


def take(directory: Path) -> Iterator[Path]:
    """Takes them all, and yields each file as it is written."""
    directory.mkdir(parents=True, exist_ok=True)
    with prepared() as (console, rule_id):
        for theme in THEMES:
            with console.page(theme=theme) as page:
                for name in screens(page, console, rule_id):
                    yield shoot(page, directory / f"{name}-{theme}.png")
            with console.page(None, theme=theme) as page:
                yield shoot(page, directory / f"sign-in-{theme}.png")
            with console.page(theme=theme, width=PHONE) as page:
                page.goto(f"{console.url}/tunnels/{console.running.stack.tunnel_id}")
                yield shoot(page, directory / f"phone-{theme}.png")


@contextmanager
def prepared() -> Iterator[tuple[ConsoleBrowser, str]]:
    """A stack with a few tunnels, calls, and a rule that has been used; and the rule's id."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_stack(Path(folder)) as running,
        console_browser(running) as console,
    ):
        control = running.stack.control
        for name in ("press-office", "billing (staging)"):
            console.new_tunnel(name)
        console.archive(console.new_tunnel("pilot"))
        change = IssuerChange(name="ci", issuer_url=ISSUER, jwks=INLINE, check_jti=False)
        running.run(control.operations.issuers.create(console.actor, change))
        for _ in range(6):
            running.run(ask(running.stack, example_request(running.stack, "qanat-demo")))
        with console.page() as page:
            rule_id = create_rule(page, console, "ci")
        exchange(console, rule_id, ISSUER, sub="repo:acme/other")
        exchange(console, rule_id, ISSUER)
        yield console, rule_id


def screens(page: Page, console: ConsoleBrowser, rule_id: str) -> Iterator[str]:
    """Goes from screen to screen, and yields each one's name."""
    yield "tunnels"
    live = console.running.stack.tunnel_id
    page.goto(f"{console.url}/tunnels/{live}")
    yield "tunnel"
    page.get_by_role("link", name="MCP tunnels").first.click()
    page.get_by_role("link", name="press-office").click()
    page.get_by_role("button", name="Show token").click()
    page.locator("#pem").fill(make_ca(ca=False))
    page.get_by_role("button", name="Add certificate").click()
    yield "refused"
    for path in ("identity", "keys", "audit"):
        page.goto(f"{console.url}/{path}")
        yield path
    page.goto(f"{console.url}/identity/rules/{rule_id}/connect")
    yield "connect"


def shoot(page: Page, path: Path) -> Path:
    """The whole page, once it has come to rest."""
    page.wait_for_load_state("load")
    page.screenshot(path=path, full_page=True, animations="disabled", caret="hide")
    return path


if __name__ == "__main__":
    for written in take(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT):
        print(written)

"""The screenshots of the documentation: `python -m tests.console.screenshots [DIRECTORY] [--png]` takes them anew.

Every screen in both themes, and the live tunnel's on a phone. WebP, a third of PNG; PNG for tools that want it.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from math import sin
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from qanat.api.internal import Event, EventBatch
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
QUALITY = 72
LONGEST = 1640
"""Pixels: what is further down looks like what is above."""


def take(directory: Path, ending: str = "webp") -> Iterator[Path]:
    """Takes them all, and yields each file as it is written."""
    directory.mkdir(parents=True, exist_ok=True)
    with prepared() as (console, rule_id):
        for theme in THEMES:
            with console.page(theme=theme) as page:
                for name in screens(page, console, rule_id):
                    yield shoot(page, directory / f"{name}-{theme}.{ending}")
            with console.page(None, theme=theme) as page:
                yield shoot(page, directory / f"sign-in-{theme}.{ending}")
            with console.page(theme=theme, width=PHONE) as page:
                page.goto(f"{console.url}/tunnels/{console.running.stack.tunnel_id}")
                yield shoot(page, directory / f"phone-{theme}.{ending}")
        for theme in THEMES:
            with console.page(theme=theme) as page:
                broken(page, console)
                yield shoot(page, directory / f"down-{theme}.{ending}")


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
        running.run(control.operations.events.record(EventBatch(events=tuple(last_hour(running.stack.tunnel_id)))))
        for _ in range(3):
            running.run(ask(running.stack, example_request(running.stack, "qanat-demo")))
        with console.page() as page:
            rule_id = create_rule(page, console, "ci")
        exchange(console, rule_id, ISSUER, sub="repo:acme/other")
        exchange(console, rule_id, ISSUER)
        yield console, rule_id


def last_hour(tunnel_id: str) -> Iterator[Event]:
    """Calls and bytes such as an hour of work brings, so that plots have something to show."""
    now = datetime.now(UTC)
    for minute in range(59, 0, -1):
        time = now - timedelta(minutes=minute)
        busy = max(0, round(9 + 7 * sin(minute / 7) + 3 * sin(minute * 2.3)))
        for number in range(busy):
            failed = minute in (21, 22, 23) and number % 3 == 0
            fields: dict[str, Any] = {
                "route": "tickets", "path": "/mcp", "method": "tools/call", "tool": "list_tickets",
                "duration_ms": round(34 + 12 * sin(minute / 3) + 5 * number % 11),
            }  # fmt: skip
            fields |= {"error": "upstream_unreachable", "hop": "upstream"} if failed else {}
            yield Event.model_validate(
                {"time": time, "kind": "call", "node": "gateway", "tunnel_id": tunnel_id, "fields": fields}
            )
        moved = {"bytes_in": 1500 * busy, "bytes_out": 5200 * busy, "streams_opened": 1, "streams_open": 2}
        yield Event.model_validate(
            {"time": time, "kind": "traffic", "node": "edge", "tunnel_id": tunnel_id, "fields": moved}
        )


def screens(page: Page, console: ConsoleBrowser, rule_id: str) -> Iterator[str]:
    """Goes from screen to screen, and yields each one's name."""
    yield "tunnels"
    live = console.running.stack.tunnel_id
    page.goto(f"{console.url}/tunnels/{live}")
    page.get_by_role("region", name="Routes").get_by_text("up", exact=True).wait_for()
    yield "tunnel"
    page.goto(f"{console.url}/tunnels")
    page.get_by_label("Set up programmatic access").check()
    yield "create"
    page.get_by_role("link", name="press-office", exact=True).click()
    page.get_by_role("button", name="Show token").click()
    page.locator("#pem").fill(make_ca(ca=False))
    page.get_by_role("button", name="Add certificate").click()
    yield "refused"
    page.goto(f"{console.url}/agents")
    page.get_by_label("Subdomain (optional)").first.fill("tickets")
    page.get_by_label("Path (optional)").first.fill("mcp")
    page.get_by_role("button", name="Show the entry").first.click()
    yield "agents"
    page.goto(f"{console.url}/playground?tunnel={live}&route=tickets&path=/mcp")
    page.get_by_role("button", name="List tools").click()
    page.locator("#result").wait_for()
    yield "playground"
    for path in ("identity", "keys", "audit"):
        page.goto(f"{console.url}/{path}")
        yield path
    page.goto(f"{console.url}/identity/rules/{rule_id}/connect")
    yield "connect"


def broken(page: Page, console: ConsoleBrowser) -> None:
    """The live tunnel's page once its upstreams are gone."""
    running = console.running
    if "samples" in running.stack.running:
        running.run(running.stack.stop_part("samples"))
    page.goto(f"{console.url}/tunnels/{running.stack.tunnel_id}")
    page.locator(".verdict .badge.bad").wait_for()


def shoot(page: Page, path: Path) -> Path:
    """The whole page, once it has come to rest."""
    page.wait_for_load_state("load")
    if path.suffix == ".png":
        page.screenshot(path=path, full_page=True, animations="disabled", caret="hide")
        return path
    width, height = page.evaluate("[innerWidth, document.documentElement.scrollHeight]")
    session = page.context.new_cdp_session(page)
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, LONGEST), "scale": 1}
    options = {"format": path.suffix[1:], "quality": QUALITY, "captureBeyondViewport": True, "clip": clip}
    path.write_bytes(base64.b64decode(session.send("Page.captureScreenshot", options)["data"]))
    session.detach()
    return path


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--png"]
    for written in take(Path(given[0]) if given else DEFAULT, "png" if "--png" in sys.argv else "webp"):
        print(written)

"""What all pages share: templates, the answer's headers, messages after a change, and forms."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from qanat import __version__
from qanat.control.errors import Invalid, TooLarge
from qanat.control.nouns import Workspace
from qanat.control.operations import Operations
from qanat.control.operations.console_sessions import ConsoleSession
from qanat.control.operations.context import Actor

HERE = Path(__file__).parent
ROOT = "/console"
MAX_FORM = 64 * 1024
MESSAGES = {
    "created": "Tunnel created. Register a CA certificate and connect a stack to bring it to life.",
    "archived": "Tunnel archived. Its token and certificates are dead, its domain is retired for good.",
    "rotated": "Token rotated. The old one opens no new connections; running ones stay.",
    "certificate": "Certificate registered.",
    "revoked": "Certificate revoked.",
    "watched": "Watched. The first verdict comes within seconds.",
    "saved": "Saved.",
    "removed": "Removed.",
    "signed-out": "Signed out.",
}
"""Shown after a change, chosen by `?done=`: a link can pick one of these and nothing else."""

NAVIGATION = (
    ("/tunnels", "MCP tunnels"),
    ("/agents", "Use in an agent"),
    ("/playground", "Playground"),
    ("/identity", "Workload identity"),
    ("/keys", "API keys"),
    ("/audit", "Audit trail"),
)
"""The main menu: path and text."""

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Visit:
    """A request of somebody signed in."""

    request: Request
    operations: Operations
    session: ConsoleSession
    workspaces: Sequence[Workspace] = ()
    """The organization's live ones, to choose from."""

    @property
    def actor(self) -> Actor:
        """As operations know this person."""
        state = self.request.state
        return self.session.actor(state.client_address, state.request_id)


Handler = Callable[[Visit], Awaitable[Response]]
Pages = dict[str, dict[str, Handler]]
"""Path to method to handler, for people who are signed in."""


def render(template: str, status: int = 200, **values: Any) -> Response:
    """A page. What values hold is escaped."""
    text = _TEMPLATES.get_template(template).render(messages=MESSAGES, version=__version__, **values)
    return HTMLResponse(text, status, dict(SECURITY_HEADERS))


def render_part(template: str, **values: Any) -> str:
    """A piece of a page."""
    return _TEMPLATES.get_template(template).render(**values)


def show(visit: Visit, template: str, status: int = 200, **values: Any) -> Response:
    """A page for somebody signed in."""
    done = visit.request.query_params.get("done", "")
    shared = {"session": visit.session, "workspaces": visit.workspaces}
    return render(template, status, **shared, path=visit.request.url.path, done=done, **values)


def go(path: str, done: str = "") -> Response:
    """Send the browser to a page of ours after a change (RFC 9110 15.4.4)."""
    return RedirectResponse(f"{ROOT}{path}{f'?done={done}' if done else ''}", 303, dict(SECURITY_HEADERS))


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a urlencoded form; the last value of each counts. Raises `TooLarge`, `Invalid`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise TooLarge(MAX_FORM)
    try:
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=100)
        check_text(*fields, *(values[-1] for values in fields.values()))
        return {name: values[-1] for name, values in fields.items()}
    except ValueError:
        raise Invalid("", "form cannot be read") from None


def check_text(*texts: str) -> None:
    """Raises `Invalid` for a zero byte, which PostgreSQL neither stores nor compares."""
    if any("\0" in text for text in texts):
        raise Invalid("", "a zero byte is no text")


def _moment(value: datetime | None) -> str:
    if value is None:
        return "–"
    utc = value.astimezone(UTC)
    return Markup('<time datetime="{}">{:%Y-%m-%d %H:%M:%S} UTC</time>').format(utc.isoformat(), utc)


def _ago(value: datetime, now: datetime | None = None) -> str:
    seconds = ((now or datetime.now(UTC)) - value).total_seconds()
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = math.floor(seconds / size)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "less than a minute ago"


def _until(value: datetime) -> str:
    days = (value - datetime.now(UTC)).total_seconds() / 86400
    if days < 0:
        return "expired"
    return f"in {days:.0f} days" if days >= 2 else f"in {days * 24:.0f} hours"


def _days(value: datetime) -> float:
    return (value - datetime.now(UTC)).total_seconds() / 86400


def _ms(value: float) -> str:
    """As wide as any other: a number that changes while one looks must not move its neighbours."""
    return f"{value:7.1f} ms".replace(" ", "\N{FIGURE SPACE}")


def _size(value: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return ""


def _make_templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    templates.filters.update(days=_days, moment=_moment, ms=_ms, ago=_ago, until=_until, size=_size)
    templates.globals.update(root=ROOT, navigation=NAVIGATION)
    return templates


_TEMPLATES = _make_templates()

"""Certificates: by file, by dropping one, by pasting; what is refused and why; slots and badges."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from playwright.sync_api import Page, expect

from tests.console.conftest import SCRIPT
from tests.control.test_certificates import make_ca
from tests.support.browser import ConsoleBrowser
from tests.support.pki import documented_ca, throwaway_ca, throwaway_server
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow

DROP = """([pem, selector]) => {
  const data = new DataTransfer();
  data.items.add(new File([pem], 'ca.pem', {type: 'application/x-pem-file'}));
  const area = document.querySelector(selector);
  for (const kind of ['dragenter', 'dragover', 'drop']) {
    area.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
  }
}"""


@pytest.fixture
def at(page: Page, tunnel: str, console: ConsoleBrowser) -> Page:
    """The page of a tunnel without a certificate; whatever is asked is confirmed."""
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{console.url}/tunnels/{tunnel}")
    return page


def pem_field(page: Page) -> None:
    """Make the form visible: it is folded once the tunnel has a certificate."""
    if not page.locator("#pem").is_visible():
        page.locator("summary", has_text="Add certificate").click()


def add(page: Page, pem: str) -> None:
    """Paste and send."""
    pem_field(page)
    page.locator("#pem").fill(pem)
    page.get_by_role("button", name="Add certificate").click()


def test_a_file_is_chosen(at: Page, tmp_path: Path) -> None:
    for ending in ("pem", "crt"):
        file = tmp_path / f"ca.{ending}"
        file.write_text(make_ca())
        pem_field(at)
        at.locator("input[type=file]").set_input_files(file)
        expect(at.locator("#pem")).to_have_value(file.read_text())
        at.get_by_role("button", name="Add certificate").click()
        expect(at.get_by_role("status").first).to_contain_text("Certificate registered")
    expect(at.get_by_role("heading", name="Certificates")).to_contain_text("2 of 2")


def test_a_file_is_dropped(at: Page) -> None:
    pem = make_ca()
    at.evaluate(DROP, [pem, "#pem"])
    expect(at.locator("#pem")).to_have_value(pem)
    at.get_by_role("button", name="Add certificate").click()
    expect(at.get_by_role("status").first).to_contain_text("Certificate registered")


@SCRIPT
def test_pasted_counted_revoked(at: Page) -> None:
    expect(at.get_by_role("heading", name="Certificates")).to_contain_text("0 of 2")
    add(at, make_ca())
    expect(at.get_by_role("heading", name="Certificates")).to_contain_text("1 of 2")
    add(at, make_ca())
    expect(at.get_by_role("heading", name="Certificates")).to_contain_text("2 of 2")
    add(at, make_ca())
    expect(at.get_by_role("alert").first).to_contain_text("maximum of 2")
    rows = at.get_by_role("region", name="Certificates").locator("tbody tr")
    expect(rows).to_have_count(2)
    at.get_by_role("button", name="Revoke").first.click()
    expect(at.get_by_role("status").first).to_contain_text("Certificate revoked")
    expect(rows.filter(has_text="Revoked")).to_have_count(1)
    expect(rows.filter(has_text="Trusted")).to_have_count(1)
    expect(at.get_by_role("heading", name="Certificates")).to_contain_text("1 of 2")
    add(at, make_ca())
    expect(rows).to_have_count(3)


def test_a_revocation_that_is_not_confirmed_changes_nothing(page: Page, tunnel: str, console: ConsoleBrowser) -> None:
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.goto(f"{console.url}/tunnels/{tunnel}")
    add(page, make_ca())
    page.get_by_role("button", name="Revoke").click()
    page.reload()
    expect(page.get_by_role("row").filter(has_text="Trusted")).to_have_count(1)


def short_rsa(_: Path) -> str:
    return make_ca(rsa.generate_private_key(public_exponent=65537, key_size=1024))


REFUSED: dict[str, tuple[Callable[[Path], str], str]] = {
    "a key": (lambda _: throwaway_ca().key_pem.decode(), "private key"),
    "two certificates": (lambda _: make_ca() + make_ca(), "exactly one"),
    "9 kB": (lambda _: make_ca() + "\n" * 100 + "x" * 9000, "8192 bytes"),
    "a leaf": (lambda _: throwaway_server(throwaway_ca()).certificate_pem.decode(), "CA:TRUE"),
    "RSA-1024": (short_rsa, "2048"),
    "SHA-1": (lambda folder: documented_ca(folder, digest="sha1").read_text(), "SHA-256"),
    "an expired one": (
        lambda _: make_ca(start=timedelta(days=-9), end=datetime.now(UTC) - timedelta(days=1)),
        "expired",
    ),
    "prose": (lambda _: "my certificate", "exactly one"),
}


@requirement("setup:36")
@SCRIPT
def test_each_wrong_kind_is_refused_with_its_own_reason(at: Page, tmp_path: Path) -> None:
    for name, (make, reason) in REFUSED.items():
        pem = make(tmp_path)
        add(at, pem)
        expect(at.get_by_role("alert").first, name).to_contain_text(reason)
        assert pem[-60:].strip() not in at.content(), "nothing of it is shown again"
        expect(at.get_by_role("heading", name="Certificates")).to_contain_text("0 of 2")


def test_a_certificate_that_ends_while_one_looks_is_said_to_have_expired(at: Page) -> None:
    add(at, make_ca(end=datetime.now(UTC) + timedelta(seconds=5)))
    right_now = at.get_by_role("region", name="Right now")
    expect(right_now).to_contain_text("Not connected")
    expect(right_now).to_contain_text("Gateway: refuses calls, because every registered CA certificate has expired")

"""Plugs to pull: a page that is watched while something breaks, and parts as processes that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Locator, Page, expect

from qanat.stack import Stack
from tests.support.edge_processes import EdgeProcess
from tests.support.stack import RunningStack

PATIENCE = 60_000
"""Milliseconds until a test gives up; an idle machine tells within ten seconds."""
Part = Literal["samples", "edge", "connector", "gateway"]


@dataclass(frozen=True)
class Watched:
    """The live part of a tunnel's page that stays open. What it tells is timed, and printed (`pytest -s`)."""

    page: Page

    @property
    def part(self) -> Locator:
        return self.page.get_by_role("region", name="Right now")

    @property
    def verdict(self) -> Locator:
        return self.part.locator(".verdict")

    def tells(self, *words: str, after: float, of: str) -> None:
        """Wait until the verdict says all of this by itself. `after` is when its cause was, `of` what that was."""
        for word in words:
            expect(self.verdict).to_contain_text(word, timeout=PATIENCE)
        print(f"\n{of}: told after {time.monotonic() - after:.1f} s")

    def is_green(self, *, after: float, of: str) -> None:
        """Wait until the badge is green again."""
        expect(self.verdict.locator(".badge.good")).to_have_text("Connected", timeout=PATIENCE)
        print(f"\n{of}: green after {time.monotonic() - after:.1f} s")


@contextmanager
def unplugged(running: RunningStack, part: Part) -> Iterator[float]:
    """One part of the stack stopped; yields when that began. It is started again at the end."""
    began = time.monotonic()
    running.run(running.stack.stop_part(part))
    try:
        yield began
    finally:
        running.run(running.stack.start_part(part))


@contextmanager
def another_edge(running: RunningStack, folder: Path, name: str) -> Iterator[EdgeProcess]:
    """A second edge node of the same control plane, in a process of its own."""
    config = running.stack.edge_config(name=name, drain_timeout="1s")
    settings = config.model_dump(mode="json", exclude_unset=True) | {"drain_timeout": "1s"}
    assert config.control is not None
    settings["control"]["service_key"] = config.control.read_key().get_secret_value()
    for door in ("connectors", "clients"):
        settings[door]["listen_addr"] = "127.0.0.1:0"
    edge = EdgeProcess(folder, settings)
    try:
        running.run(edge.start())
        yield edge
    finally:
        running.run(edge.close())


@contextmanager
def connector_process(stack: Stack, edge: EdgeProcess, token_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`qanat connector` at that edge; killed at the end. Nobody asks its upstream for anything."""
    settings = {
        "TUNNEL_TOKEN_FILE": str(token_file),
        "TUNNEL_EDGE": "{}:{}".format(*edge.connector_address),
        "TUNNEL_CACERT": str(stack.pki / "connector-listener-ca.pem"),
        "TUNNEL_TRANSPORT_PROTOCOL": "http2",
        "TUNNEL_URL": "http://127.0.0.1:9",
    }
    command = (sys.executable, "-m", "qanat", "connector")
    process = subprocess.Popen(command, env=os.environ | settings, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()

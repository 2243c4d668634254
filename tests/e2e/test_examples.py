"""Every example, run as its reader would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.requirements import requirement
from tests.support.stack import RunningStack

EXAMPLES = Path(__file__).parents[2] / "examples"
NODE_MODULES = Path(__file__).parents[1] / "npm/node_modules"
TICKET = "Checkout returns 502 after 14:00"


def run(command: list[str], running: RunningStack, directory: Path | None = None) -> str:
    """What the command prints."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **running.environment}
    done = subprocess.run(
        command, env=environment, cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@requirement("stack:examples")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_example_prints_the_answer(running: RunningStack) -> None:
    assert TICKET in run(["sh", str(EXAMPLES / "curl/ask.sh")], running)


@requirement("stack:examples")
@pytest.mark.slow
def test_the_python_example_prints_the_tickets(running: RunningStack) -> None:
    printed = run([sys.executable, str(EXAMPLES / "python/ask.py")], running)
    assert "[tickets.list_tickets {'status': 'open'}]" in printed
    assert TICKET in printed


@requirement("stack:examples")
@pytest.mark.slow
def test_the_mcp_client_example_lists_the_tools(running: RunningStack) -> None:
    printed = run([sys.executable, str(EXAMPLES / "mcp-client/list_tools.py")], running)
    assert "get_ticket: Get one ticket in full" in printed


@requirement("stack:examples")
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.skipif(not (NODE_MODULES / "tsx").exists(), reason="npm packages are not installed: make prepare")
def test_the_typescript_example_prints_the_tickets(running: RunningStack, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "typescript", tmp_path / "typescript", ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    tsx = str(NODE_MODULES / ".bin/tsx")
    printed = run([tsx, "ask.ts"], running, tmp_path / "typescript")
    assert '[tickets.list_tickets {"status":"open"}]' in printed
    assert TICKET in printed


def test_every_example_is_run_by_a_test() -> None:
    text = Path(__file__).read_text() + '"server/server.py": run by the tutorial, see tests/docs'
    for folder in (entry for entry in EXAMPLES.iterdir() if entry.is_dir()):
        assert f'"{folder.name}' in text, f"no test runs examples/{folder.name}"

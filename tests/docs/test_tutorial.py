"""The tutorial, typed in as it is written: its own commands, in order, in a shell."""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.requirements import requirement

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs/tutorial/first-tunnel.md"
UNTIL = {"make demo": "running;", "server.py": "Uvicorn running", "join": "Registered tunnel connection"}
"""What each command that stays says once it is up."""
TIMEOUT = 60.0
SHELL = ["sh", "-euc"]


def steps() -> list[tuple[bool, str]]:
    """The shell blocks: whether one stays in the foreground, and its text."""
    found = re.findall(r"^```sh( stays)?\n(.*?)^```", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(bool(stays), text.strip()) for stays, text in found]


def wait_for(process: subprocess.Popen[bytes], phrase: str) -> str:
    """What a program printed until `phrase`."""
    assert process.stdout is not None
    printed, deadline = b"", time.monotonic() + TIMEOUT
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while phrase.encode() not in printed:
            assert selector.select(deadline - time.monotonic()), f"no {phrase!r} in:\n{printed.decode()}"
            piece = os.read(process.stdout.fileno(), 65536)
            assert piece, f"ended without {phrase!r}:\n{printed.decode()}"
            printed += piece
    return printed.decode()


@contextmanager
def staying(command: str, phrase: str, directory: Path, environment: dict[str, str]) -> Iterator[str]:
    """A command that stays, from the moment it says that it is up."""
    process = subprocess.Popen(
        [*SHELL, f"exec {command}"],
        cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield wait_for(process, phrase)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(TIMEOUT)
        finally:
            process.kill()
            process.stdout.close()


@requirement("stack:docs", "stack:examples")
@pytest.mark.slow
def test_the_tutorial_can_be_typed_in(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    programs = Path(sys.executable).parent
    unset = {"ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "QANAT_MODEL"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    answers = []
    with ExitStack() as running:
        for stays, text in steps():
            command = text.replace(".venv/bin/", f"{programs}/").replace("9000", port)
            command = command.replace("make demo", f"{programs}/qanat dev")
            if command.startswith(". /tmp/qanat-dev-"):
                continue  # the line to paste stands in what `make demo` printed
            if stays:
                phrase = next(phrase for name, phrase in UNTIL.items() if name in text)
                printed = running.enter_context(staying(command, phrase, tmp_path, environment))
                if found := re.search(r"^  (\. \S+/env)$", printed, re.MULTILINE):
                    environment |= read_environment(found[1])
                continue
            done = subprocess.run(
                [*SHELL, command],
                cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            answers.append(done.stdout)
    assert "tunnel-token" in answers[0]
    assert "Hello Ada, from inside the private network." in answers[-1]


def read_environment(source: str) -> dict[str, str]:
    """What a shell has after pasting the line."""
    done = subprocess.run(
        [*SHELL, f"{source}; env -0"], env={}, capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)

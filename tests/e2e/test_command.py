"""`qanat dev` as a command: its exit status, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.requirements import requirement

TIMEOUT = 60
COMMAND = [sys.executable, "-c", "from qanat.cli import main; main()", "dev"]


def environment(directory: Path) -> dict[str, str]:
    """Temporary files go to `directory`; no real model is asked."""
    unset = {"ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "QANAT_MODEL"}
    return {name: value for name, value in os.environ.items() if name not in unset} | {"TMPDIR": str(directory)}


@contextmanager
def running_command(directory: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The command once it says that it is running, and what it printed until then."""
    process = subprocess.Popen(
        COMMAND, env=environment(directory), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("running;"):
                break
        yield process, lines
    finally:
        process.kill()
        process.communicate()


@requirement("stack:once")
@pytest.mark.slow
def test_once_shows_the_answer_and_every_hop_and_exits_0(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--once"], env=environment(tmp_path), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ("up in ", "mcp_tool_use", "Checkout returns 502", "TLS records and nothing else", "try next"):
        assert expected in done.stdout
    assert re.search(r"all \d+ checks held", done.stdout)
    assert list(tmp_path.iterdir()) == []


@requirement("stack:once")
@pytest.mark.slow
def test_once_exits_1_and_names_the_part_that_did_not_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*COMMAND, "--once", "--listen", listen],
            env=environment(tmp_path), capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "did not start at gateway" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@requirement("stack:clean")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with running_command(tmp_path) as (process, lines):
        text = "".join(lines)
        ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", text)}
        assert len(ports) >= 5, text
        assert list(tmp_path.iterdir()) != []
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 0
    assert list(tmp_path.iterdir()) == []
    assert children == []
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} still listens"


@requirement("stack:hop")
@pytest.mark.slow
def test_a_part_taken_away_by_the_keyboard_is_named_when_asked_again(tmp_path: Path) -> None:
    with running_command(tmp_path) as (process, _):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("ask\nstop the moon\nstop moon\nstop connector\nask\n")
        process.stdin.flush()
        printed: list[str] = []
        for line in process.stdout:
            printed.append(line)
            if "failed at" in line:
                break
    text = "".join(printed)
    assert "answered after" in text
    assert "no part 'moon' is running" in text
    assert "stopped connector" in text
    assert "failed at connector: " in text


def test_a_model_nobody_offers_is_misuse(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--model", "gpt-17"],
        env=environment(tmp_path), capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "gpt-17" in done.stderr

"""The search for secrets in the logs of the whole run finds what it is there to find."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.planted import MARK, leaks_in, plant, remember
from tests.support.requirements import requirement

ROOT = Path(__file__).parents[1]
# Said in a run of their own: this one must not log any.
CALLS = [
    f'debug("request", target="/mcp?{MARK}-query-1")',
    'info("request", token="eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.x")',
    'error("refused", header="Authorization: Bearer 0123456789abcdef")',
    f'exception("bug", detail={{"session": "{MARK}-session-1"}})',
]


PROGRAM = """
import logging
from qanat.logger import get_logger
log = get_logger("qanat.proxy")
def test_clean():
    logging.getLogger("qanat").setLevel(logging.CRITICAL)
    log.info("request", session="plain")
"""


@requirement("proxy:39", "oauth:37")
@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["alone", "divided"])
def test_a_run_in_which_a_secret_is_logged_at_any_level_has_failed(tmp_path: Path, workers: list[str]) -> None:
    tests = [f"def test_leak_{number}():\n    log.{call}\n" for number, call in enumerate(CALLS)]
    (tmp_path / "test_leaky.py").write_text(PROGRAM + "".join(tests))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.planted", *workers, "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert f"{len(CALLS) + 1} passed" in done.stdout
    section = done.stdout.partition("secrets in the log")[2]
    assert [f"test_leak_{number}" in section for number in range(len(CALLS))] == [True] * len(CALLS)
    assert "test_clean" not in section


def test_what_is_planted_or_remembered_is_found_and_nothing_else() -> None:
    secret = plant("token")
    assert leaks_in(f'{{"error": "{secret}"}}') == [secret]
    given = remember("given-" + os.urandom(8).hex())
    assert leaks_in(f"x {given} y") == [given]
    assert leaks_in('{"msg": "route configured", "session": "0a1b2c3d4e5f", "scheme": "bearer"}') == []


def test_every_line_is_heard_although_logging_is_off(pytestconfig: pytest.Config) -> None:
    from qanat.logger import get_logger
    from tests.support.planted import TAP

    tap = pytestconfig.stash[TAP]
    before = tap.lines.tell()
    logging.getLogger("qanat.planted").setLevel(logging.CRITICAL)
    get_logger("qanat.planted").debug("heard")
    assert tap.lines.tell() > before

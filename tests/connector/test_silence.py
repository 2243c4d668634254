"""Packets that vanish without a word: a firewall rule in a network namespace of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from qanat.tunnel.http2_link import KeepAlive
from qanat.tunnel.quic import PING_EVERY
from qanat.tunnel.quic_engine import IDLE_TIMEOUT
from tests.connector.conftest import RUNGS
from tests.support.requirements import requirement

MISSING = [tool for tool in ("unshare", "ip", "nft") if shutil.which(tool) is None]


@requirement("connector:silence")
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a network namespace")
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.parametrize("rung", RUNGS)
async def test_both_ends_notice_when_packets_vanish_and_meet_again_when_they_flow(rung: str, tmp_path: Path) -> None:
    probe = await asyncio.create_subprocess_exec(
        *("unshare", "--net", "nft", "list", "ruleset"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, refusal = await probe.communicate()
    if probe.returncode:
        pytest.skip(f"this machine gives no network namespace with a firewall: {refusal.decode().strip()}")
    program = (sys.executable, "-m", "tests.support.silence", rung, str(tmp_path))
    process = await asyncio.create_subprocess_exec("unshare", "--net", *program, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    outcome = json.loads(output)
    print(rung, outcome)  # shown with -rP: the seconds it took
    assert outcome["back"]


@requirement("connector:silence")
def test_silence_is_given_less_than_five_seconds() -> None:
    assert KeepAlive().timeout < 5.0
    assert IDLE_TIMEOUT + PING_EVERY < 5.0

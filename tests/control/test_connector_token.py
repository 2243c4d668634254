"""An unmodified cloudflared takes our tunnel token, when `QANAT_CLOUDFLARED` names its binary."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest

from tests.support.cloudflared import BINARY, needs_cloudflared
from tests.support.control import Tenant
from tests.support.federation import ok
from tests.support.requirements import requirement

REFUSAL = "Provided Tunnel token is not valid"


def first_words(token: str) -> str:
    """What it says until it dials, or gives up. The edge it is told of is a port nobody listens on."""
    process = subprocess.Popen(
        [BINARY, "tunnel", "--no-autoupdate", "--edge", "127.0.0.1:1", "--protocol", "http2", "run"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TUNNEL_TOKEN": token},
    )
    guard = threading.Timer(30, process.kill)
    guard.start()
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            said += line
            if "Starting tunnel" in line or REFUSAL in line:
                break
    finally:
        guard.cancel()
        process.kill()
        process.communicate()
    return said


@pytest.mark.slow
@needs_cloudflared
@requirement("tunnels-api:15")
def test_cloudflared_takes_the_token(tenant: Tenant) -> None:
    with tenant.http() as http:
        id = ok(http.post("/v1/tunnels"))["id"]
        token = ok(http.post(f"/v1/tunnels/{id}/reveal_token"))["tunnel_token"]
    said = first_words(token)
    assert "Starting tunnel" in said
    assert REFUSAL not in said
    assert REFUSAL in first_words(token[:-4])

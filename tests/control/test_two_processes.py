"""Two control-plane processes on one PostgreSQL: caps hold under fifty parallel requests, changes reach both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.control.test_certificates import make_ca
from tests.support.control import EDGE_KEY, HEADERS
from tests.support.federation import ok
from tests.support.postgres import Postgres

PARALLEL = 50


@contextlib.contextmanager
def control_process(config: Path) -> Iterator[str]:
    """`qanat control --config …` as an operator runs it; its URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from qanat.cli import main; main()", "control", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        yield next(line for line in lines if line.startswith("control plane at")).split()[-1]
    finally:
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0


@pytest.fixture
def urls(postgres: Postgres, tmp_path: Path) -> Iterator[list[str]]:
    rates = {"requests_per_minute": 10**6, "token_reads_per_minute": 10**6, "exchanges_per_minute": 10**6}
    settings = {
        "listen_addr": "127.0.0.1:0",
        "data_dir": str(tmp_path / "data"),
        "database_url": postgres.new_database(),
        "limits": rates,
        "service_keys": [{"name": "edge", "role": "edge", "key": EDGE_KEY}],
    }
    (tmp_path / "control.yaml").write_text(json.dumps(settings))
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(control_process(tmp_path / "control.yaml")) for _ in range(2)]


def clients(urls: list[str], credential: str) -> list[httpx2.AsyncClient]:
    headers = HEADERS | {"authorization": f"Bearer {credential}"}
    return [httpx2.AsyncClient(base_url=url, headers=headers, timeout=60, verify=False) for url in urls]


async def statuses(both: list[httpx2.AsyncClient], path: str, bodies: list[dict[str, Any]]) -> list[int]:
    """The answers to these requests, sent at once, by turns to one and the other."""
    calls = [_post(both[index % 2], path, body) for index, body in enumerate(bodies)]
    return sorted(await asyncio.gather(*calls))


async def _post(http: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> int:
    """Asks again as clients do: on a busy machine the last of many may wait 15 s for a connection to the store."""
    answer = await http.post(path, json=body)
    for _ in range(5):
        if answer.status_code != 503:
            break
        answer = await http.post(path, json=body)
    return answer.status_code


@pytest.mark.slow
async def test_caps_hold_and_changes_cross_between_two_processes(urls: list[str], tmp_path: Path) -> None:
    credential = (tmp_path / "data" / "bootstrap.token").read_text().strip()
    both = clients(urls, credential)
    try:
        assert await statuses(both, "/v1/tunnels", [{}] * PARALLEL) == [200] * 10 + [400] * 40
        listed = [ok(await http.get("/v1/tunnels"))["data"] for http in both]
        assert listed[0] == listed[1]
        assert len({tunnel["domain"] for tunnel in listed[0]}) == 10
        path = f"/v1/tunnels/{listed[0][0]['id']}"
        bodies = [{"ca_certificate_pem": make_ca()} for _ in range(PARALLEL)]
        assert await statuses(both, f"{path}/certificates", bodies) == [200] * 2 + [400] * 48
        same = {"ca_certificate_pem": make_ca()}
        other = f"/v1/tunnels/{listed[0][1]['id']}/certificates"
        assert await statuses(both, other, [same] * PARALLEL) == [200] + [409] * 49
        names = [{"name": "same"}] * PARALLEL
        assert await statuses(both, "/v1/organizations/service_accounts", names) == [200] + [409] * 49
        await check_push(urls[0], both[1], path)
    finally:
        for http in both:
            await http.aclose()


async def check_push(follower: str, changer: httpx2.AsyncClient, path: str) -> None:
    """A change made through one process comes out of the other."""
    (edge,) = clients([follower], EDGE_KEY)
    async with asyncio.timeout(30), edge, edge.stream("GET", "/internal/v1/changes") as response:
        lines = response.aiter_lines()
        first = json.loads(await anext(lines))
        ok(await changer.post(f"{path}/rotate_token"))
        change = json.loads(await anext(lines))
        while change["kind"] == "heartbeat":
            change = json.loads(await anext(lines))
        assert change["cursor"] == first["cursor"] + 1
        assert path.endswith(change["tunnel_id"])

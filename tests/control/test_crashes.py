"""kill -9 in the middle of writes, again and again: what was acknowledged stays, and nothing is half made."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import func, select

from qanat.control.server import open_database
from qanat.control.store.tables import AuditRow, ChangeRow, CounterRow, TunnelRow, UsedLabelRow
from tests.support.control import HEADERS, control_config, plain_client

KILLS = 200
WRITERS = 3


@dataclass
class Ledger:
    """What the server acknowledged, and what it may or may not have done when it died."""

    domains: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    archived: set[str] = field(default_factory=set)
    uncertain: set[str] = field(default_factory=set)


class Writer(threading.Thread):
    """Creates, rotates and archives until the server is gone."""

    def __init__(self, url: str, credential: str, ledger: Ledger, started: threading.Event) -> None:
        super().__init__(daemon=True)
        self._ledger, self._busy = ledger, started
        headers = HEADERS | {"authorization": f"Bearer {credential}"}
        self._http = plain_client(base_url=url, headers=headers)

    def run(self) -> None:
        ledger, current = self._ledger, ""
        with self._http as http:
            try:
                while True:
                    current = ""
                    made = _post(http, "/v1/tunnels")
                    ledger.domains[made["id"]] = made["domain"]
                    current = made["id"]
                    self._busy.set()
                    token = _post(http, f"/v1/tunnels/{current}/rotate_token")
                    ledger.tokens[current] = token["id"]
                    if random.random() < 0.3:
                        _post(http, f"/v1/tunnels/{current}/archive")
                        ledger.archived.add(current)
            except httpx2.HTTPError:
                ledger.uncertain.add(current)


def _post(http: httpx2.Client, path: str) -> dict[str, str]:
    response = http.post(path)
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Callable[[], tuple[int, str, str]]]:
    """Starts the server again: its pid, URL and credential."""
    script = Path(__file__).parent.parent / "support" / "crash_server.py"
    environment = os.environ | {"PYTHONPATH": str(script.parent.parent.parent)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def start() -> tuple[int, str, str]:
        stdin.write("start\n")
        stdin.flush()
        line = stdout.readline()
        while line == "died\n":
            line = stdout.readline()
        pid, url, credential = line.split()
        return int(pid), url, credential

    yield start
    os.killpg(process.pid, signal.SIGKILL)
    stdin.close()
    stdout.close()
    process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_kills_lose_nothing(mortal: Callable[[], tuple[int, str, str]], tmp_path: Path) -> None:
    ledger = Ledger()
    for _ in range(KILLS):
        pid, url, credential = mortal()
        started = threading.Event()
        writers = [Writer(url, credential, ledger, started) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        assert started.wait(30)
        threading.Event().wait(random.uniform(0, 0.05))  # the random point at which it dies
        os.kill(pid, signal.SIGKILL)
        for writer in writers:
            writer.join(30)
    assert len(ledger.domains) >= KILLS
    asyncio.run(check(tmp_path, ledger))


async def check(data_dir: Path, ledger: Ledger) -> None:
    async with open_database(control_config(data_dir)) as database, database.read() as session:
        rows = {row.id: row for row in (await session.scalars(select(TunnelRow))).all()}
        labels = set((await session.scalars(select(UsedLabelRow.label))).all())
        trail = (await session.execute(select(AuditRow.target_id, AuditRow.action))).all()
        changes = (await session.execute(select(func.count()).select_from(ChangeRow))).scalar_one()
        counter = (await session.execute(select(CounterRow.value))).scalar_one()
    for id, domain in ledger.domains.items():
        assert rows[id].domain == domain
        if id not in ledger.uncertain:
            assert rows[id].token_id == ledger.tokens[id]
            assert (rows[id].archived_at is not None) == (id in ledger.archived)
    assert all(rows[id].archived_at is not None for id in ledger.archived)
    assert len({row.domain for row in rows.values()}) == len(rows)
    assert {row.domain.split(".")[0] for row in rows.values()} == labels
    assert {target for target, action in trail if action == "tunnel.create"} == set(rows)
    for row in rows.values():
        rotations = sum(1 for target, action in trail if (target, action) == (row.id, "tunnel.rotate_token"))
        assert row.generation == 1 + rotations
    assert changes == counter

"""What the control plane's reads cost with 1,000 and with 100,000 tunnels in the store: the ratio should be near 1.

`python -m bench.control [--tunnels 1000,100000] [--calls 300]`. The tunnels lie in a hundred organizations, as a busy
deployment's would, and in one, the worst case for a list. Prints CPU and wall microseconds per call, and the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import secrets
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from sqlalchemy import insert

from qanat.control.config import ControlConfig
from qanat.control.operations import Operations
from qanat.control.operations.bootstrap import add_organization
from qanat.control.operations.context import Actor
from qanat.control.operations.pages import PageRequest
from qanat.control.server import open_operations
from qanat.control.store.tables import OrganizationRow, TunnelRow, UsedLabelRow
from qanat.ids import make_id

ORGANIZATIONS = 100
BATCH = 5000
Measured = dict[str, tuple[float, float]]


async def fill(operations: Operations, organizations: list[OrganizationRow], count: int) -> list[str]:
    """Insert `count` tunnels, spread evenly; a tenth are archived. Returns their wire ids."""
    context = operations.context
    now, sealed = context.now(), context.vault.seal(b"x" * 32, "tunnel")
    made: list[str] = []
    for start in range(0, count, BATCH):
        rows = []
        for number in range(start, min(start + BATCH, count)):
            organization = organizations[number % len(organizations)]
            made.append(str(uuid.uuid4()))
            rows.append(
                {
                    "id": make_id("tnl", secrets.token_bytes(16)),
                    "uuid": made[-1],
                    "account_tag": secrets.token_hex(16),
                    "organization_id": organization.id,
                    "workspace_id": organization.default_workspace_id,
                    "domain": f"l{number:07d}.tunnel.localhost",
                    "secret_sealed": sealed,
                    "secret_sha256": hashlib.sha256(b"x" * 32).hexdigest(),
                    "token_id": "ttkn_" + "0" * 64,
                    "generation": 1,
                    "created_at": now - timedelta(seconds=number),
                    "archived_at": now if number // len(organizations) % 10 == 0 else None,
                }
            )
        async with context.database.write() as session:
            await session.execute(insert(TunnelRow), rows)
            labels = [{"label": str(row["domain"]).split(".")[0], "used_at": now} for row in rows]
            await session.execute(insert(UsedLabelRow), labels)
    return made


async def measure(calls: int, work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """CPU and wall microseconds per call, warm."""
    for _ in range(10):
        await work()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        await work()
    return (time.process_time() - cpu) / calls * 1e6, (time.perf_counter() - wall) / calls * 1e6


async def run(count: int, spread: int, calls: int) -> Measured:
    """Each read with `count` tunnels in `spread` organizations."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_operations(ControlConfig(data_dir=Path(folder))) as (operations, _):
            async with operations.context.database.write() as session:
                organizations = [await add_organization(session, operations.context, "bench") for _ in range(spread)]
            uuids = await fill(operations, organizations, count)
            one = organizations[0]
            actor = Actor("bench", "bootstrap", one.id, one.default_workspace_id)
            first = await operations.tunnels.list_page(actor, PageRequest(limit=20))
            tunnel_id = first.data[-1].id
            choice = uuid.UUID(secrets.choice(uuids))
            return {
                "list": await measure(calls, lambda: operations.tunnels.list_page(actor, PageRequest(limit=20))),
                "second page": await measure(
                    calls, lambda: operations.tunnels.list_page(actor, PageRequest(limit=20, page=first.next_page))
                ),
                "get": await measure(calls, lambda: operations.tunnels.retrieve(actor, tunnel_id)),
                "connector authorization": await measure(calls, lambda: operations.data_plane.tunnel_by_uuid(choice)),
            }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.control")
    parser.add_argument("--tunnels", default="1000,100000")
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args()
    few, many = (int(text) for text in options.tunnels.split(","))
    print(f"{'read':<26}{'organizations':>14}{few:>12,} us{many:>12,} us{'cpu ratio':>12}{'wall ratio':>12}")
    for spread in (ORGANIZATIONS, 1):
        small = asyncio.run(run(few, spread, options.calls))
        large = asyncio.run(run(many, spread, options.calls))
        for name, (cpu, wall) in small.items():
            much_cpu, much_wall = large[name]
            ratios = f"{much_cpu / cpu:>12.2f}{much_wall / wall:>12.2f}"
            print(f"{name:<26}{spread:>14}{cpu:>15.0f}{much_cpu:>15.0f}{ratios}")


if __name__ == "__main__":
    main()

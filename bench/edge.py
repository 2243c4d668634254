"""An edge whose control plane is a table in memory, of as many tunnels as wanted: `python -m bench.edge` with a
configuration as JSON on standard input (`edge`, `tunnel` and `tunnels`)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from uuid import UUID

import uvloop

from qanat.api.internal import Change, EventBatch, TunnelRecord
from qanat.edge.cache import CachedDirectory
from qanat.edge.config import EdgeConfig
from qanat.edge.server import serve
from qanat.ids import OrganizationID, TunnelID, WorkspaceID
from qanat.log import setup_logging
from qanat.net.process import freeze_start, use_large_blocks


class Table:
    """Answers the edge's questions about tunnels."""

    def __init__(self, tunnel: dict[str, str], count: int) -> None:
        records = [_record(tunnel, number) for number in range(count)]
        self._by_uuid = {record.uuid: record for record in records}
        self._by_domain = {record.domain: record for record in records}

    async def by_uuid(self, uuid: UUID) -> TunnelRecord | None:
        return self._by_uuid.get(uuid)

    async def by_domain(self, domain: str) -> TunnelRecord | None:
        return self._by_domain.get(domain)

    async def changes(self, after: int | None) -> AsyncIterator[Change]:
        while True:
            yield Change(cursor=1, kind="heartbeat")
            await asyncio.sleep(5)

    async def send_events(self, batch: EventBatch) -> None:
        return

    async def warm(self, directory: CachedDirectory) -> None:
        """Make the edge's cache know every tunnel."""
        for uuid in self._by_uuid:
            await directory.by_uuid(uuid)


def _record(tunnel: dict[str, str], number: int) -> TunnelRecord:
    first = number == 0
    return TunnelRecord(
        id=TunnelID(f"tnl_{number}"),
        uuid=UUID(tunnel["uuid"]) if first else UUID(int=number),
        account_tag=tunnel["account_tag"],
        secret_sha256=hashlib.sha256(bytes.fromhex(tunnel["secret"])).hexdigest(),
        domain=tunnel["domain"] if first else f"t{number}.bench.example",
        organization_id=OrganizationID("org"),
        workspace_id=WorkspaceID("wrkspc_1"),
        archived=False,
        ca_certificates=(tunnel["ca"],),
    )


async def main() -> None:
    """Serve until told to stop."""
    job = json.loads(sys.stdin.readline())
    setup_logging("info")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    table = Table(job["tunnel"], job["tunnels"])
    async with serve(EdgeConfig.model_validate(job["edge"]), table) as edge:
        await table.warm(edge.directory)
        freeze_start()
        print("ready", flush=True)
        await stop.wait()


if __name__ == "__main__":
    use_large_blocks()
    uvloop.run(main())

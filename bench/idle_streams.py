"""What an idle stream weighs: 999 WebSockets over one HTTP/2 connection, both ends in this process.

`python -m bench.idle_streams` prints bytes as Python allocated them, while the streams are open and after they ended.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

from tests.support.tunnel import tunnel

COUNT = 999
"""The control stream is the thousandth."""


async def main() -> None:
    """Open them, weigh, close them, weigh again."""
    async with tunnel("http2") as connection:
        tracemalloc.start()
        before = _weigh()
        opened = [await connection.open_websocket() for _ in range(COUNT)]
        idle = _weigh() - before
        for client, _ in opened:
            client.transport.close()
        for client, upstream in opened:
            await client.lost
            await upstream.lost
        del client, upstream
        opened.clear()
        connection.clients.clear()
        connection.upstreams.heads.clear()
        await asyncio.sleep(0.1)
        print(f"{COUNT} idle streams over one connection, both ends together: {idle / COUNT / 1024:.2f} KB each")
        print(f"left after closing them: {(_weigh() - before) / 1024:.1f} KB in all")


def _weigh() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


if __name__ == "__main__":
    asyncio.run(main())

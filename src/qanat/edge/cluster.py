"""This node's ear and voice in the cluster: Redis keys with a lifetime, and one channel for what changes.

| key | holds | lives |
| --- | --- | --- |
| `<prefix>node:<id>` | the node | `lifetime`, renewed three times as often |
| `<prefix>live:<tunnel>:<id>` | connections of a tunnel on a node | ten lifetimes, renewed with the reload |

Every node mirrors all of it in memory, so a lookup costs nothing and an outage of Redis loses nothing known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from qanat.edge.config import Cluster as ClusterConfig
from qanat.edge.connections import LiveConnections
from qanat.edge.membership import Membership, Node, NodeSaid, RouteSaid, decode, encode
from qanat.edge.metrics import Metrics
from qanat.errors import ProtocolError
from qanat.logger import get_logger

RELOAD_EVERY = 30.0
"""Seconds between full reloads, which mend whatever a lost message broke."""
SOCKET_TIMEOUT = 3.0
FIRST_BACKOFF, MAX_BACKOFF = 0.1, 2.0
PAGE = 500

_log = get_logger("qanat.edge")


class ClusterDirectory:
    """Says what this node holds, hears what others hold. `run` does both until cancelled."""

    def __init__(
        self,
        config: ClusterConfig,
        node: Node,
        connections: LiveConnections,
        members: Membership,
        metrics: Metrics,
    ) -> None:
        self._config, self.node, self._connections = config, node, connections
        self.members, self._metrics = members, metrics
        self._lifetime = config.lifetime.total_seconds()
        self._redis = Redis.from_url(
            config.redis_url.get_secret_value(),
            socket_timeout=SOCKET_TIMEOUT,
            socket_connect_timeout=SOCKET_TIMEOUT,
            decode_responses=True,
        )
        self._channel = f"{config.prefix}changes"
        self._said: set[UUID] = set()
        """Tunnels we have announced as held."""
        self._pending: set[UUID] = set()
        self._meanwhile: list[NodeSaid | RouteSaid] | None = None
        """What is heard during a reload: newer than anything it reads."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.up = False
        self._joined = asyncio.Event()

    async def start(self, patience: float) -> None:
        """Begin to speak and to listen; returns once we know the others, or `patience` seconds have passed."""
        self._task = asyncio.create_task(self._run())
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._joined.wait()

    def changed(self, tunnel: UUID) -> None:
        """Connections of a tunnel came or went here: tell the others."""
        self._pending.add(tunnel)
        self._wake.set()

    def leave(self) -> None:
        """We drain: the others should neither relay to us nor count on us."""
        self.node = Node(self.node.id, self.node.name, self.node.host, self.node.port, accepting=False)
        self._wake.set()

    async def close(self) -> None:
        """Say good-bye, if Redis is there to hear it."""
        if self._task is not None:
            await _stop([self._task])
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(SOCKET_TIMEOUT):
                await self._say_goodbye()
        with suppress(RedisError, OSError):
            await self._redis.aclose()

    async def _run(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            started = asyncio.get_running_loop().time()
            tasks: list[asyncio.Task[None]] = []
            try:
                await self._take_part(tasks)
            except (RedisError, OSError) as error:
                if self.up or backoff == FIRST_BACKOFF:
                    _log.warn("redis lost, going on with what is known", error=str(error) or type(error).__name__)
            finally:
                await _stop(tasks)
            self._set_up(False)
            if asyncio.get_running_loop().time() - started > MAX_BACKOFF:
                backoff = FIRST_BACKOFF
            await asyncio.sleep(backoff)
            backoff = min(MAX_BACKOFF, backoff * 2)

    async def _take_part(self, tasks: list[asyncio.Task[None]]) -> None:
        """Listen, then speak, until one of both fails. Raises `RedisError`, `OSError`."""
        listening = asyncio.Event()
        tasks.append(asyncio.create_task(self._listen(listening)))
        async with asyncio.timeout(SOCKET_TIMEOUT):
            await listening.wait()
        await self._reload()
        self._set_up(True)
        tasks += [asyncio.create_task(self._speak()), asyncio.create_task(self._keep_fresh())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def _set_up(self, up: bool) -> None:
        if up and not self.up:
            _log.info("cluster joined", node=self.node.name, port=self.node.port, others=len(self.members.nodes))
        self.up = up
        if up:
            self._joined.set()
        self._metrics.redis.set(up)

    async def _listen(self, listening: asyncio.Event) -> None:
        async with self._redis.pubsub() as channel:
            await channel.subscribe(self._channel)
            listening.set()
            while True:
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=self._lifetime)
                now = asyncio.get_running_loop().time()
                if message is not None:
                    self._hear(message["data"], now)
                for name in self.members.expire(now):
                    _log.warn("node lost", node=name)
                self._metrics.nodes.set(len(self.members.nodes))

    def _hear(self, data: object, now: float) -> None:
        try:
            said = decode(str(data))
        except ProtocolError:
            _log.warn("message on the cluster's channel that makes no sense")
            return
        is_new = said.node_id not in self.members.nodes and said.node_id != self.node.id
        if isinstance(said, NodeSaid) and said.node is not None and is_new:
            _log.info("node found", node=said.node.name, address=f"{said.node.host}:{said.node.port}")
        if self._meanwhile is not None:
            self._meanwhile.append(said)
        self.members.hear(said, now)

    async def _speak(self) -> None:
        """Our heartbeat, and at once whatever changes."""
        period = self._lifetime / 3
        while True:
            pending, self._pending = self._pending, set()
            self._wake.clear()
            try:
                await self._announce(pending)
            except BaseException:
                self._pending |= pending
                raise
            with suppress(TimeoutError):
                async with asyncio.timeout(period):
                    await self._wake.wait()

    async def _announce(self, tunnels: set[UUID]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            said = NodeSaid(self.node.id, self.node)
            pipe.set(self._node_key(), encode(said), px=int(self._lifetime * 1000))
            pipe.publish(self._channel, encode(said))
            for tunnel in tunnels:
                route = RouteSaid(self.node.id, tunnel, len(self._connections.of_tunnel(tunnel)))
                key = self._route_key(tunnel)
                if route.connections:
                    self._said.add(tunnel)
                    pipe.set(key, encode(route), px=int(self._lifetime * 10_000))
                else:
                    self._said.discard(tunnel)
                    pipe.delete(key)
                pipe.publish(self._channel, encode(route))
            await pipe.execute()

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(min(RELOAD_EVERY, self._lifetime * 4))
            await self._reload()

    async def _reload(self) -> None:
        """Say everything again, and read everything again."""
        await self._announce(self._said | set(self._connections.tunnels()) | self._pending)
        everything: list[NodeSaid | RouteSaid] = []
        meanwhile = self._meanwhile = []
        for kind in ("node", "live"):
            async for text in self._values(f"{self._config.prefix}{kind}:*"):
                with suppress(ProtocolError):
                    everything.append(decode(text))
        self.members.replace(everything + meanwhile, asyncio.get_running_loop().time())
        self._meanwhile = None

    async def _values(self, pattern: str) -> AsyncIterator[str]:
        keys: list[str] = [key async for key in self._redis.scan_iter(match=pattern, count=PAGE)]
        for start in range(0, len(keys), PAGE):
            for value in await self._redis.mget(keys[start : start + PAGE]):
                if value is not None:
                    yield str(value)

    async def _say_goodbye(self) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.delete(self._node_key(), *(self._route_key(tunnel) for tunnel in self._said))
            pipe.publish(self._channel, encode(NodeSaid(self.node.id, None)))
            await pipe.execute()

    def _node_key(self) -> str:
        return f"{self._config.prefix}node:{self.node.id}"

    def _route_key(self, tunnel: UUID) -> str:
        return f"{self._config.prefix}live:{tunnel}:{self.node.id}"


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel until they have ended: the Redis client can swallow a cancellation that meets an answer."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.5)
    for task in tasks:
        if not task.cancelled():
            task.exception()

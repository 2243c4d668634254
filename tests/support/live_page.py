"""A tunnel's page while it is open: what the live part says, as it is sent."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2

from qanat.stack import Stack

BOUND = 60.0
"""Seconds after which waiting is given up; on an idle machine every change shows within ten."""


@dataclass
class LivePage:
    """Somebody signed in, looking at one tunnel. `shown` is all that the page has said, oldest first."""

    client: httpx2.AsyncClient
    path: str
    shown: list[str] = field(default_factory=list)

    async def says(self, *wanted: str) -> str:
        """What the page shows, once it says all of this by itself."""
        try:
            async with asyncio.timeout(BOUND), self.client.stream("GET", f"{self.path}/live") as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):  # the others only say that the stream lives
                        self.shown.append(to_text(json.loads(line[6:])["html"]))
                        if all(words in self.shown[-1] for words in wanted):
                            return self.shown[-1]
        except TimeoutError:
            pass
        raise AssertionError(f"the page never said {wanted}, but {self.shown[-1:]}")

    async def actions(self, ending: str) -> list[str]:
        """Where the page's forms with such an address go."""
        markup = (await self.client.get(self.path)).text
        return [found for found in re.findall(r'action="([^"]+)"', markup) if found.endswith(ending)]

    async def post(self, path: str, **fields: str) -> None:
        """Send one of the page's forms."""
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', (await self.client.get(self.path)).text)
        assert found is not None
        answer = await self.client.post(path, data={"csrf": found[1], **fields})
        assert answer.status_code == 303, answer.text


def to_text(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


@asynccontextmanager
async def live_page(stack: Stack) -> AsyncIterator[LivePage]:
    """The page of the stack's tunnel, opened by its operator."""
    timeout = httpx2.Timeout(30.0)
    async with httpx2.AsyncClient(base_url=stack.control.url, trust_env=False, timeout=timeout) as client:
        credential = stack.control.credential.get_secret_value()
        answer = await client.post("/console/sign-in", data={"credential": credential})
        assert answer.status_code == 303
        yield LivePage(client, f"/console/tunnels/{stack.tunnel_id}")

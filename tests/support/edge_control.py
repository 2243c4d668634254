"""A real control plane beside an edge, as its operator uses it."""

from __future__ import annotations

from typing import Any

import httpx2

from qanat.control.server import ControlServer
from tests.support.control import HEADERS
from tests.support.edge import TIMEOUT


async def ask(control: ControlServer, path: str, body: dict[str, Any] | None = None) -> Any:
    """A call of the Tunnels API by the operator."""
    headers = HEADERS | {"authorization": f"Bearer {control.credential.get_secret_value()}"}
    async with httpx2.AsyncClient(base_url=control.url, headers=headers, timeout=TIMEOUT, trust_env=False) as http:
        answer = await http.post(f"/v1/tunnels{path}", json=body or {})
        assert answer.is_success, answer.text
        return answer.json()

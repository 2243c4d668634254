"""ASGI applications on a loopback port, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from qanat import asgi


@dataclass(frozen=True)
class PEMFiles:
    cert_file: Path
    key_file: Path


@asynccontextmanager
async def serve_asgi(app: ASGIApp, *, tls: PEMFiles | None = None, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serve `app`, lifespan included; yields its URL without a last slash."""
    listener = asgi.bind(f"{host}:0")
    port = listener.getsockname()[1]
    async with asgi.serving(app, listener, tls=tls, grace=1, lifespan="auto"):
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"

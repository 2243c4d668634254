"""Reads tables of paths and of what credentials get at them, and the paths an application really has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.routing import Mount, Route


@dataclass(frozen=True)
class Path:
    """A line of the table of paths."""

    door: str
    method: str
    template: str

    @property
    def named(self) -> bool:
        """Whether it names something of an organization."""
        return "{" in self.template


def read_paths(table: str) -> list[Path]:
    return [Path(*line.split()) for line in table.splitlines() if line]


def read_cells(table: str) -> dict[str, dict[str, str]]:
    """Credential to door to what it gets there."""
    head, *lines = [line for line in table.splitlines() if line]
    doors = head.split()[1:]
    rows = [line.rsplit(maxsplit=len(doors)) for line in lines]
    return {name.strip(): dict(zip(doors, cells, strict=True)) for name, *cells in rows}


def routes_of(routes: Sequence[Any], prefix: str = "") -> Iterator[str]:
    """`GET /v1/tunnels` for everything an application answers."""
    for route in routes:
        if isinstance(route, Mount):
            yield from routes_of(route.routes, prefix + route.path)
        elif isinstance(route, Route) or hasattr(route, "methods"):
            yield from (f"{method} {prefix}{route.path}" for method in route.methods - {"HEAD"})
        else:  # a router that FastAPI included
            yield from routes_of(route.original_router.routes, prefix)

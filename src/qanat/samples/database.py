"""A sample's database: a fresh SQLite file or memory, filled from the SQL file beside this module."""

from __future__ import annotations

import re
import sqlite3
from importlib.resources import files
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Database:
    """Small enough to be asked from the event loop: every question takes microseconds."""

    def __init__(self, name: str, path: Path | None = None) -> None:
        if path is not None:
            path.unlink(missing_ok=True)
        self._connection = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript(files("qanat.samples").joinpath(f"{name}.sql").read_text(encoding="utf-8"))

    def rows(self, query: str, *values: object) -> list[Row]:
        """Every row of the answer."""
        return [dict(row) for row in self._connection.execute(query, values)]

    def row(self, query: str, *values: object) -> Row | None:
        """The first row of the answer, if there is one."""
        return next(iter(self.rows(query, *values)), None)

    def insert(self, query: str, *values: object) -> int:
        """The id of the new row."""
        return self._connection.execute(query, values).lastrowid or 0

    def close(self) -> None:
        """Nothing may be asked afterwards."""
        self._connection.close()


def search_words(text: str) -> list[str]:
    """The words of a search, in lower case, at most twelve."""
    return re.findall(r"\w+", text.lower())[:12]

"""Golden bytes: `tests/vectors/<protocol>/<name>.txt`.

A file says where its bytes come from (`# origin: …`), then the bytes in hex, a rule (`---`), and what they mean, one
`repr` per line. Hex may hold spaces, and `|` as a mark for the reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

VECTORS = Path(__file__).parent.parent / "vectors"


@dataclass(frozen=True)
class Vector:
    """One file."""

    name: str
    origin: str
    data: bytes
    expected: tuple[str, ...]


def load(protocol: str, name: str) -> Vector:
    """The vector in a file."""
    lines = (VECTORS / protocol / f"{name}.txt").read_text().splitlines()
    origin = " ".join(line.removeprefix("# origin:").strip() for line in lines if line.startswith("# origin:"))
    body = [line for line in lines if not line.startswith("#")]
    rule = body.index("---")
    data = bytes.fromhex("".join(body[:rule]).replace("|", ""))
    return Vector(name, origin, data, tuple(line for line in body[rule + 1 :] if line))


def names(protocol: str) -> list[str]:
    """Every vector of a protocol."""
    return sorted(path.stem for path in (VECTORS / protocol).glob("*.txt"))

"""The files that a configuration names: whether they have changed, and what is wrong with one.

Changed by content, because Kubernetes swaps symbolic links and editors replace files.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path

from qanat.errors import ConfigInvalid


def digest(paths: Iterable[Path]) -> bytes:
    """A hash over the contents of files; one that cannot be read counts as such."""
    return hashlib.sha256(b"".join(map(_digest, paths))).digest()


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return bytes(32)


def load_pem(path: Path, load: Callable[[], None]) -> None:
    """Call what loads a file into a TLS context. Raises `ConfigInvalid`, which names the file and what is wrong."""
    try:
        load()
    except ssl.SSLError as error:
        reason = (error.reason or "no certificate found").replace("_", " ").lower()
        raise ConfigInvalid([f"{path}: {reason}"]) from error
    except OSError as error:
        raise ConfigInvalid([f"open {path}: {(error.strerror or str(error)).lower()}"]) from error

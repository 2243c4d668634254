"""Secrets sealed at rest.

Two layers: the master key, in a file, wraps data keys, in the database; data keys seal values (AES-256-GCM). A
process that runs on during a rotation keeps working, because data keys are never thrown away, only superseded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qanat.control.errors import MasterKeyMissing

KEY_SIZE = 32
NONCE_SIZE = 12
RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True)
class Key:
    """A 256-bit key; its id is public, derived from it one way."""

    material: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.material) != KEY_SIZE:
            raise ValueError(f"a key has {KEY_SIZE} bytes")

    @property
    def id(self) -> str:
        return hashlib.sha256(b"qanat key id\0" + self.material).hexdigest()[:16]

    def seal(self, value: bytes, context: str, random_bytes: RandomBytes) -> bytes:
        """`value` encrypted, bound to `context` (where it is kept), behind its nonce."""
        nonce = random_bytes(NONCE_SIZE)
        return nonce + AESGCM(self.material).encrypt(nonce, value, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """What `seal` was given. Raises `ValueError` when it was changed or moved."""
        try:
            return AESGCM(self.material).decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], context.encode())
        except InvalidTag:
            raise ValueError(f"sealed value for {context} does not open") from None


def wrap(master: Key, data: Key, random_bytes: RandomBytes) -> bytes:
    """A data key sealed under a master key."""
    return master.seal(data.material, f"data key {data.id}", random_bytes)


def unwrap(masters: Mapping[str, Key], master_id: str, key_id: str, wrapped: bytes) -> Key:
    """The data key. Raises `MasterKeyMissing`."""
    if master_id not in masters:
        raise MasterKeyMissing(master_id)
    return Key(masters[master_id].open(wrapped, f"data key {key_id}"))


@dataclass
class Vault:
    """Seals under the newest data key, opens under any. A sealed value is `<data key id (8 bytes)><sealed>`."""

    random_bytes: RandomBytes
    current: str = ""
    keys: dict[str, Key] = field(default_factory=dict, repr=False)

    def seal(self, value: bytes, context: str) -> bytes:
        return bytes.fromhex(self.current) + self.keys[self.current].seal(value, context, self.random_bytes)

    def knows(self, sealed: bytes) -> bool:
        return sealed[:8].hex() in self.keys

    def open(self, sealed: bytes, context: str) -> bytes:
        """Raises `KeyError` for an unknown data key: load them again, another process may have rotated."""
        return self.keys[sealed[:8].hex()].open(sealed[8:], context)

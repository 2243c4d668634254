"""Mutates samples and feeds them, for a while or a number of times. The same seed makes the same inputs."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from tests.fuzz.targets import Target

MAX_SIZE = 8_192
_INTERESTING = (0, 1, 2, 7, 8, 127, 128, 254, 255)
_TOKENS = (
    *(b"\r\n", b"\n", b"\0", b":", b"=", b";", b"PRI * HTTP/2.0", b"\xff" * 4, b"\0" * 8, b"\x7f\xff\xff\xff"),
    *(b"9" * 4_400, b"[" * 3_000, b'{"a":' * 1_500),  # more digits than int() takes, deeper than json goes
)


@dataclass(frozen=True)
class Failure:
    """An input that did what none may do."""

    target: str
    data: bytes
    cuts: tuple[int, ...]
    error: str

    def __str__(self) -> str:
        cuts = ",".join(map(str, self.cuts))
        return f"{self.target}: {self.error}\n  --target {self.target} --replay {self.data.hex()} --cuts {cuts}"


class Fuzzer:
    """Runs one target."""

    def __init__(self, name: str, target: Target, seed: int) -> None:
        self._name, self._target = name, target
        self._random = random.Random(f"{seed}/{name}")
        self.inputs = 0

    def run_for(self, seconds: float) -> Failure | None:
        """Feed inputs until the time is over; returns the first that fails."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if failure := self.run_times(50):
                return failure
        return None

    def run_times(self, times: int) -> Failure | None:
        """Feed so many inputs; returns the first that fails."""
        for _ in range(times):
            self.inputs += 1
            data = self._mutated()
            cuts = tuple(self._random.randrange(MAX_SIZE) for _ in range(self._random.randrange(6)))
            if failure := replay(self._name, self._target, data, cuts):
                return failure
        return None

    def _mutated(self) -> bytes:
        samples = self._target.samples
        data = bytearray(self._random.choice(samples))
        if self._random.random() < 0.1:  # the head of one, the tail of another
            other = self._random.choice(samples)
            data[self._random.randrange(len(data) + 1) :] = other[self._random.randrange(len(other) + 1) :]
        for _ in range(self._random.choice((0, 1, 1, 2, 3, 8))):
            self._mutate(data)
        return bytes(data[:MAX_SIZE])

    def _mutate(self, data: bytearray) -> None:
        place = self._random.randrange(len(data) + 1)
        match self._random.randrange(8):
            case 0 if place < len(data):
                data[place] ^= 1 << self._random.randrange(8)
            case 1 if place < len(data):
                data[place] = self._random.choice(_INTERESTING)
            case 2:
                data[place:place] = self._random.randbytes(self._random.randrange(9))
            case 3:
                del data[place : place + self._random.randrange(17)]
            case 4:
                data[place:place] = self._random.choice(_TOKENS)
            case 5:
                piece = data[place : place + self._random.randrange(65)]
                data[place:place] = piece * self._random.choice((1, 1, 2, 20))
            case 6:
                data[place : place + 4] = self._random.randrange(2**32).to_bytes(
                    4, self._random.choice(("big", "little"))
                )
            case _:
                del data[place:]


def replay(name: str, target: Target, data: bytes, cuts: tuple[int, ...]) -> Failure | None:
    """Feed one input."""
    try:
        target.run(data, cuts)
    except Exception as error:
        return Failure(name, data, cuts, f"{type(error).__name__}: {error}"[:2_000])
    return None

"""A short, always equal run of the fuzzers, and proof that they can find something."""

from __future__ import annotations

import pytest

from tests.fuzz.runner import Fuzzer, replay
from tests.fuzz.targets import TARGETS, Target
from tests.support.requirements import requirement

INPUTS = 100


@requirement("wire:garbage", "wire:chunks")
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_hundred_mutations_do_no_harm(name: str) -> None:
    failure = Fuzzer(name, TARGETS[name], seed=1).run_times(INPUTS)
    assert failure is None, str(failure)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_samples_themselves_do_no_harm(name: str) -> None:
    for sample in TARGETS[name].samples:
        assert replay(name, TARGETS[name], sample, (1, 5, 9)) is None


def test_a_planted_bug_is_found_and_the_input_that_shows_it_is_told() -> None:
    def run(data: bytes, cuts: object) -> None:
        if b"\xff" in data:
            raise IndexError("out of range")

    target = Target(run, (b"harmless",))
    failure = Fuzzer("planted", target, seed=1).run_times(10_000)
    assert failure is not None
    assert "IndexError" in str(failure)
    assert replay("planted", target, failure.data, failure.cuts) == failure


def test_the_same_seed_makes_the_same_inputs() -> None:
    def inputs() -> list[bytes]:
        seen: list[bytes] = []
        Fuzzer("x", Target(lambda data, cuts: seen.append(data), (b"sample",)), seed=7).run_times(20)
        return seen

    assert inputs() == inputs()

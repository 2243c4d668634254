"""Ids: their shape, and that they say as much as the random bytes they are made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.ids import ALPHABET, base58, is_well_formed, make_id


@given(st.binary(min_size=16, max_size=16))
def test_an_id_is_a_prefix_01_and_22_characters(random_bytes: bytes) -> None:
    made = make_id("tnl", random_bytes)
    assert made.startswith("tnl_01")
    assert len(made) == 6 + 22
    assert set(made[6:]) <= set(ALPHABET)
    assert is_well_formed("tnl", made)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_different_bytes_make_different_ids(one: bytes, other: bytes) -> None:
    assert (make_id("tnl", one) == make_id("tnl", other)) == (one == other)


@given(st.integers(min_value=0, max_value=2**128 - 1))
def test_base58_can_be_read_back(value: int) -> None:
    read = 0
    for character in base58(value):
        read = read * 58 + ALPHABET.index(character)
    assert read == value


@pytest.mark.parametrize("size", [0, 15, 17])
def test_an_id_takes_exactly_16_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="16 random bytes"):
        make_id("tnl", bytes(size))


@pytest.mark.parametrize(
    "text", ["", "tnl_", "tnl", "wrkspc_01abc", "tnl_01 abc", "tnl_01abc\n", "tnl_" + "a" * 65, "TNL_1"]
)
def test_what_is_no_tunnel_id_is_told_from_one(text: str) -> None:
    assert not is_well_formed("tnl", text)

"""JSON that some languages write and others do not read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.gateway import strict_json


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (rb"\ud83d\ude00", rb"\ud83d\ude00"),
        (rb"\ud83d", rb"\ufffd"),
        (rb"\uDE00", rb"\ufffd"),
        (rb"\ud83d\ud83d\ude00\ude00", rb"\ufffd\ud83d\ude00\ufffd"),
        (rb"\ude00\ud83d", rb"\ufffd\ufffd"),
        (rb"\\\\ud83d", rb"\\\\ud83d"),
        (rb"\ud7ff\ue000", rb"\ud7ff\ue000"),
    ],
)
def test_half_a_surrogate_pair_is_replaced(text: bytes, mended: bytes) -> None:
    assert strict_json.mend_halves(text) == mended


@given(st.text(st.sampled_from([*'u"a8', "\ud83d", "\ude00", "\U0001f600"])))
def test_mended_text_can_be_encoded_and_says_the_same(text: str) -> None:
    mended = json.loads(strict_json.mend_halves(json.dumps(text).encode()))
    whole = json.loads(json.dumps(text))
    assert mended == "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in whole)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "[" * 100_000, "{"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        strict_json.loads(text)

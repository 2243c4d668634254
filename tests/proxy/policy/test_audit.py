"""The audit chain: whatever is done to a line, `verify` finds and names it."""

from __future__ import annotations

import json

import pytest

from qanat.proxy.policy.audit import AuditBroken, Chain, Verified, arguments_hash, verify

KEY = b"k" * 32


def chain(count: int = 5, key: bytes = b"") -> list[bytes]:
    writer = Chain(key)
    return [writer.append({"tool": f"t{number}", "note": "ünïcode"}) for number in range(count)]


@pytest.mark.parametrize("key", [b"", KEY])
def test_an_untouched_log_verifies(key: bytes) -> None:
    lines = chain(5, key)
    assert verify(lines, key) == Verified(5, json.loads(lines[-1])["hash"])
    assert verify([], key).lines == 0


@pytest.mark.parametrize("victim", range(5))
def test_an_edited_line_is_named(victim: int) -> None:
    lines = chain()
    lines[victim] = lines[victim].replace(b'"tool":"t', b'"tool":"x')
    with pytest.raises(AuditBroken, match=f"^line {victim + 1}: was changed"):
        verify(lines)


@pytest.mark.parametrize("victim", range(4))
def test_a_removed_line_is_noticed_at_the_next(victim: int) -> None:
    lines = chain()
    del lines[victim]
    with pytest.raises(AuditBroken, match=f"^line {victim + 1}: does not follow"):
        verify(lines)


def test_swapped_duplicated_and_foreign_lines_are_noticed() -> None:
    lines = chain()
    for broken in (
        [lines[0], lines[2], lines[1], *lines[3:]],
        [lines[0], lines[0], *lines[1:]],
        [*lines[:2], b"not json\n", *lines[2:]],
        [*lines[:2], *chain()[:1], *lines[2:]],
    ):
        with pytest.raises(AuditBroken):
            verify(broken)


def test_a_cut_end_is_noticed_by_a_head_kept_elsewhere() -> None:
    lines = chain()
    head = json.loads(lines[-1])["hash"]
    assert verify(lines[:-1]).lines == 4
    with pytest.raises(AuditBroken, match="end was cut off"):
        verify(lines[:-1], expected_head=head)
    assert verify(lines, expected_head=head).lines == 5


def test_a_rebuilt_chain_does_not_pass_without_the_key() -> None:
    forged = chain(5, b"")
    with pytest.raises(AuditBroken, match=r"^line 1: was changed"):
        verify(forged, KEY)


def test_a_restarted_writer_goes_on_with_the_chain() -> None:
    lines = chain()
    last = json.loads(lines[-1])
    lines.append(Chain(b"", last["seq"], last["hash"]).append({"tool": "later"}))
    assert verify(lines).lines == 6


def test_argument_hashes_recognise_equal_arguments_only() -> None:
    first = arguments_hash(KEY, {"a": 1, "b": [2]})
    assert first == arguments_hash(KEY, {"b": [2], "a": 1})
    assert first != arguments_hash(KEY, {"a": 1, "b": [3]})
    assert first != arguments_hash(b"other", {"a": 1, "b": [2]})


@pytest.mark.parametrize("key", [b"", KEY])
def test_a_line_that_says_two_things_is_named(key: bytes) -> None:
    lines = chain(5, key)
    lines[2] = lines[2].replace(b"{", b'{"tool":"harmless",', 1)  # a JSON reader takes the last one, a person the first
    with pytest.raises(AuditBroken, match=r"^line 3: was changed"):
        verify(lines, key)

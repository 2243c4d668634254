"""The error family: codes are stable names, sentences come from fields, and errors survive pickling and logs."""

from __future__ import annotations

import pickle
import re

import pytest

from qanat.errors import ConfigInvalid, ProtocolError, QanatError, UnexpectedEnd
from tests.docs.generate import describe, import_all, subclasses


@pytest.fixture(scope="module")
def family() -> list[type[QanatError]]:
    import_all()
    return [error for error in subclasses(QanatError) if error.__module__.startswith("qanat.")]


def test_every_code_is_a_name_and_every_status_an_error(family: list[type[QanatError]]) -> None:
    for error in family:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", error.code), error
        assert 400 <= error.status <= 599, error


def test_every_error_says_what_it_is_about(family: list[type[QanatError]]) -> None:
    for error in family:
        assert describe(error), error


def test_one_code_means_one_status_within_a_part(family: list[type[QanatError]]) -> None:
    """A code may be shared along a line of inheritance, or by parts that mean the same; never with two statuses."""
    statuses: dict[tuple[str, str], set[int]] = {}
    for error in family:
        if "code" in vars(error):
            statuses.setdefault((error.__module__.split(".")[1], error.code), set()).add(error.status)
    assert {key: found for key, found in statuses.items() if len(found) > 1} == {}


def test_the_sentence_is_what_a_log_and_a_copy_hold() -> None:
    error = UnexpectedEnd("a frame")
    assert str(error) == "unexpected end of a frame"
    assert error.args == ("unexpected end of a frame",)
    assert isinstance(error, ProtocolError)


def test_an_error_keeps_its_fields_on_the_way_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(ConfigInvalid(["a", "b"])))
    assert isinstance(error, ConfigInvalid)
    assert (error.problems, str(error)) == (["a", "b"], "a\nb")


def test_two_errors_of_the_same_fields_are_still_two() -> None:
    assert UnexpectedEnd("a frame") != UnexpectedEnd("a frame")
    assert len({UnexpectedEnd("a frame"), UnexpectedEnd("a frame")}) == 2

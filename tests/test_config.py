"""What all configuration files have in common: strict YAML, durations, and errors that name the key."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from qanat.config import MAX_FILE_SIZE, Duration, Section, load, parse_duration, read_yaml, validate
from qanat.errors import ConfigInvalid


class Inner(Section):
    port: int


class Example(Section):
    name: str
    wait: Duration = timedelta(seconds=5)
    key: SecretStr | None = None
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0), ("30s", 30.0), ("1m30s", 90.0), ("500ms", 0.5), ("1.5h", 5400.0), ("2h45m", 9900.0),
        (".5s", 0.5), ("10us", 1e-5), ("10µs", 1e-5), ("0s", 0.0),
    ],
)  # fmt: skip
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "30", "-5s", "5 s", "s", "5x", "1m30", "five", "1e3s", "٣s", "9" * 20 + "h", "9" * 400 + "s"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


@given(st.text(max_size=20))
def test_no_text_breaks_the_reading_of_durations(text: str) -> None:
    try:
        assert parse_duration(text) >= timedelta()
    except ValueError:
        return


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "name is required"),
        ({"name": "a", "colour": "red"}, 'unknown field "colour"'),
        ({"name": "a", "wait": 30}, 'wait: invalid duration "30"'),
        ({"name": "a", "inner": {"port": "x"}}, "inner.port: "),
        ({"name": "a", "inner": {}}, "inner.port is required"),
    ],
)
def test_a_wrong_value_names_its_key(data: object, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as invalid:
        validate(Example, data)
    assert any(found.startswith(problem) for found in invalid.value.problems), invalid.value.problems


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigInvalid) as invalid:
        validate(Example, {"wait": 30, "colour": "red"})
    assert len(invalid.value.problems) == 3


def test_a_secret_is_in_no_error_and_in_no_repr() -> None:
    with pytest.raises(ConfigInvalid) as invalid:
        validate(Example, {"key": "hunter2", "name": ["hunter2"]})
    assert "hunter2" not in str(invalid.value)
    assert "hunter2" not in repr(validate(Example, {"name": "a", "key": "hunter2"}))


def test_a_file_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: a\nwait: 1m\n")
    assert load(Example, path).wait == timedelta(minutes=1)
    path.write_text("name: a\nname: b\n")
    with pytest.raises(ConfigInvalid, match='duplicate key "name"'):
        load(Example, path)
    path.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigInvalid):
        load(Example, path)
    path.write_text("{a: [")
    with pytest.raises(ConfigInvalid, match=r"config\.yaml"):
        load(Example, path)


@pytest.mark.parametrize(
    "text",
    [
        "day: 2026-13-45",
        "port: !!int x",
        "flag: !!bool maybe",
        "deep: " + "[" * 3000,
        "key: !thing x",
        "key: 'hidden\n",
    ],
)
def test_what_is_no_yaml_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"password: hidden\n{text}")
    with pytest.raises(ConfigInvalid) as refused:
        read_yaml(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "hidden" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no such file or directory"):
        read_yaml(tmp_path / "missing.yaml")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_FILE_SIZE + 1))
    with pytest.raises(ConfigInvalid, match="larger than"):
        read_yaml(large)

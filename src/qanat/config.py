"""What every configuration file has in common: strict YAML, frozen sections, errors that name the key.

Pydantic stands where text comes in; inside, parts use the frozen sections themselves or plain dataclasses.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from qanat.errors import ConfigInvalid

MAX_FILE_SIZE = 1024 * 1024
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")


def parse_duration(text: str) -> timedelta:
    """A duration in Go's syntax (`1m30s`, `500ms`). Raises `ValueError` for bare numbers and negative values."""
    if text == "0":
        return timedelta()
    position, seconds = 0, 0.0
    for match in _DURATION.finditer(text):
        if match.start() != position:
            break
        seconds += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not text or position != len(text):
        raise ValueError(f'invalid duration "{text}" (write it like 30s, 1m30s or 500ms)')
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise ValueError(f'invalid duration "{text}" (it is too long)') from None


def _to_duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError(f'invalid duration "{value}" (write it like 30s, 1m30s or 500ms)')


Duration = Annotated[timedelta, BeforeValidator(_to_duration)]


def split_address(text: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as a pair. Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'invalid address "{text}" (write it like 127.0.0.1:8787)')
    return host.strip("[]"), int(port)


def _check_address(text: str) -> str:
    split_address(text)
    return text


ListenAddress = Annotated[str, AfterValidator(_check_address)]
"""`host:port` where a server listens; port 0 takes a free one."""


class Section(BaseModel):
    """A part of a configuration file: frozen, and no unknown key slips through."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys and without tags of its own."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise yaml.constructor.ConstructorError(None, None, f'duplicate key "{key}"', key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The document in a YAML file. Raises `ConfigInvalid` with the operating system's or the parser's reason."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigInvalid([f"open {path}: {(error.strerror or str(error)).lower()}"]) from error
    if len(data) > MAX_FILE_SIZE:
        raise ConfigInvalid([f"{path}: larger than {MAX_FILE_SIZE} bytes"])
    try:
        return yaml.load(data, StrictLoader)  # noqa: S506 - StrictLoader is a SafeLoader
    except yaml.MarkedYAMLError as error:  # its own words show the lines around, which may hold secrets
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigInvalid([f"{path}: {line}{error.problem}"]) from error
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        RecursionError,
    ) as error:  # the last three: of dates, numbers, depth
        raise ConfigInvalid([f"{path}: {error}"]) from error


S = TypeVar("S", bound=BaseModel)


def validate(model: type[S], data: Any) -> S:
    """`data` as a section. Raises `ConfigInvalid` with one line for each wrong key."""
    try:
        return model.model_validate({} if data is None else data)
    except ValidationError as error:
        raise ConfigInvalid([describe(problem) for problem in error.errors()]) from None


def load(model: type[S], path: Path) -> S:
    """The section a YAML file holds. Raises `ConfigInvalid`."""
    return validate(model, read_yaml(path))


def describe(problem: Any) -> str:
    """One pydantic error as a line: the key's path, then what is wrong with it."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{where} is required"
    if problem["type"] == "extra_forbidden":
        return f'unknown field "{where}"'
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message

"""A form from a tool's input schema, and the arguments back from what was filled in. Pure.

What is no plain value becomes a text area for JSON; and instead of all fields the whole object can be written as JSON.
The kind of each field travels in its name, so that nothing has to be remembered between two pages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qanat.control.errors import Invalid

Kind = Literal["string", "number", "integer", "boolean", "choice", "json"]
PREFIX = "argument:"
WHOLE = "arguments"
"""The field with all arguments as one JSON object; it wins when it is filled in."""
MAX_FIELDS = 40
MAX_CHOICES = 100
PLAIN: dict[str, Kind] = {"string": "string", "number": "number", "integer": "integer", "boolean": "boolean"}


@dataclass(frozen=True)
class Field:
    """One argument."""

    label: str
    kind: Kind
    required: bool
    description: str
    choices: tuple[tuple[str, str], ...]
    """Value as sent, and text, for `choice` and `boolean`."""
    value: str

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.kind}:{self.label}"


def fields_of(schema: Mapping[str, Any], filled: Mapping[str, str]) -> list[Field]:
    """The fields of a schema's properties; none when it is not one of an object with a few of them."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or len(properties) > MAX_FIELDS:
        return []
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    return [_field(name, rule, name in names, filled) for name, rule in properties.items()]


def _field(name: str, rule: Any, required: bool, filled: Mapping[str, str]) -> Field:
    rule = _narrow(rule) if isinstance(rule, dict) else {}
    kind, choices = _kind(rule)
    field = Field(name, kind, required, str(rule.get("description") or "")[:500], choices, "")
    default = rule.get("default")
    value = filled.get(field.name, "" if default is None else _show(default, kind))
    return Field(name, kind, required, field.description, choices, value)


def _narrow(rule: dict[str, Any]) -> dict[str, Any]:
    """`X or null` as X: leaving the field empty says null's part."""
    for key in ("anyOf", "oneOf"):
        options = rule.get(key)
        if isinstance(options, list):
            left = [option for option in options if isinstance(option, dict) and option.get("type") != "null"]
            if len(left) == 1:
                return {**rule, **left[0]}
    kinds = rule.get("type")
    if isinstance(kinds, list) and len(left_kinds := [kind for kind in kinds if kind != "null"]) == 1:
        return {**rule, "type": left_kinds[0]}
    return rule


def _kind(rule: Mapping[str, Any]) -> tuple[Kind, tuple[tuple[str, str], ...]]:
    values = rule.get("enum")
    if isinstance(values, list) and 0 < len(values) <= MAX_CHOICES:
        return "choice", tuple((json.dumps(value), _show(value, "string")) for value in values)
    named = rule.get("type")
    kind = PLAIN.get(named, "json") if isinstance(named, str) else "json"
    return kind, (("true", "true"), ("false", "false")) if kind == "boolean" else ()


def _show(value: Any, kind: Kind) -> str:
    return value if kind == "string" and isinstance(value, str) else json.dumps(value)


def read_arguments(form: Mapping[str, str]) -> dict[str, Any]:
    """The arguments in a filled-in form. Raises `Invalid`."""
    if whole := form.get(WHOLE, "").strip():
        found = _parse(WHOLE, whole)
        if not isinstance(found, dict):
            raise Invalid(WHOLE, "must be a JSON object")
        return found
    found = {}
    for name, text in form.items():
        if name.startswith(PREFIX):
            kind, _, label = name.removeprefix(PREFIX).partition(":")
            if text != "":
                found[label] = text if kind == "string" else _typed(label, kind, text)
    return found


def _typed(label: str, kind: str, text: str) -> Any:
    value = _parse(label, text.strip())
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "number" and not is_number:
        raise Invalid(label, "must be a number")
    if kind == "integer":
        if not is_number or value != int(value):
            raise Invalid(label, "must be a whole number")
        return int(value)
    return value


def _parse(label: str, text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise Invalid(label, "is not JSON; text goes into double quotes") from None
    return value


def _no_constant(name: str) -> float:
    raise ValueError(name)

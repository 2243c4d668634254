"""Forms from input schemas, and arguments back from forms."""

from __future__ import annotations

from typing import Any

import pytest

from qanat.control.console.schema_form import MAX_FIELDS, fields_of, read_arguments


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ({"type": "string"}, "string"),
        ({"type": "integer"}, "integer"),
        ({"type": ["number", "null"]}, "number"),
        ({"type": ["number", "string"]}, "json"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "boolean"),
        ({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, "json"),
        ({"oneOf": [{"enum": [1, 2]}, {"type": "null"}]}, "choice"),
        ({"enum": []}, "json"),
        ({"enum": list(range(1000)), "type": "integer"}, "integer"),
        ({"type": "array"}, "json"),
        ({}, "json"),
        (True, "json"),
        ({"type": 7, "anyOf": 7, "enum": 7}, "json"),
    ],
)
def test_a_rule_becomes_a_field_of_a_kind(rule: Any, kind: str) -> None:
    (field,) = fields_of({"properties": {"x": rule}}, {})
    assert (field.kind, field.name) == (kind, f"argument:{kind}:x")


@pytest.mark.parametrize(
    "schema", [{}, {"properties": 7}, {"properties": {str(n): {} for n in range(MAX_FIELDS + 1)}}, {"properties": None}]
)
def test_a_schema_of_another_shape_has_no_fields(schema: dict[str, Any]) -> None:
    assert fields_of(schema, {}) == []


def test_what_a_field_shows_is_what_was_typed_else_the_default() -> None:
    schema = {"properties": {"a": {"type": "string", "default": "d"}, "b": {"default": [1]}, "c": {"type": "integer"}}}
    assert [field.value for field in fields_of({**schema, "required": 7}, {})] == ["d", "[1]", ""]
    assert [field.value for field in fields_of(schema, {"argument:string:a": "typed"})] == ["typed", "[1]", ""]


def test_every_kind_comes_back_as_it_was_meant() -> None:
    form = {
        "argument:string:a": " 1 ",
        "argument:integer:b": "5.0",
        "argument:number:c": "2.5",
        "argument:boolean:d": "false",
        "argument:choice:e": "null",
        "argument:json:f:g": '{"h": []}',
        "argument:string:empty": "",
        "route": "wiki",
    }
    assert read_arguments(form) == {"a": " 1 ", "b": 5, "c": 2.5, "d": False, "e": None, "f:g": {"h": []}}

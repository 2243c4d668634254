"""Every promise has a test that holds it or a reason why not yet; every mark on a test names a promise."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
AREAS = sorted(path.stem for path in (TESTS / "requirements").glob("[a-z]*.py"))


def table(area: str, name: str) -> dict[str, str]:
    found: dict[str, str] = getattr(importlib.import_module(f"tests.requirements.{area}"), name)
    return found


@cache
def marks() -> dict[str, list[str]]:
    """Every id that stands in a `@requirement(...)`, with the files where it does."""
    found: dict[str, list[str]] = {}
    for path in TESTS.rglob("*.py"):
        text = "" if "node_modules" in path.parts else path.read_text(encoding="utf-8")
        if "@requirement(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "requirement":
                for id in ids(node.args):
                    found.setdefault(id, []).append(str(path.relative_to(TESTS)))
    return found


def ids(arguments: list[ast.expr]) -> list[str]:
    """The ids that a mark's arguments stand for; they must not depend on anything outside of them."""
    call = ast.Call(ast.Name("list", ast.Load()), [ast.Tuple(arguments, ast.Load())], [])
    expression = ast.fix_missing_locations(ast.Expression(call))
    return [str(id) for id in eval(compile(expression, "mark", "eval"))]


@pytest.mark.parametrize("area", AREAS)
def test_every_promise_is_held_by_a_test_or_recorded_as_a_gap(area: str) -> None:
    open_ones = set(table(area, "REQUIREMENTS")) - set(marks()) - set(table(area, "GAPS"))
    assert sorted(open_ones) == []


@pytest.mark.parametrize("area", AREAS)
def test_a_gap_is_a_known_promise_with_a_reason(area: str) -> None:
    requirements = table(area, "REQUIREMENTS")
    for id, reason in table(area, "GAPS").items():
        assert id in requirements, f"{id} is no promise"
        assert len(reason) > 15, f"{id}: why?"


@pytest.mark.parametrize("area", AREAS)
def test_a_gap_is_closed_once_a_test_holds_the_promise(area: str) -> None:
    both = {id: marks()[id] for id in table(area, "GAPS") if id in marks()}
    assert both == {}, "take it out of GAPS, or say in the promise what remains"


def test_every_mark_names_a_promise() -> None:
    known = {id for area in AREAS for id in table(area, "REQUIREMENTS")}
    assert {id: where for id, where in marks().items() if id not in known} == {}


def test_no_promise_is_made_twice() -> None:
    ids = [id for area in AREAS for id in table(area, "REQUIREMENTS")]
    assert len(ids) == len(set(ids))

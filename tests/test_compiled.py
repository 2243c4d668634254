"""The byte path as its wheels hold it: these run against `.compiled`, by `make compiled`."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from enum import Enum
from pathlib import Path

import pytest

from qanat.net.process import is_compiled
from tests.support.requirements import requirement

ROOT = Path(__file__).parents[1]
HOOK = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
FILES: list[str] = HOOK["custom"]["modules"]
needs_compiled = pytest.mark.skipif(not is_compiled(), reason="the sources run plainly here; `make compiled` compiles")


@requirement("wire:compiled")
def test_what_is_to_be_compiled_is_there() -> None:
    assert [file for file in FILES if not (ROOT / "src" / file).exists()] == []


@requirement("wire:compiled")
@needs_compiled
@pytest.mark.parametrize("file", FILES)
def test_every_module_of_the_byte_path_is_native(file: str) -> None:
    name = _name(file)
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert module.__file__.endswith(".so")
    assert [kind.__name__ for kind in vars(module).values() if _is_ours(kind, name) and _is_plain(kind)] == []


@requirement("wire:compiled")
@pytest.mark.parametrize("file", FILES)
def test_no_class_of_the_byte_path_derives_from_one_that_is_interpreted(file: str) -> None:
    module = importlib.import_module(_name(file))
    ground = {*map(_name, FILES), "abc", "builtins", "enum", "typing"}
    kinds = [kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == module.__name__]
    wrong = {
        kind.__name__: base.__qualname__ for kind in kinds for base in kind.__mro__ if base.__module__ not in ground
    }
    assert wrong == {}, "the build may know such a base only as Any, and its instances then break in memory"


def _name(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def _is_ours(kind: object, module: str) -> bool:
    return inspect.isclass(kind) and kind.__module__ == module and not issubclass(kind, Enum)


def _is_plain(kind: type) -> bool:
    """Whether a class has methods that are Python functions: those of a native one are not."""
    return any(inspect.isfunction(value) for name, value in vars(kind).items() if not name.startswith("__"))

"""Ties tests to promises: `@requirement("proxy:11")` on a test, the promise itself in `tests/requirements/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

F = TypeVar("F", bound=Callable[..., object])


def requirement(*ids: str) -> Callable[[F], F]:
    """Mark a test as what holds these promises."""

    def mark(test: F) -> F:
        marked: F = pytest.mark.requirement(*ids)(test)
        return marked

    return mark

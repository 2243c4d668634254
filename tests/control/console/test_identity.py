"""What the forms for workload identity take."""

from __future__ import annotations

import pytest

from tests.support.console import sign_in, text_of
from tests.support.control import ControlThread


@pytest.mark.parametrize("name", ["Deploy Bot", "d\u00e9ploy", "a" * 256, "a\nb"])
def test_a_name_that_the_api_would_refuse_is_refused_here_too(control: ControlThread, name: str) -> None:
    person = sign_in(control.new_tenant())
    answer = person.post("/identity/accounts", name=name)
    assert answer.status_code == 400
    assert "small letters, digits and hyphens" in text_of(answer)
    assert "No service accounts." in text_of(person.get("/identity"))

"""Which credential counts, wherever it stands: the control plane and the gateway ask the same function."""

from __future__ import annotations

import pytest

from qanat.api.credential import presented_in


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"x-api-key": " k "}, "k"),
        ({"authorization": "bearer  t "}, "t"),
        ({"authorization": "Bearer t", "x-api-key": "k"}, "t"),
        ({"authorization": "", "x-api-key": "k"}, "k"),
        ({"authorization": "Bearer", "x-api-key": "k"}, None),
        ({"authorization": "Basic dTpw", "x-api-key": "k"}, None),
    ],
)
def test_authorization_wins_and_is_never_passed_over(headers: dict[str, str], found: str | None) -> None:
    assert presented_in(headers) == found

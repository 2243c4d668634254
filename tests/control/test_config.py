"""What a control plane's file may say."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.support.control import control_config


@pytest.mark.parametrize(
    "url",
    [
        "control.example.com",
        "HTTPS://control.example.com",
        "ftp://x",
        "https://",
        "https://a b",
        "https://u@x",
        "https://x?y",
    ],
)
def test_a_public_url_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    """Without its scheme, cookies were sent over plain HTTP too, and an empty audience was one of the expected."""
    with pytest.raises(ValidationError, match="must look like https://host"):
        control_config(tmp_path, public_url=url)


@pytest.mark.parametrize("url", ["", "https://control.example.com", "http://127.0.0.1:8787/", "https://[::1]:8443"])
def test_a_public_url_is_taken_as_it_is(tmp_path: Path, url: str) -> None:
    assert control_config(tmp_path, public_url=url).public_url == url

"""A running Tunnels API, an empty directory, and `setup` as a person calls it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qanat.cli.setup import app
from tests.support.tunnels_api import API_KEY, TunnelsAPI, tunnels_api

SETTINGS = (
    *("API_URL", "API_TOKEN", "API_CA_FILE", "TUNNEL_ID", "TUNNEL_NAME", "KUBERNETES_SERVICE_HOST"),
    *("ANTHROPIC_FEDERATION_RULE_ID", "ANTHROPIC_ORGANIZATION_ID", "ANTHROPIC_WORKSPACE_ID"),
    *("ANTHROPIC_IDENTITY_TOKEN", "ANTHROPIC_IDENTITY_TOKEN_FILE", "ANTHROPIC_SERVICE_ACCOUNT_ID"),
)


@pytest.fixture
def api() -> Iterator[TunnelsAPI]:
    with tunnels_api() as running:
        yield running


@dataclass
class Setup:
    """Calls the command in this process, with an environment of its own."""

    api: TunnelsAPI
    data: Path
    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str, expect: int = 0, **environment: str) -> str:
        """What the command prints, both streams."""
        with self.monkeypatch.context() as patched:
            for name in SETTINGS:
                patched.delenv(name, raising=False)
            for name, value in ({"API_URL": self.api.url, "API_TOKEN": API_KEY} | environment).items():
                patched.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                app(list(arguments))
        printed = self.capture.readouterr()
        assert ended.value.code == expect, printed
        return printed.out + printed.err

    def init(self, *arguments: str, expect: int = 0, **environment: str) -> str:
        return self("init", f"--output=dir:{self.data}", *arguments, expect=expect, **environment)

    def renew(self, *arguments: str, expect: int = 0) -> str:
        return self("renew-cert", f"--output=dir:{self.data}", *arguments, expect=expect)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.data.iterdir())}

    def text(self, name: str) -> str:
        return (self.data / name).read_text()


@pytest.fixture
def setup(
    api: TunnelsAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Setup:
    data = tmp_path / "data"
    data.mkdir()
    return Setup(api, data, monkeypatch, capsys)

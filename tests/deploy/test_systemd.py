"""The systemd units: systemd itself reads them, and rates how much they expose."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qanat.cli import COMMANDS

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NAMES = [path.name for path in sorted(UNITS.glob("*.service"))]
MOST_EXPOSED = 20  # tenths of systemd's scale of ten; its own services are between 50 and 96
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with this environment's command in the place of the installed one."""
    qanat = str(Path(sys.executable).with_name("qanat"))
    for path in UNITS.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/local/bin/qanat", qanat))
    return tmp_path


@needs_systemd
def test_systemd_understands_every_line(installed: Path) -> None:
    said = analyze("verify", *(str(installed / name) for name in [*NAMES, "qanat-renew.timer"]))
    assert [line for line in said.splitlines() if "qanat" in line] == []


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_a_unit_exposes_little(name: str) -> None:
    analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(UNITS / name))


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_runs_a_command_we_have_as_a_user_of_its_own(name: str) -> None:
    text = (UNITS / name).read_text()
    command = re.search(r"^ExecStart=/usr/local/bin/qanat ([\w-]+)", text, re.MULTILINE)
    assert command
    assert command[1] in COMMANDS
    user = re.search(r"^User=(\S+)$", text, re.MULTILINE)
    assert user
    assert f"u {user[1]} " in (UNITS / "qanat.sysusers").read_text()


def test_no_guide_kills_a_unit_that_would_start_again() -> None:
    for page in (UNITS.parents[1] / "docs").rglob("*.md"):
        for command in re.findall(r"`([^`]*systemctl kill -s KILL[^`]*)`", page.read_text()):
            assert "systemctl disable --now --no-block" in command, page


def test_renewal_has_no_network_and_runs_daily() -> None:
    assert "PrivateNetwork=yes" in (UNITS / "qanat-renew.service").read_text()
    assert "OnCalendar=daily" in (UNITS / "qanat-renew.timer").read_text()

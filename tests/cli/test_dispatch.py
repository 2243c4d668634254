"""The `qanat` command before any part is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qanat.cli import COMMANDS, overview

RUN = "import sys; from qanat.cli import main; sys.argv[0] = 'qanat'; main()"


def run(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", before + RUN, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_overview_names_every_command() -> None:
    for name, (_, text) in COMMANDS.items():
        assert name in overview()
        assert text in overview()


def test_help_is_no_failure_and_nothing_at_all_is_misuse() -> None:
    assert run("--help").returncode == 0
    assert run().returncode == 2
    assert run("--version").stdout.startswith("qanat ")


def test_a_misspelt_command_is_misuse_and_is_told_the_right_one() -> None:
    done = run("proxi")
    assert done.returncode == 2
    assert "did you mean 'proxy'?" in done.stderr


def test_help_loads_no_part() -> None:
    """It must work, quickly, where the operator's packages are missing."""
    loaded = "import atexit, sys; atexit.register(lambda: print(sorted(m for m in sys.modules if 'qanat.' in m)));"
    assert run("--help", before=loaded).stdout.splitlines()[-1] == "['qanat.cli']"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["control", "dev"])
def test_a_missing_server_package_is_named_with_the_way_to_install_it(part: str, tmp_path: Path) -> None:
    config = tmp_path / "control.yaml"
    config.write_text(f"data_dir: {tmp_path}\n")
    block = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('fastapi', 'starlette', 'uvicorn', 'sqlalchemy', 'mcp'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Missing())
"""
    done = run(part, *(["--config", str(config)] if part == "control" else []), before=block)
    assert done.returncode == 1
    assert "pip install 'qanat[server]'" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr

"""Compiles the byte path into the wheel with mypyc, when asked to: `HATCH_BUILD_HOOK_ENABLE_CUSTOM=true pip wheel .`

The sources stay beside what is made of them, for tracebacks and for whoever runs them plainly (docs/decisions/0022).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "src"
CHECKER = ("--config-file=", "--ignore-missing-imports", "--follow-imports=silent")
"""For mypyc's own reading: the build has none of our dependencies, and `make check` is who judges types."""


class CompileHook(BuildHookInterface[Any]):
    """Adds native modules to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is put together."""
        if version == "editable":
            return
        self._work = TemporaryDirectory(prefix="qanat-compiled-")
        with contextlib.chdir(Path(self.root, SOURCE)):
            made = _compile(self.config["modules"], Path(self._work.name))
        build_data["force_include"] |= made
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when it is there."""
        if version != "editable":
            self._work.cleanup()


def _compile(modules: list[str], work: Path) -> dict[str, str]:
    """Compile modules, as paths below `SOURCE`; from each file that was made to its place in the wheel."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    extensions = mypycify(
        [*CHECKER, f"--cache-dir={work}", *modules],
        opt_level="3",
        debug_level="0",
        group_name="qanat",
        target_dir=str(work / "c"),
    )
    command = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(work / "lib"), str(work / "temp")
    command.ensure_finalized()
    command.run()
    return {str(path): str(path.relative_to(work / "lib")) for path in (work / "lib").rglob("*.so")}

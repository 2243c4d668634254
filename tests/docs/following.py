"""Following a how-to: its fenced blocks, run as a shell would, with stand-ins for what this machine does not have."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOWTO = ROOT / "docs" / "howto"
BLOCK = re.compile(r"(?:<!-- run: (\w+) -->\n)?^( *)```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
IMAGE = f"example.net/image@sha256:{'d' * 64}"


@dataclass(frozen=True)
class Block:
    variant: str
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = []
    for variant, indent, language, text in BLOCK.findall((HOWTO / page).read_text()):
        found.append(Block(variant, language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)))
    return found


@dataclass
class Follower:
    """Runs a page's blocks in a folder, with stand-ins for what this machine does not have."""

    work: Path
    state: Path

    def install(self) -> None:
        """Put the stand-ins where a shell finds them."""
        shims = self.state / "bin"
        shims.mkdir(parents=True)
        (shims / "qanat").symlink_to(Path(sys.executable).with_name("qanat"))
        for name in ("docker", "helm", "kubectl", "sudo"):
            script = f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{str(ROOT)!r}]\n"
            (shims / name).write_text(f"{script}from tests.docs.shims import main\nmain()\n")
            (shims / name).chmod(0o755)

    def environment(self) -> dict[str, str]:
        raise NotImplementedError

    async def do(self, text: str, **more: str) -> str:
        """Run one block as a shell would, stopping at the first failure."""
        environment = self.environment() | more
        script = f"set -euo pipefail\n{text}"
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script), cwd=self.work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(120):
                output = (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        logs = "\n".join(path.read_text() for path in self.state.glob("*.log"))
        assert process.returncode == 0, f"{text}\n--- said:\n{output}\n--- logs:\n{logs[-4000:]}"
        return output

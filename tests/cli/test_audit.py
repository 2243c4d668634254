"""`qanat audit verify` as an auditor runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qanat.proxy.policy.audit import Chain


def verify(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "qanat", "audit", "verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, input=stdin, check=False, timeout=60)


def test_a_sound_log_passes_and_a_changed_line_is_named(tmp_path: Path) -> None:
    log, key = tmp_path / "audit.log", tmp_path / "key"
    key.write_bytes(b"k" * 32)
    chain = Chain(b"k" * 32)
    lines = [chain.append({"tool": f"t{number}"}) for number in range(3)]
    log.write_bytes(b"".join(lines))
    sound = verify(log, "--key-file", key)
    assert (sound.returncode, sound.stderr) == (0, b"")
    assert chain.head in sound.stdout.decode()
    changed = verify("-", "--key-file", key, stdin=lines[0] + lines[1].replace(b"t1", b"tX") + lines[2])
    assert (changed.returncode, changed.stdout) == (1, b"")
    assert b"line 2: was changed" in changed.stderr
    cut = verify("-", "--key-file", key, "--head", chain.head, stdin=b"".join(lines[:2]))
    assert cut.returncode == 1
    assert b"the end was cut off" in cut.stderr
    assert verify(tmp_path / "nowhere").returncode == 2

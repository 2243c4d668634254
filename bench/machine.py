"""What was measured on: the machine, and the versions of everything that took part."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.chains import CHAINS
from qanat.net.process import is_compiled

OTHERS = {"nginx": ["nginx", "-v"], "haproxy": ["haproxy", "-v"], "ssh": ["ssh", "-V"]}


def describe_machine() -> dict[str, str]:
    """Names and versions, for people."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": f"{platform.python_version()}, {_python_origin()}",
        "qanat": f"qanat {version('qanat')}{_revision()}, byte path {'compiled' if is_compiled() else 'not compiled'}",
        "uvloop": f"uvloop {version('uvloop')}",
        "openssl": ssl.OPENSSL_VERSION,
        **_others(),
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())


def _python_origin() -> str:
    """Distributions optimise their interpreters by profile, which is worth a tenth; one built by hand may not be."""
    return "the system's build" if sys.base_prefix == "/usr" else "a build of its own"


def _revision() -> str:
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return f" ({answer.stdout.strip()})" if answer.returncode == 0 else ""


def _others() -> dict[str, str]:
    commands = dict(OTHERS)
    if not CHAINS["cloudflared"].missing:
        commands["cloudflared"] = [os.environ["QANAT_CLOUDFLARED"], "--version"]
    return {name: _first_line(command) for name, command in commands.items() if not CHAINS[name].missing}


def _first_line(command: list[str]) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return (answer.stdout + answer.stderr).splitlines()[0].strip()

"""Throwaway certificates: `throwaway_ca()`, what it signs, and the openssl command as the second witness."""

from __future__ import annotations

import secrets
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from qanat.pki.issue import issue_ca, issue_server, serial_number
from qanat.pki.material import Pair

DOMAIN = "q7m2x9ab.tunnel.example.net"


def now() -> datetime:
    return datetime.now(UTC)


def serial() -> int:
    return serial_number(secrets.token_bytes(16))


def throwaway_ca(name: str = "mcp-tunnel-ca") -> Pair:
    """A CA valid from five minutes ago, for five years."""
    return issue_ca(name, now(), serial())


def throwaway_server(ca: Pair, domain: str = DOMAIN) -> Pair:
    """A server certificate for `*.domain` and `domain`, valid for 90 days."""
    return issue_server(ca, domain, now(), serial())


def openssl(*arguments: str, cwd: Path | None = None) -> str:
    """What `openssl <arguments>` prints; a failure is an AssertionError with its output."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False, timeout=60, cwd=cwd)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def documented_ca(folder: Path, *, bits: int = 2048, digest: str = "sha256", days: int = 3650) -> Path:
    """The CA of the manual recipe, made with openssl alone: `ca.key` and `ca.crt` in `folder`."""
    openssl("genrsa", "-out", "ca.key", str(bits), cwd=folder)
    openssl(
        *("req", "-x509", "-new", "-key", "ca.key", f"-{digest}", "-days", str(days)),
        *("-subj", "/CN=mcp-tunnel-ca", "-out", "ca.crt"),
        *("-addext", "basicConstraints=critical,CA:TRUE"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        *("-addext", "subjectKeyIdentifier=hash"),
        cwd=folder,
    )
    return folder / "ca.crt"


def documented_server(folder: Path, domain: str = DOMAIN) -> Path:
    """The server certificate of the manual recipe, signed by `documented_ca`: `tls.key` and `tls.crt` in `folder`."""
    extensions = [
        f"subjectAltName = DNS:{domain},DNS:*.{domain}",
        "authorityKeyIdentifier = keyid,issuer",
        "extendedKeyUsage = serverAuth",
    ]
    (folder / "server.ext").write_text("\n".join(extensions) + "\n")
    openssl("genrsa", "-out", "tls.key", "2048", cwd=folder)
    openssl("req", "-new", "-key", "tls.key", "-subj", f"/CN={domain}", "-out", "tls.csr", cwd=folder)
    openssl(
        *("x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "90", "-sha256", "-extfile", "server.ext", "-out", "tls.crt"),
        cwd=folder,
    )
    return folder / "tls.crt"

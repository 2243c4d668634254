"""A PostgreSQL of our own: Debian's package, an unprivileged user, loopback, a directory that is thrown away."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port

TRIES = 5
INITDB = ("-A", "trust", "-N", "--locale=C", "-E", "UTF8")
PASSWORDS = """host all {superuser} 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""


def find_programs() -> Path | None:
    """Where `initdb` and `pg_ctl` are; Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).resolve().parent


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    programs: Path
    port: int
    directory: Path
    superuser: str = "qanat"
    """Needs no password; everybody else does where the server is `strict`."""

    @property
    def data(self) -> Path:
        """Where everything it keeps is."""
        return self.directory / "data"

    def new_database(self) -> str:
        """The URL of a fresh, empty database."""
        name = f"test_{secrets.token_hex(6)}"
        _run(self.programs / "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", self.superuser, name)
        return f"postgresql://qanat@127.0.0.1:{self.port}/{name}"

    def write_out(self) -> None:
        """Put on the disk what is still in memory."""
        self.execute("CHECKPOINT")

    def execute(self, statement: str, database: str = "postgres") -> str:
        """What `psql` prints for a statement of the superuser's."""
        options = ("-h", "127.0.0.1", "-p", str(self.port), "-U", self.superuser, "-tAc", statement, database)
        return _run(self.programs / "psql", *options)


def _user() -> str | None:
    """PostgreSQL refuses to run as root: then it runs as nobody."""
    return "nobody" if os.getuid() == 0 else None


def _run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], user=_user(), capture_output=True, text=True, timeout=120, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def running_postgres(programs: Path, *, strict: bool = False) -> Iterator[Postgres]:
    """Start a server, and stop it. A `strict` one asks everybody but its superuser for a password."""
    directory = Path(tempfile.mkdtemp(prefix="qanat-postgres-"))
    if (user := _user()) is not None:
        account = pwd.getpwnam(user)
        os.chown(directory, account.pw_uid, account.pw_gid)
    try:
        superuser = "administrator" if strict else "qanat"
        _run(programs / "initdb", "-D", directory / "data", "-U", superuser, *INITDB)
        if strict:
            (directory / "data" / "pg_hba.conf").write_text(PASSWORDS.format(superuser=superuser))
        server = _start(programs, directory, superuser)
        try:
            yield server
        finally:
            _run(programs / "pg_ctl", "-D", server.data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _start(programs: Path, directory: Path, superuser: str) -> Postgres:
    """On a port that was free a moment ago; when somebody else was quicker, on another."""
    data, log = directory / "data", directory / "log"
    for _ in range(TRIES):
        port = free_port()
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        options += " -c fsync=off -c max_connections=200"
        try:
            _run(programs / "pg_ctl", "-D", data, "-l", log, "-w", "-t", "60", "-o", options, "start")
        except AssertionError:
            if "Address already in use" not in log.read_text():
                raise AssertionError(log.read_text()) from None
            log.unlink()
            continue
        return Postgres(programs, port, directory, superuser)
    raise AssertionError(f"no port stayed free {TRIES} times")

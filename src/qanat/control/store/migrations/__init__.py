"""Schema migrations (Alembic). `upgrade` brings a database to the newest."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from qanat.errors import ConfigInvalid

LOCK = 0x71616E6174  # "qanat": two processes that start at once on PostgreSQL must not both migrate


def upgrade(connection: Connection) -> None:
    """Run what this database has not seen yet, inside the caller's transaction.

    Raises `ConfigInvalid` for a database that a newer version has migrated.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:  # the only revision that can be unknown is one of the future
        raise ConfigInvalid(
            ["database_url: its schema is of a newer version; start that one, or restore a backup"]
        ) from None

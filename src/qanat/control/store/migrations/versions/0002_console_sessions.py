"""People signed in to the console."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    from qanat.control.store.tables import ConsoleSessionRow

    ConsoleSessionRow.metadata.create_all(op.get_bind(), tables=[ConsoleSessionRow.metadata.tables["console_sessions"]])


def downgrade() -> None:
    op.drop_table("console_sessions")

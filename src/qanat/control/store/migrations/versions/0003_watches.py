"""Routes that gateways probe."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "watches",
        sa.Column("tunnel_id", sa.String(length=128), nullable=False),
        sa.Column("route", sa.String(length=253), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=True),
        sa.Column("hop", sa.String(length=32), nullable=True),
        sa.Column("error", sa.String(length=1024), nullable=True),
        sa.Column("times", sa.JSON(), nullable=False),
        sa.Column("node", sa.String(length=128), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tunnel_id", "route", "path"),
    )


def downgrade() -> None:
    op.drop_table("watches")

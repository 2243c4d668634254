"""What was seen of a tunnel before, and the streams of its traffic."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
STREAMS = ("streams_opened", "streams_open")


def upgrade() -> None:
    op.create_table(
        "first_times",
        sa.Column("tunnel_id", sa.String(length=128), nullable=False),
        sa.Column("what", sa.String(length=80), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tunnel_id", "what"),
    )
    for name in STREAMS:
        op.add_column("traffic", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    for name in STREAMS:
        op.drop_column("traffic", name)
    op.drop_table("first_times")

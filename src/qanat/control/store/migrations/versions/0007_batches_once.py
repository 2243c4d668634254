"""Batches of events that were heard, so that none counts twice; open streams of each node, to be added."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "event_batches",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "open_streams",
        sa.Column("tunnel_id", sa.String(length=128), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("node", sa.String(length=128), nullable=False),
        sa.Column("most", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tunnel_id", "minute", "node"),
    )
    op.execute(
        "INSERT INTO open_streams (tunnel_id, minute, node, most) "
        "SELECT tunnel_id, minute, '', streams_open FROM traffic WHERE streams_open > 0"
    )
    # traffic.streams_open stays: processes of the version before write it until they are replaced.


def downgrade() -> None:
    op.execute(
        "UPDATE traffic SET streams_open = coalesce((SELECT max(most) FROM open_streams "
        "WHERE open_streams.tunnel_id = traffic.tunnel_id AND open_streams.minute = traffic.minute), 0)"
    )
    op.drop_table("open_streams")
    op.drop_table("event_batches")

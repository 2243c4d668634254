"""When each edge node was last heard of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "edge_nodes",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("instance", sa.String(length=64), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "instance"),
    )


def downgrade() -> None:
    op.drop_table("edge_nodes")

"""The first schema."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    from qanat.control.store.tables import Table

    Table.metadata.create_all(op.get_bind())


def downgrade() -> None:
    raise NotImplementedError("the first schema has nothing before it")

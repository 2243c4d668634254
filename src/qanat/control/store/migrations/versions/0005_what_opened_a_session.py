"""What opened a console session. Older sessions cannot tell, and end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM console_sessions")
    op.add_column("console_sessions", sa.Column("credential_id", sa.String(length=128), nullable=True))
    op.add_column("console_sessions", sa.Column("issuer", sa.Text(), nullable=True))
    op.add_column("console_sessions", sa.Column("id_token_sealed", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    for name in ("credential_id", "issuer", "id_token_sealed"):
        op.drop_column("console_sessions", name)

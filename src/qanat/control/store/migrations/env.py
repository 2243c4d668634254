"""Alembic's entry: migrate over the connection we were given."""

from __future__ import annotations

from alembic import context

from qanat.control.store.tables import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True
)
context.run_migrations()

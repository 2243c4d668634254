"""The SQL store: tables, transactions, migrations, and secrets sealed at rest."""

"""The promises: per area a `REQUIREMENTS` table, id to sentence, and the `GAPS` known to be open, id to reason."""

"""Two MCP servers to try the tunnel with: a ticketing system and a knowledge base, each over real data in SQLite."""

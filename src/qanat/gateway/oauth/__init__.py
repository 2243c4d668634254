"""Signing in at MCP servers for a user: discovery, consent in the browser, tokens kept in vaults and refreshed."""

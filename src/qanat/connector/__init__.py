"""The connector: keeps connections to the edge alive, and hands each stream to the proxy."""

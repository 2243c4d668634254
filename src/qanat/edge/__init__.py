"""The edge: meets clients and connectors, and gives each request to a live connection of its tunnel.

It routes by hostname and relays ciphertext; what is inside a stream it can neither read nor change.
"""

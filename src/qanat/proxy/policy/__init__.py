"""What a route may add to plain forwarding: sign-in, tool policy, rate limits, audit. All of it off by default.

Only a route that asks for one of these has its bodies read; every other route stays a byte pipe.
"""

"""The web console: server-rendered pages over the control plane's operations, with a little script of our own.

Every change works without script. Nothing is loaded from anywhere else.
"""

"""Provision a stack: `init`, `renew-cert`, `archive`, and where their output goes (a directory or a Secret).

A run may be killed anywhere: everything it writes together appears together, and the next run goes on from there.
"""

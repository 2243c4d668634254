"""The routing proxy: the one place in a customer's network where payloads can be read.

It ends the inner TLS session, chooses the upstream by hostname, checks the address it is about to dial, and forwards
HTTP without understanding it. Start reading in `proxy.py`; one request's way is `inner_http2.py` (or `inner_http1.py`),
`exchange.py`, `upstream.py`.
"""

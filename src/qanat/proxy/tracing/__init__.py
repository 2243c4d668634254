"""Spans: what a request cost and where, beside the spans of whoever sent it and of the server that answered."""

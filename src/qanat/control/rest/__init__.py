"""REST: the operations over HTTP, with the error envelope and the headers that official SDKs expect."""

"""An MCP server that speaks JSON-RPC lines on its standard input and output, served as Streamable HTTP.

Only for routes that ask for it. The program, its arguments and its environment come from the configuration alone;
nothing of a request ever reaches a command line.
"""

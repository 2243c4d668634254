"""The gateway: the Messages API with the MCP connector, for any model.

It asks MCP servers for their tools, lets the model choose, runs what it chose, and answers in one response. Private
servers are reached through their tunnel; public ones only where the configuration allows it.
"""

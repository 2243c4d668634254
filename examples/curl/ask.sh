#!/bin/sh
# Ask a model to use the MCP server "tickets", which listens nowhere but inside its own network.
set -eu

curl --fail-with-body --silent --show-error "$ANTHROPIC_BASE_URL/v1/messages" \
    --header "x-api-key: $ANTHROPIC_API_KEY" \
    --header "anthropic-version: 2023-06-01" \
    --header "anthropic-beta: mcp-client-2025-11-20" \
    --header "content-type: application/json" \
    --data @- <<BODY
{
  "model": "${QANAT_MODEL:-qanat-demo}",
  "max_tokens": 1024,
  "messages": [{"role": "user", "content": "List the open tickets"}],
  "mcp_servers": [{"type": "url", "url": "https://tickets.$TUNNEL_DOMAIN/mcp", "name": "tickets"}],
  "tools": [{"type": "mcp_toolset", "mcp_server_name": "tickets"}]
}
BODY

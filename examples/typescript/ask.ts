// Ask a model to use the MCP server "tickets", which listens nowhere but inside its own network.
// The official SDK, unmodified: it reads ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic();
const message = await client.beta.messages.create({
  model: process.env.QANAT_MODEL ?? "qanat-demo",
  max_tokens: 1024,
  messages: [{ role: "user", content: "List the open tickets" }],
  mcp_servers: [{ type: "url", url: `https://tickets.${process.env.TUNNEL_DOMAIN}/mcp`, name: "tickets" }],
  tools: [{ type: "mcp_toolset", mcp_server_name: "tickets" }],
  betas: ["mcp-client-2025-11-20"],
});
for (const block of message.content) {
  if (block.type === "mcp_tool_use") console.log(`[${block.server_name}.${block.name} ${JSON.stringify(block.input)}]`);
  else if (block.type === "text") console.log(block.text);
}

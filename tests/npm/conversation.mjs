// Talks to a gateway with the TypeScript SDK, and prints what it saw as JSON.
import Anthropic from "@anthropic-ai/sdk";

const [url, key, wiki] = process.argv.slice(2);
const client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
const options = {
  model: "stub",
  max_tokens: 1000,
  mcp_servers: [{ type: "url", url: wiki, name: "wiki" }],
  tools: [{ type: "mcp_toolset", mcp_server_name: "wiki" }],
  betas: ["mcp-client-2025-11-20"],
};
const weather = { name: "weather", description: "d", input_schema: { type: "object" } };
const ask = (question, changes = {}) => ({
  ...options,
  messages: [{ role: "user", content: question }],
  ...changes,
});
const summary = (message) => ({
  types: message.content.map((block) => block.type),
  stop_reason: message.stop_reason,
  servers: message.content.map((block) => block.server_name ?? null),
  pairs: message.content.map((block) => block.tool_use_id ?? block.id ?? null),
  tokens: [message.usage.input_tokens, message.usage.output_tokens],
  iterations: (message.usage.iterations ?? []).map((item) => [item.input_tokens, item.output_tokens]),
});

const seen = {};
const one = await client.beta.messages.create(ask("one"));
seen.one = summary(one);
seen.streamed = summary(await client.beta.messages.stream(ask("one")).finalMessage());
seen.raw = [];
for await (const event of await client.beta.messages.create(ask("one", { stream: true }))) {
  seen.raw.push([event.type, event.index ?? null]);
}
seen.two = summary(await client.beta.messages.create(ask("two")));
const replay = [
  { role: "user", content: "one" },
  { role: "assistant", content: one.content },
  { role: "user", content: "more" },
];
seen.replayed = summary(await client.beta.messages.create(ask("", { messages: replay })));
const tools = [weather, ...options.tools];
const mixed = await client.beta.messages.create(ask("mixed", { tools }));
seen.mixed = summary(mixed);
const resume = [
  { role: "user", content: "mixed" },
  { role: "assistant", content: mixed.content },
  { role: "user", content: [{ type: "tool_result", tool_use_id: mixed.content[0].id, content: "sunny" }] },
];
seen.resumed = summary(await client.beta.messages.create(ask("", { messages: resume, tools })));
for (const question of ["two", "mixed"]) {
  const stream = client.beta.messages.stream(ask(question, { tools }));
  seen[`${question}_streamed`] = summary(await stream.finalMessage());
}
const server = { ...options.mcp_servers[0], tool_configuration: { allowed_tools: ["search"] } };
const old = { mcp_servers: [server], tools: [], betas: ["mcp-client-2025-04-04"] };
seen.deprecated = summary(await client.beta.messages.create(ask("one", old)));
seen.refused = [];
for (const changes of [
  { tools: [] },
  { tools: [{ type: "mcp_toolset", mcp_server_name: "nobody" }] },
  { betas: [] },
]) {
  for (const stream of [false, true]) {
    await client.beta.messages.create(ask("one", { ...changes, stream })).catch((error) => {
      if (error instanceof Anthropic.BadRequestError) seen.refused.push(error.error.error.type);
    });
  }
}
seen.models = [];
for await (const model of client.models.list()) seen.models.push(model.id);
seen.models.sort();
seen.missing = await client.models.retrieve("nope").then(
  (model) => model.id,
  (error) => (error instanceof Anthropic.NotFoundError ? "not found" : String(error)),
);
const { max_tokens, ...counting } = ask("one");
const bare = { ...counting, mcp_servers: [], tools: [] };
const counts = [];
for (const body of [bare, counting]) {
  counts.push((await client.beta.messages.countTokens(body)).input_tokens);
}
seen.counts_tools = counts[0] < counts[1];
console.log(JSON.stringify(seen));

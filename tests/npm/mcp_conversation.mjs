// The official TypeScript client talks to an everything-server and prints what came of it, as one line of JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const client = new Client({ name: "conversation", version: "1" }, { capabilities: {} });
await client.connect(new StreamableHTTPClientTransport(new URL(process.argv[2])));
let progress = 0;
const onprogress = () => progress++;
const tools = (await client.listTools()).tools.map((tool) => tool.name).sort();
const echo = await client.callTool({ name: "echo", arguments: { message: "water" } });
const slow = tools.find((name) => /long-?running/i.test(name));
const long = await client.callTool({ name: slow, arguments: { duration: 1, steps: 4 } }, undefined, { onprogress });
const resources = (await client.listResources()).resources.length;
const prompts = (await client.listPrompts()).prompts.map((prompt) => prompt.name).sort();
await client.close();
console.log(JSON.stringify({ tools, echo: echo.content[0].text, long: long.content, progress, resources, prompts }));

// The flows of sdk_flows.py with the official TypeScript SDK. Reads the same JSON, prints what it saw.
import Anthropic from "@anthropic-ai/sdk";
import { readFileSync } from "node:fs";

const given = JSON.parse(readFileSync(0, "utf8"));
const requests = [];
const recording = async (url, init) => {
  const parsed = new URL(String(url.url ?? url));
  const query = Object.fromEntries(parsed.searchParams);
  delete query.beta;
  requests.push({ method: init.method.toUpperCase(), path: parsed.pathname, query, body: init.body ?? "" });
  return fetch(url, init);
};
const client = new Anthropic({ baseURL: given.url, authToken: given.token, apiKey: null, fetch: recording });
const tunnels = client.beta.tunnels;
const seen = {};

const first = await tunnels.create({});
seen.create = { ...requests[0], name: first.display_name, type: first.type, archived: first.archived_at };
seen.request_id = first._request_id;
seen.longest = (await tunnels.create({ display_name: "x".repeat(255) })).display_name.length;
let sent = requests.length;
try {
  await tunnels.create({ display_name: "x".repeat(256) });
} catch (error) {
  seen.too_long = { message: String(error.message), attempts: requests.length - sent, name: error.constructor.name };
}
const made = [first.id];
for (let n = 0; n < 3; n++) made.push((await tunnels.create({})).id);
sent = requests.length;
seen.listed = [];
for await (const tunnel of tunnels.list({ limit: 2 })) seen.listed.push(tunnel.id);
seen.pages = requests.slice(sent).map((request) => request.query);
await tunnels.certificates.create(first.id, { ca_certificate_pem: given.ca_pem });
const token = await tunnels.revealToken(first.id, {});
seen.token = [token.id, (await tunnels.revealToken(first.id, {})).id, (await tunnels.rotateToken(first.id, {})).id];
seen.archived = [(await tunnels.archive(first.id, {})).archived_at, (await tunnels.archive(first.id, {})).archived_at];
for await (const item of tunnels.certificates.list(first.id, { include_archived: true }))
  seen.archived.push(item.archived_at);
seen.still_listed = [];
for await (const item of tunnels.certificates.list(first.id, {})) seen.still_listed.push(item.id);
seen.not_found = await tunnels.retrieve("tnl_01unknown", {}).catch((error) => error.status === 404);
seen.made = made;
console.log(JSON.stringify({ version: "typescript", tunnels: seen }));

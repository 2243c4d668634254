// A real OpenID provider (npm oidc-provider) on loopback, over TLS, for one test.
// Settings come as JSON in the first argument: issuer, port, cert, key, keys (private JWKs), clients, resources
// (resource URL to scopes), ttl, accounts (login to claims, in userinfo as the standard has it). Prints "ready" once it
// listens.
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { Provider } from "oidc-provider";

const settings = JSON.parse(process.argv[2]);

const people = settings.accounts && {
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"], groups: ["groups"] },
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id, ...settings.accounts[id] }) }),
};
const provider = new Provider(settings.issuer, {
  ...people,
  clients: settings.clients,
  jwks: { keys: settings.keys },
  scopes: ["openid", "offline_access", ...(people ? Object.keys(people.claims) : []), ...new Set(Object.values(settings.resources).flatMap((scope) => scope.split(" ")))],
  ttl: { ClientCredentials: settings.ttl ?? 600, AccessToken: settings.ttl ?? 600 },
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    devInteractions: { enabled: settings.interactions ?? false },
    registration: { enabled: settings.registration ?? false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (_context, resource) => ({
        scope: settings.resources[resource] ?? "",
        audience: resource,
        accessTokenFormat: "jwt",
        jwt: { sign: { alg: settings.keys[0].alg } },
      }),
    },
  },
});
provider.on("server_error", (_context, error) => console.error("server_error", error));

const tls = { cert: readFileSync(settings.cert), key: readFileSync(settings.key) };
createServer(tls, provider.callback()).listen(settings.port, "127.0.0.1", () => console.log("ready"));

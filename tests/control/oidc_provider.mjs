// A real OpenID provider for tests: client credentials in, a signed JWT out, over TLS. Takes its certificate as
// arguments, prints its port; each line on standard input makes a new signing key the only one it uses.
import { createServer } from "node:https";
import { generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import Provider from "oidc-provider";

const [certificate, key] = process.argv.slice(2).map((path) => readFileSync(path));
const audience = "https://control.example";
let generation = 0;
let published = [];
let current;

function rotate(issuer) {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const jwk = { ...privateKey.export({ format: "jwk" }), kid: `key-${++generation}`, use: "sig", alg: "RS256" };
  published = [jwk];
  const provider = new Provider(issuer, {
    jwks: { keys: published },
    clients: [
      {
        client_id: "ci",
        client_secret: "a-client-secret-of-the-test",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
      },
    ],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => audience,
        getResourceServerInfo: () => ({
          audience,
          scope: "",
          accessTokenTTL: 600,
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: "RS256" } },
        }),
      },
    },
    extraTokenClaims: () => ({ env: "prod" }),
  });
  current = provider.callback();
}

const server = createServer({ cert: certificate, key }, (request, response) => current(request, response));
server.listen(0, "127.0.0.1", () => {
  const issuer = `https://issuer.test:${server.address().port}`;
  rotate(issuer);
  console.log(server.address().port);
  createInterface({ input: process.stdin }).on("line", () => {
    rotate(issuer);
    console.log(`rotated ${generation}`);
  });
});

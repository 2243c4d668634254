"""The flows that every generation of the official SDK must manage; run as a script by each generation's own Python.

Reads `{"url", "token", "ca_pem", "federation"}` from standard input and prints what it saw as JSON; without `token`
only the federation's flow.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anthropic


class Wire:
    """Records requests, whichever HTTP library the SDK is built on."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        generation = int(anthropic.__version__.split(".")[0])
        library = __import__("httpx" if generation == 0 else "httpx2")
        self.http = library.Client(event_hooks={"request": [self._record]}, timeout=60)

    def _record(self, request: Any) -> None:
        body = request.content.decode() if request.method == "POST" else ""
        query = dict(request.url.params)
        query.pop("beta", None)
        headers = {name: request.headers.get(name, "") for name in ("authorization", "anthropic-beta")}
        seen = {"method": request.method, "path": request.url.path, "query": query, "body": body, "headers": headers}
        self.requests.append(seen)


def tunnel_flow(given: dict[str, Any]) -> dict[str, Any]:
    """Create, names, paging, certificates, archive, tokens."""
    wire = Wire()
    tunnels = anthropic.Anthropic(base_url=given["url"], auth_token=given["token"], http_client=wire.http).beta.tunnels
    seen: dict[str, Any] = {}
    first = tunnels.create()
    seen["create"] = wire.requests[0] | {"name": first.display_name, "type": first.type, "archived": first.archived_at}
    seen["request_id"] = first._request_id
    seen["longest"] = len(tunnels.create(display_name="x" * 255).display_name or "")
    sent = len(wire.requests)
    try:
        tunnels.create(display_name="x" * 256)
    except anthropic.BadRequestError as error:
        seen["too_long"] = {"message": str(error), "attempts": len(wire.requests) - sent}
    made = [first.id, *(tunnels.create().id for _ in range(3))]
    sent = len(wire.requests)
    seen["listed"] = [tunnel.id for tunnel in tunnels.list(limit=2)]
    seen["pages"] = [request["query"] for request in wire.requests[sent:]]
    certificate = tunnels.certificates.create(first.id, ca_certificate_pem=given["ca_pem"])
    token = tunnels.reveal_token(first.id)
    seen["token"] = [token.id, tunnels.reveal_token(first.id).id, tunnels.rotate_token(first.id, reason="x").id]
    archived = [str(tunnels.archive(first.id).archived_at) for _ in range(2)]
    page = tunnels.certificates.list(first.id, include_archived=True)
    seen["archived"] = archived + [str(item.archived_at) for item in page]
    seen["still_listed"] = [item.id for item in tunnels.certificates.list(first.id)]
    try:
        tunnels.certificates.retrieve(certificate.id, tunnel_id=made[1])
    except anthropic.NotFoundError:
        seen["not_found"] = True
    seen["made"] = made
    return seen


def federation_flow(given: dict[str, Any]) -> dict[str, Any]:
    """Exchange an identity token and list."""
    wire, federation = Wire(), given["federation"]
    provider = anthropic.WorkloadIdentityCredentials(
        identity_token_provider=lambda: str(federation["assertion"]),
        federation_rule_id=federation["rule_id"],
        organization_id=federation["organization_id"],
    )
    client = anthropic.Anthropic(base_url=given["url"], credentials=provider, http_client=wire.http)
    client.beta.tunnels.list()
    return dict(wire.requests[-1]["headers"])


def main() -> None:
    given = json.load(sys.stdin)
    seen: dict[str, Any] = {"version": anthropic.__version__, "federation": federation_flow(given)}
    if "token" in given:
        seen["tunnels"] = tunnel_flow(given)
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()

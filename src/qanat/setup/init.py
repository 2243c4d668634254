"""`setup init`: attach to a tunnel or create one, and write everything a connector and a proxy need.

What must not happen twice is noted before it is done: the wish to create a tunnel, a new CA before it is registered.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import SecretStr

from qanat.api.http import APIRefused, APIUnreachable
from qanat.api.tunnels import Certificate, Federation, Tunnel, TunnelsClient, exchange
from qanat.clock import Clock
from qanat.pki.issue import generate_key, issue_ca, issue_server, key_type, serial_number
from qanat.pki.material import Pair, fingerprint
from qanat.setup.errors import SetupRefused, explain, explain_exchange
from qanat.setup.options import MAX_IDENTITY_TOKEN, InitOptions, SignIn
from qanat.setup.output import Output
from qanat.setup.plan import Plan, adopt, make_plan, slots_used
from qanat.setup.state import (
    CREATING,
    TOKEN_VERSION,
    TUNNEL_DOMAIN,
    TUNNEL_ID,
    TUNNEL_TOKEN,
    Intent,
    Stored,
    ca_files,
    interpret,
    server_files,
)

Say = Callable[[str], None]
CA_NAME = "mcp-tunnel-ca"


async def run_init(options: InitOptions, output: Output, clock: Clock, say: Say, *, dry_run: bool = False) -> None:
    """Bring the output and the API into agreement. Raises `SetupRefused`, `OutputFailed` or `APIUnreachable`."""
    stored = interpret(await output.read())
    credential = await access_token(options.api_url, options.sign_in, options.trust)
    try:
        async with TunnelsClient(options.api_url, credential, trust=options.trust) as client:
            await _Init(options, output, clock, say, client, stored).run(dry_run)
    except APIRefused as error:
        raise explain(error, options.sign_in.kind) from error


async def access_token(api_url: str, sign_in: SignIn, trust: Path | None = None) -> SecretStr:
    """The bearer token for the Tunnels API: the key as it is, or one exchanged for the identity token."""
    if sign_in.api_token is not None:
        return sign_in.api_token
    federation = Federation(
        rule_id=sign_in.rule_id,
        organization_id=sign_in.organization_id,
        identity_token=_identity_token(sign_in),
        workspace_id=sign_in.workspace_id,
        service_account_id=sign_in.service_account_id,
    )
    try:
        return (await exchange(api_url, federation, trust=trust)).access_token
    except APIRefused as error:
        raise explain_exchange(error) from error


def _identity_token(sign_in: SignIn) -> SecretStr:
    if sign_in.identity_token is not None:
        text = sign_in.identity_token.get_secret_value()
    else:
        assert sign_in.identity_token_file is not None
        try:
            text = sign_in.identity_token_file.read_text("ascii", "replace").strip()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SetupRefused(
                f"ANTHROPIC_IDENTITY_TOKEN_FILE: open {sign_in.identity_token_file}: {reason}"
            ) from error
    if not text or len(text) > MAX_IDENTITY_TOKEN:
        raise SetupRefused(f"the identity token must have between 1 and {MAX_IDENTITY_TOKEN} bytes")
    return SecretStr(text)


@dataclass
class _Init:
    options: InitOptions
    output: Output
    clock: Clock
    say: Say
    client: TunnelsClient
    stored: Stored

    async def run(self, dry_run: bool) -> None:
        tunnel = await self._known_tunnel()
        if tunnel is None and dry_run:
            self.say(f"would create a tunnel named {self.options.tunnel_name!r}, a CA and a server certificate")
            return
        tunnel = tunnel or await self._create()
        certificates = await self.client.list_certificates(tunnel.id, include_archived=True)
        plan = make_plan(self.stored, tunnel, certificates, self.options, self.clock.now())
        if dry_run:
            for line in plan.lines(tunnel.id):
                self.say(f"would {line}")
            return
        await self._carry_out(plan, tunnel, certificates)

    async def _known_tunnel(self) -> Tunnel | None:
        wanted = self.options.tunnel_id or self.stored.tunnel_id
        if wanted is not None:
            return await self.client.get(wanted)
        if self.stored.creating is None:
            return None
        found = adopt(self.stored, await self.client.list_tunnels())
        if found is not None:
            self.say(f"found tunnel {found.id}, which an interrupted run created")
            await self._remember(found)
        return found

    async def _create(self) -> Tunnel:
        name = self.options.tunnel_name
        existing = tuple(t.id for t in await self.client.list_tunnels() if t.display_name == name)
        await self.output.write({CREATING: Intent(name, self.clock.now(), existing).to_bytes()})
        try:
            tunnel = await self.client.create(name)
        except APIUnreachable as error:
            if not error.sent:
                raise
            tunnel = await self._look_for_lost(error)
        self.say(f"created tunnel {tunnel.id} ({tunnel.domain})")
        await self._remember(tunnel)
        return tunnel

    async def _look_for_lost(self, error: APIUnreachable) -> Tunnel:
        """The tunnel of a create whose answer got lost. Raises the error again when there is none."""
        self.stored = interpret(await self.output.read())
        found = adopt(self.stored, await self.client.list_tunnels())
        if found is None:
            raise error
        return found

    async def _remember(self, tunnel: Tunnel) -> None:
        files = {TUNNEL_ID: tunnel.id.encode(), TUNNEL_DOMAIN: tunnel.domain.encode(), CREATING: None}
        await self.output.write(files)
        self.stored = interpret(await self.output.read())

    async def _carry_out(self, plan: Plan, tunnel: Tunnel, certificates: Sequence[Certificate]) -> None:
        if plan.ca == "replace":
            await self._store_new_ca(plan, tunnel)
        elif self.stored.tunnel_id != tunnel.id or self.stored.domain != tunnel.domain:
            await self._remember(tunnel)
        if plan.ca != "keep":
            await self._register(tunnel)
        if plan.reissue:
            await self._issue(plan.reissue, tunnel)
        await self._fetch_token(plan, tunnel)
        self._say_what_to_revoke(certificates)
        self.say(f"ready: {tunnel.id} serves https://<route>.{tunnel.domain}")

    async def _store_new_ca(self, plan: Plan, tunnel: Tunnel) -> None:
        ca = issue_ca(CA_NAME, self.clock.now(), _serial(), organization=tunnel.id)
        files = ca_files(ca)
        files[TUNNEL_ID], files[TUNNEL_DOMAIN] = tunnel.id.encode(), tunnel.domain.encode()
        if plan.switch_from:
            self.say(f"switching from {plan.switch_from} to {tunnel.id}")
            files[TUNNEL_TOKEN] = files[TOKEN_VERSION] = None
        await self.output.write(files)
        self.stored = interpret(await self.output.read())

    async def _register(self, tunnel: Tunnel) -> None:
        ca = self.stored.ca.certificate
        assert ca is not None
        pem = ca.public_bytes(Encoding.PEM).decode()
        try:
            await self.client.register_certificate(tunnel.id, pem)
        except APIRefused as error:
            if error.error_code == "tunnel_certificate_limit_exceeded":
                live = await self.client.list_certificates(tunnel.id)
                raise SetupRefused(slots_used(tunnel.id, live)) from error
            if error.http_status != 409:  # registered already: an earlier attempt got through
                raise
        self.say(f"registered CA {fingerprint(ca)}")

    def _say_what_to_revoke(self, certificates: Sequence[Certificate]) -> None:
        ca = self.stored.ca.certificate
        assert ca is not None
        others = [c for c in certificates if c.archived_at is None and c.fingerprint != fingerprint(ca)]
        if others and self.options.new_ca:
            self.say(f"once every proxy serves the new certificate, revoke the old CA: {others[0].id}")

    async def _issue(self, reason: str, tunnel: Tunnel) -> None:
        ca = self.stored.ca.pair
        assert ca is not None
        old = self.stored.server.key
        kind = self.options.key_type or (key_type(old) if old else None)
        key = generate_key(kind) if kind else generate_key()
        server = issue_server(
            ca, tunnel.domain, self.clock.now(), _serial(), lifetime=self.options.cert_duration, key=key
        )
        await self.output.write(server_files(server))
        self.say(f"issued a server certificate, valid until {_day(server)} ({reason})")

    async def _fetch_token(self, plan: Plan, tunnel: Tunnel) -> None:
        version, stored = self.options.token_version, self.stored
        if plan.rotate:
            reason = f"setup: token version {stored.token_version or 'none'} to {version}"
            token = await self.client.rotate_token(tunnel.id, reason)
        else:
            if stored.token is not None and version is not None and version == stored.token_version:
                self.say("token version unchanged, not rotating")
            token = await self.client.reveal_token(tunnel.id)
        files: dict[str, bytes | None] = {}
        if stored.token is None or stored.token != token.tunnel_token:
            files[TUNNEL_TOKEN] = token.tunnel_token.get_secret_value().encode()
        if version is not None and version != stored.token_version:
            files[TOKEN_VERSION] = version.encode()
        if files:
            await self.output.write(files)
        self._say_what_became_of_the_token(plan, changed=TUNNEL_TOKEN in files)

    def _say_what_became_of_the_token(self, plan: Plan, *, changed: bool) -> None:
        if plan.rotate:
            self.say(f"rotated the token; {self.output.restart_hint}")
        elif changed and self.stored.token is not None:
            self.say(f"the token was rotated elsewhere; stored the current one; {self.output.restart_hint}")
        elif changed:
            self.say("stored the token")


def _serial() -> int:
    return serial_number(secrets.token_bytes(16))


def _day(pair: Pair) -> str:
    return pair.certificate.not_valid_after_utc.date().isoformat()

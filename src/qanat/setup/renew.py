"""`setup renew-cert`: a new server certificate from the stored CA. Talks to no API; only the output is touched."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from qanat.clock import Clock
from qanat.pki.issue import KeyType, generate_key, issue_server, key_type, serial_number
from qanat.pki.material import Pair
from qanat.setup.errors import SetupRefused
from qanat.setup.output import Output
from qanat.setup.plan import unusable
from qanat.setup.state import Stored, interpret, server_files


@dataclass(frozen=True)
class RenewOptions:
    """How `setup renew-cert` was called."""

    cert_duration: timedelta = timedelta(days=90)
    renew_before: timedelta = timedelta()
    """Do nothing while more than this remains; zero always renews."""
    key_type: KeyType | None = None
    """None: like the key that is replaced."""
    tunnel_domain: str | None = None
    """For directories made by hand, which store no domain."""


async def run_renew(options: RenewOptions, output: Output, clock: Clock, say: Callable[[str], None]) -> None:
    """Renew the server certificate if it is time. Raises `SetupRefused` or `OutputFailed`."""
    stored, now = interpret(await output.read()), clock.now()
    domain = options.tunnel_domain or stored.domain
    if domain is None:
        raise SetupRefused("no tunnel-domain is stored; pass --tunnel-domain")
    if stored.domain not in (None, domain):
        raise SetupRefused(f"--tunnel-domain is {domain}, but the tunnel-domain stored is {stored.domain}")
    ca = _usable_ca(stored, now)
    remaining = _remaining(stored, domain, options, now)
    if remaining is not None:
        say(f"certificate valid until {remaining.isoformat()}, nothing to do")
        return
    server = _issue(ca, stored, domain, options, now)
    await output.write(server_files(server))
    end = server.certificate.not_valid_after_utc
    say(f"issued a server certificate, valid until {end.isoformat()}")
    if end - now + timedelta(seconds=1) <= options.cert_duration:
        say("warning: shortened, because the CA expires then; replace the CA with setup init --new-ca")


def _usable_ca(stored: Stored, now: datetime) -> Pair:
    if stored.ca.problem:
        raise SetupRefused(f"the stored CA cannot be used: {stored.ca.problem}")
    if stored.ca.certificate is None:
        raise SetupRefused("there is no ca.crt; run setup init first")
    if stored.ca.pair is None:
        raise SetupRefused("there is no ca.key; put the CA's key back, or run setup init --new-ca")
    if now > stored.ca.certificate.not_valid_after_utc:
        end = stored.ca.certificate.not_valid_after_utc.date().isoformat()
        raise SetupRefused(f"the CA expired on {end}; run setup init --new-ca")
    return stored.ca.pair


def _remaining(stored: Stored, domain: str, options: RenewOptions, now: datetime) -> datetime | None:
    """Until when the stored certificate will do, if it is not time yet."""
    leaf = stored.server.certificate
    if not options.renew_before or leaf is None or unusable(stored, domain, now):
        return None
    end = leaf.not_valid_after_utc
    return end if end - now > options.renew_before else None


def _issue(ca: Pair, stored: Stored, domain: str, options: RenewOptions, now: datetime) -> Pair:
    old = stored.server.key
    kind = options.key_type or (key_type(old) if old else KeyType.ECDSA_P256)
    serial = serial_number(secrets.token_bytes(16))
    return issue_server(ca, domain, now, serial, lifetime=options.cert_duration, key=generate_key(kind))

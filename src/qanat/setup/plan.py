"""Decide what a run of `setup init` has to do, from what is stored and what the API says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from cryptography.hazmat.primitives.serialization import Encoding

from qanat.api.tunnels import Certificate, Tunnel
from qanat.ids import TunnelID
from qanat.pki.judge import judge_ca, judge_server_certificate
from qanat.pki.material import CertificateRefused, fingerprint
from qanat.setup.errors import SetupRefused
from qanat.setup.options import InitOptions
from qanat.setup.state import Stored

MAX_LIVE_CERTIFICATES = 2
RENEW_BEFORE = timedelta(days=30)
CREATED_WITHIN = timedelta(minutes=5)
HINT = "pass --new-ca to replace it"

CAStep = Literal["keep", "register", "replace"]


@dataclass(frozen=True)
class Plan:
    """The steps, in the order they are taken."""

    switch_from: TunnelID | None
    """The tunnel this output was for, when it is to serve another one from now on."""
    ca: CAStep
    reissue: str | None
    """Why the server certificate has to be made anew; None keeps it."""
    rotate: bool
    """Rotate the token instead of fetching the current one."""

    def lines(self, tunnel: str) -> list[str]:
        """The plan for people."""
        ca = {
            "keep": "keep the stored CA, which is registered",
            "register": "register the stored CA",
            "replace": "make a new CA and register it",
        }
        return [
            *([f"switch from {self.switch_from} to {tunnel}"] if self.switch_from else [f"use {tunnel}"]),
            ca[self.ca],
            f"issue a server certificate: {self.reissue}" if self.reissue else "keep the server certificate",
            "rotate the token" if self.rotate else "fetch the current token",
        ]


def make_plan(
    stored: Stored, tunnel: Tunnel, certificates: Sequence[Certificate], options: InitOptions, now: datetime
) -> Plan:
    """The plan for a tunnel that exists. Raises `SetupRefused` when a person has to decide."""
    if tunnel.archived_at is not None:
        when = tunnel.archived_at.date().isoformat()
        raise SetupRefused(f"tunnel {tunnel.id} was archived on {when} and cannot be used again")
    switching = stored.tunnel_id is not None and stored.tunnel_id != tunnel.id
    ca = _ca_step(stored, tunnel, certificates, options, switching, now)
    _check_slots(ca, tunnel, certificates)
    return Plan(
        switch_from=stored.tunnel_id if switching else None,
        ca=ca,
        reissue="the CA is new" if ca == "replace" else _reissue(stored, tunnel.domain, now),
        rotate=not switching and must_rotate(stored, options.token_version),
    )


def _ca_step(
    stored: Stored,
    tunnel: Tunnel,
    certificates: Sequence[Certificate],
    options: InitOptions,
    switching: bool,
    now: datetime,
) -> CAStep:
    if switching or not stored.ca.present:
        return "replace"
    known = fingerprint(stored.ca.certificate) if stored.ca.certificate else None
    live = [record for record in certificates if record.archived_at is None]
    mine = next((record for record in live if record.fingerprint == known), None)
    if options.new_ca and not _replaced_already(stored, mine, live, certificates, now):
        return "replace"
    if mine is None and any(record.fingerprint == known for record in certificates):
        raise SetupRefused(f"stored CA was revoked on tunnel {tunnel.id}; {HINT}")
    problem = _ca_problem(stored, now)
    if problem:
        raise SetupRefused(f"stored CA cannot be used ({problem}); {HINT}")
    return "register" if mine is None else "keep"


def _replaced_already(
    stored: Stored, mine: Certificate | None, live: Sequence[Certificate], every: Sequence[Certificate], now: datetime
) -> bool:
    """Whether the stored CA is the new one already: a run with `--new-ca` made it, and did or did not end."""
    if stored.ca.certificate is None or _ca_problem(stored, now):
        return False
    if mine is not None:
        return any(other.created_at < mine.created_at for other in live)
    return all(record.fingerprint != fingerprint(stored.ca.certificate) for record in every)


def _ca_problem(stored: Stored, now: datetime) -> str | None:
    """Why the stored CA cannot be registered; None when it can."""
    if stored.ca.problem or stored.ca.certificate is None:
        return stored.ca.problem or "there is none"
    try:
        judge_ca(stored.ca.certificate.public_bytes(Encoding.PEM).decode(), now)
    except CertificateRefused as refusal:
        return refusal.reason.partition(": ")[2]
    return None


def _check_slots(step: CAStep, tunnel: Tunnel, certificates: Sequence[Certificate]) -> None:
    live = [record for record in certificates if record.archived_at is None]
    if step != "keep" and len(live) >= MAX_LIVE_CERTIFICATES:
        raise SetupRefused(slots_used(tunnel.id, live))


def slots_used(tunnel_id: TunnelID, live: Sequence[Certificate]) -> str:
    """That both places for CA certificates are taken, and by which."""
    lines = [
        f"  {record.id}  SHA-256 {record.fingerprint}  expires "
        f"{record.expires_at.date().isoformat() if record.expires_at else 'never'}"
        for record in live
    ]
    text = f"tunnel {tunnel_id} already has {len(live)} active CA certificates; revoke one of them, then run again:"
    return "\n".join([text, *lines])


def _reissue(stored: Stored, domain: str, now: datetime) -> str | None:
    reason = unusable(stored, domain, now) or _soon_over(stored, now)
    if reason and stored.ca.key is None:
        raise SetupRefused(f"{reason}, and there is no ca.key to issue another; put it back, or {HINT}")
    return reason


def unusable(stored: Stored, domain: str, now: datetime) -> str | None:
    """Why the stored server certificate does not work for `domain`; None when it does."""
    leaf, ca = stored.server.certificate, stored.ca.certificate
    if not stored.server.present:
        return "there is none"
    if leaf is None or ca is None:
        return stored.server.problem or "the stored one cannot be checked"
    if stored.server.key is None:
        return "the stored one has no key"
    try:
        judge_server_certificate(leaf, [ca], f"any.{domain}", now)
    except CertificateRefused as refusal:
        return refusal.reason
    return None


def _soon_over(stored: Stored, now: datetime) -> str | None:
    leaf, ca = stored.server.certificate, stored.ca.certificate
    if leaf is None or ca is None:
        return None
    lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    capped = leaf.not_valid_after_utc >= ca.not_valid_after_utc  # another one would not live longer
    if not capped and leaf.not_valid_after_utc - now < min(RENEW_BEFORE, lifetime / 3):
        return f"the stored one expires on {leaf.not_valid_after_utc.date().isoformat()}"
    return None


def must_rotate(stored: Stored, version: str | None) -> bool:
    """Whether a token is stored and the version given is another one than that stored with it."""
    return stored.token is not None and version is not None and version != stored.token_version


def adopt(stored: Stored, tunnels: Sequence[Tunnel]) -> Tunnel | None:
    """The tunnel that an interrupted run created and could not store, if there is one.

    Raises `SetupRefused` when several tunnels could be it.
    """
    intent = stored.creating
    if intent is None:
        return None
    found = [
        tunnel
        for tunnel in tunnels
        if tunnel.display_name == intent.display_name
        and tunnel.id not in intent.existing
        and abs(tunnel.created_at - intent.started_at) <= CREATED_WITHIN
    ]
    if len(found) > 1:
        ids = ", ".join(tunnel.id for tunnel in found)
        raise SetupRefused(f"an earlier run was interrupted and one of these is its tunnel: {ids}; pass --tunnel-id")
    return found[0] if found else None

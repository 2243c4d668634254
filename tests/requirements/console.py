"""Promises of the console: live truth, access, and what is refused."""

from __future__ import annotations

REQUIREMENTS: dict[str, str] = {
    "console:live:calls": "Last calls show route, method and tool, never arguments or results",
    "console:live:upstream": "A dead upstream is told by itself and by name; back, it is green again",
    "console:live:connector": "A dead connector is told by itself and by name; back, it is green again",
    "console:live:edge": "A dead edge is told by itself and by name",
    "console:live:certificate": "A server certificate that no registered CA signed is told as the proxy's fault",
    "console:live:expired": "A server certificate out of date is told as the proxy's fault",
    "console:live:unknown": "What nobody has said for ten seconds is unknown, never green",
    "console:worst": "A tunnel's badge takes the worst of its watched routes",
    "console:watch": "Routes are watched by hand, and learnt from calls that went well",
    "console:events": "Events are batched, bounded, and counted when dropped",
    "console:create": "A tunnel can be created with a federation rule whose scope is locked",
    "console:workspace": "One chooses among the workspaces of one's own organization",
    "console:viewer": "A viewer cannot change anything, by crafted request either",
    "console:csrf": "A form without the session's token, or from another site, changes nothing",
    "console:fixation": "Signing in never keeps a session that somebody planted",
    "console:escape": "Planted script in names and errors is shown, never run",
    "console:headers": "Every answer carries the strict content security policy",
    "console:axe": "axe finds no violation on any page, in either theme",
    "console:keyboard": "The main flows work by keyboard alone, and the focus is always seen",
    "console:narrow": "No page scrolls sideways on a phone 360 px wide",
    "console:light": "The first pages weigh under 100 kB together, ask nobody else and do not jump",
    "console:live": "An open page tells by itself what changed, in a real browser",
    "console:live:killed": "A killed connector and a killed edge are told and named, also where no route is watched",
    "console:live:focus": "What changes by itself takes neither focus nor selection nor scroll position",
    "console:playground": "A playground lists and calls tools, and shows each hop's time",
    "console:playground:private": "The playground keeps no argument, result or token; its ticket is for one request",
    "console:playground:path": "The playground takes the way of every call, and names the hop that fails",
    "console:oidc": "Single sign-on by OIDC, with roles, every sign-in in the audit trail",
    "console:oidc:refused": "A wrong state, nonce, issuer, audience, time, key or algorithm opens nothing",
    "console:oidc:down": "A provider that is down or makes no sense is named on the page, with what helps",
    "console:oidc:logout": "Signing out offers to sign out at the provider too",
    "console:oidc:local": "The operator's way in can be switched off, and its sessions end with that",
    "console:revoked": "A session ends at once with the credential that opened it",
    "console:redirect": "After a sign-in only pages of this console are returned to",
    "console:limits": "Attempts to sign in, and calls of the playground, are limited",
}

GAPS: dict[str, str] = {}

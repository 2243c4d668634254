"""OAuth for tunneled servers: the numbered checks of its specification, in our words."""

from __future__ import annotations

REQUIREMENTS: dict[str, str] = {
    "oauth:2": "Protected-resource metadata is served at the path-inserted and at the root place",
    "oauth:29": "A call without a token gets a 401 that links the metadata, and the upstream hears nothing",
    "oauth:30": "Whatever is wrong with a token, the answer is the same",
    "oauth:31": "The upstream gets verified identity headers and no token; forged ones are gone",
    "oauth:32": "With injection the upstream sees the injected credential only",
    "oauth:33": "A tool whose scope is missing is refused with the scopes to ask for",
    "oauth:34": "Without keys nobody gets in; with cached keys an issuer may be down",
    "oauth:35": "A key rotated at the issuer is taken up without a restart",
    "oauth:36": "A session id opens nothing for another caller",
}
GAPS: dict[str, str] = {}

"""Issuers that many organizations share: a rule for one of them must say whose tokens it means.

GitHub signs every repository's tokens with the same keys; a rule that asked for `ref = main` alone would admit
everybody's main branch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qanat.control.errors import Invalid


@dataclass(frozen=True)
class SharedIssuer:
    """How a token of a shared issuer tells its tenant."""

    claims: frozenset[str]
    subject: re.Pattern[str]
    """What a `subject_prefix` must start with to pin the tenant."""


SHARED: dict[str, SharedIssuer] = {
    "https://token.actions.githubusercontent.com": SharedIssuer(
        frozenset(
            {"repository", "repository_id", "repository_owner", "repository_owner_id", "enterprise", "enterprise_id"}
        ),
        re.compile(r"repo:[^/*:]+/"),
    ),
    "https://gitlab.com": SharedIssuer(
        frozenset({"namespace_id", "namespace_path", "project_id", "project_path"}),
        re.compile(r"project_path:[^/*:]+/"),
    ),
    "https://agent.buildkite.com": SharedIssuer(
        frozenset({"organization_slug", "organization_id"}), re.compile(r"organization:[^:*]+:")
    ),
    "https://app.terraform.io": SharedIssuer(
        frozenset({"terraform_organization_name", "terraform_organization_id"}), re.compile(r"organization:[^:*]+:")
    ),
    "https://accounts.google.com": SharedIssuer(frozenset({"email", "hd"}), re.compile(r"[^*]+$")),
}


def check_pinned(issuer_url: str, match: Mapping[str, Any], field: str) -> None:
    """Raises `Invalid` on `field` when the issuer is shared and the match names no tenant."""
    shared = SHARED.get(issuer_url.rstrip("/").lower())
    if shared is None:
        return
    if shared.subject.match(match.get("subject_prefix") or ""):
        return
    if shared.claims & set(match.get("claims") or {}):
        return
    mentioned = set(re.findall(r"\w+", match.get("condition") or ""))
    if not shared.claims & mentioned:
        names = ", ".join(sorted(shared.claims))
        raise Invalid(
            field, f"this issuer is shared by many organizations; pin yours by subject_prefix or one of {names}"
        )

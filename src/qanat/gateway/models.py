"""The models on offer: public name to upstream, as configured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx2

from qanat.errors import ConfigInvalid
from qanat.gateway.anthropic_upstream import AnthropicUpstream
from qanat.gateway.config import GatewayConfig, ModelSection
from qanat.gateway.demo_model import DemoModel
from qanat.gateway.errors import invalid, not_found
from qanat.gateway.openai_upstream import OpenAIUpstream
from qanat.gateway.request import Block
from qanat.gateway.upstream import Upstream

ANTHROPIC_URL = "https://api.anthropic.com"
DEFAULT_PAGE, LARGEST_PAGE = 20, 1000


class Models:
    """Every configured model. The HTTP client is the caller's to close."""

    def __init__(self, config: GatewayConfig, http: httpx2.AsyncClient) -> None:
        self._sections = dict(config.models)
        betas = frozenset(config.passed_betas)
        self._upstreams = {name: make_upstream(name, section, http, betas) for name, section in config.models.items()}
        self._created = datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")

    def find(self, name: str) -> tuple[Upstream, str]:
        """The upstream of a model and its name there. Raises `APIError` (404)."""
        if name not in self._sections:
            raise not_found(f"model: {name}")
        return self._upstreams[name], self._sections[name].model or name

    def info(self, name: str) -> Block:
        """The model as the API describes it. Raises `APIError` (404)."""
        section = self._sections.get(name)
        if section is None:
            raise not_found(f"model: {name}")
        described: Block = {
            "type": "model",
            "id": name,
            "display_name": section.display_name or name,
            "created_at": self._created,
            "lifecycle": "active",
        }
        known = {"max_input_tokens": section.max_input_tokens, "max_tokens": section.max_tokens}
        return described | {key: value for key, value in known.items() if value is not None}

    def page(self, query: Mapping[str, str]) -> Block:
        """One page of the list. Raises `APIError` (400)."""
        names = list(self._sections)
        limit = _limit(query.get("limit"))
        after, before = query.get("after_id"), query.get("before_id")
        for cursor in (after, before):
            if cursor is not None and cursor not in names:
                raise invalid("after_id, before_id: no such model")
        if before is not None:
            candidates = names[: names.index(before)]
            chosen, more = candidates[-limit:], len(candidates) > limit
        else:
            candidates = names if after is None else names[names.index(after) + 1 :]
            chosen, more = candidates[:limit], len(candidates) > limit
        data: list[Any] = [self.info(name) for name in chosen]
        ends = {"first_id": chosen[0], "last_id": chosen[-1]} if chosen else {"first_id": None, "last_id": None}
        return {"data": data, "has_more": more, **ends}


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST_PAGE:
        raise invalid(f"limit: must be between 1 and {LARGEST_PAGE}")
    return int(text)


def make_upstream(name: str, section: ModelSection, http: httpx2.AsyncClient, betas: frozenset[str]) -> Upstream:
    """The upstream a section describes. Raises `ConfigInvalid` for a key that is missing."""
    if section.upstream == "demo":
        return DemoModel()
    key = _api_key(name, section)
    if section.upstream == "openai":
        return OpenAIUpstream(
            http,
            section.base_url,
            key,
            images=section.images,
            show_reasoning=section.reasoning,
            max_tokens_field=section.max_tokens_field,
        )
    if not key:
        raise ConfigInvalid([f"models.{name}.api_key_file is required (or ANTHROPIC_API_KEY)"])
    return AnthropicUpstream(http, section.base_url or ANTHROPIC_URL, key, betas)


def _api_key(name: str, section: ModelSection) -> str | None:
    if section.api_key is not None:
        return section.api_key.get_secret_value()
    if section.api_key_file is not None:
        try:
            return section.api_key_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", "not text")
            raise ConfigInvalid([f"models.{name}.api_key_file: {section.api_key_file}: {reason}"]) from error
    return os.environ.get("ANTHROPIC_API_KEY" if section.upstream == "anthropic" else "OPENAI_API_KEY")

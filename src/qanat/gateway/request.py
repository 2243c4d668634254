"""A Messages request as far as the gateway cares: parsed and checked before any network traffic.

Only what concerns MCP is looked at closely. The rest of the body is the upstream's business and goes there as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, StrictBool, StrictStr, ValidationError, field_validator

from qanat.config import Section, describe
from qanat.gateway.errors import APIError, invalid

BETA_CURRENT = "mcp-client-2025-11-20"
BETA_LISTINGS = "mcp-client-2026-09-15"
BETA_DEPRECATED = "mcp-client-2025-04-04"
MCP_BETAS = frozenset({BETA_CURRENT, BETA_LISTINGS, BETA_DEPRECATED})
VERSIONS = ("2023-06-01", "2026-10-21")
SAMPLING = ("temperature", "top_p", "top_k")
MAX_SERVERS = 20
MAX_URL = 2048

Block = dict[str, Any]
S = TypeVar("S", bound=Section)


def check_token(token: SecretStr) -> SecretStr:
    """What fits into a header; a line end from a file, say, does not. The message does not repeat it."""
    value = token.get_secret_value()
    if not all(" " <= character <= "~" for character in value):
        raise ValueError("must be printable ASCII, without line ends")
    if not value or value != value.strip():
        raise ValueError("must not be empty, nor begin or end with a space")
    return token


Token = Annotated[SecretStr, AfterValidator(check_token)]


class ToolConfig(Section):
    """What `default_config` and each entry of `configs` may say. None: say nothing."""

    enabled: StrictBool | None = None
    defer_loading: StrictBool | None = None


class ToolConfiguration(Section):
    """The deprecated form, inside a server entry."""

    enabled: StrictBool | None = None
    allowed_tools: list[StrictStr] | None = None


class PinnedTool(Section):
    """A tool whose listing the caller brings along."""

    name: StrictStr
    description: StrictStr | None = None
    input_schema: dict[str, Any]


class Toolset(Section):
    """`mcp_toolset`: which of a server's tools the model gets."""

    type: Literal["mcp_toolset"]
    mcp_server_name: StrictStr
    default_config: ToolConfig | None = None
    configs: dict[str, ToolConfig] | None = None
    cache_control: dict[str, Any] | None = None
    tools: list[PinnedTool] | None = None

    def is_enabled(self, tool: str) -> bool:
        """Per field, the tool's own config wins over the default one, which wins over ours (on)."""
        return self._setting(tool, "enabled", True)

    def is_deferred(self, tool: str) -> bool:
        return self._setting(tool, "defer_loading", False)

    def _setting(self, tool: str, name: str, default: bool) -> bool:
        for config in ((self.configs or {}).get(tool), self.default_config):
            if config is not None and (value := getattr(config, name)) is not None:
                return bool(value)
        return default


class ServerEntry(Section):
    """An entry of `mcp_servers`."""

    type: Literal["url"]
    url: StrictStr = Field(max_length=MAX_URL)
    name: StrictStr = Field(min_length=1, max_length=255)
    authorization_token: Token | None = None
    tool_configuration: ToolConfiguration | None = None

    @field_validator("url")
    @classmethod
    def check_url(cls, url: str) -> str:
        """The shape of the URL; which schemes and hosts may be used is the gateway's policy."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError("is not a valid URL") from error
        if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
            raise ValueError("must be an absolute https:// URL")
        if parts.username is not None or parts.password is not None or "#" in url:
            raise ValueError("must not contain user information or a fragment")
        if not url.isascii() or any(character <= " " for character in url):
            raise ValueError("must be ASCII without spaces")
        return url


@dataclass(frozen=True, slots=True)
class Server:
    """One MCP server of a request, with the toolset that selects from it."""

    index: int
    name: str
    url: str
    token: SecretStr | None
    toolset: Toolset
    toolset_index: int | None
    """Where in `tools` its tools go; None in the deprecated form: after everything else."""

    @property
    def host(self) -> str:
        return (urlsplit(self.url).hostname or "").lower().rstrip(".")


@dataclass(frozen=True)
class MessagesRequest:
    """A checked request. `body` is the caller's, untouched."""

    body: Mapping[str, Any]
    model: str
    messages: list[dict[str, Any]]
    servers: tuple[Server, ...]
    betas: tuple[str, ...]
    version: str
    stream: bool = False
    max_tokens: int = 0
    lists_tools: bool = False
    """Whether the caller wants `mcp_tool_listing` blocks."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    vault: str = ""
    """The vault whose credentials the servers get, where the request brings no token."""

    @property
    def passed_betas(self) -> tuple[str, ...]:
        """Betas other than ours, for an upstream that knows them."""
        return tuple(beta for beta in self.betas if beta not in MCP_BETAS)


def parse_betas(header: str) -> tuple[str, ...]:
    """The values of `anthropic-beta`, in order, without repetition."""
    return tuple(dict.fromkeys(value.strip() for value in header.split(",") if value.strip()))


def parse_request(body: Any, betas: tuple[str, ...], version: str | None, *, counting: bool = False) -> MessagesRequest:
    """The request in `body`. Raises `APIError` (400) naming the field at fault."""
    if not isinstance(body, dict):
        raise invalid("the request body must be a JSON object")
    if version not in VERSIONS:
        raise invalid(f"anthropic-version: must be one of {', '.join(VERSIONS)}")
    model, messages, tools = _basics(body)
    _check_fields(body)
    _check_max_tokens(body, counting)
    _check_threads(body)
    if version == "2026-10-21":
        _check_newest_version(body, messages)
    mcp_beta = next((beta for beta in (BETA_LISTINGS, BETA_CURRENT, BETA_DEPRECATED) if beta in betas), None)
    servers = _parse_servers(body, tools, mcp_beta)
    return MessagesRequest(
        body=body,
        model=model,
        messages=messages,
        servers=servers,
        betas=betas,
        version=str(version),
        stream=body.get("stream") is True,
        max_tokens=body.get("max_tokens", 0),
        lists_tools=mcp_beta == BETA_LISTINGS,
        tools=tools,
    )


def _basics(body: dict[str, Any]) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("model: Field required")
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise invalid("messages: must be a list of objects")
    if not messages:
        raise invalid("messages: at least one message is required")
    for number, message in enumerate(messages):
        _check_message(number, message)
    tools = body.get("tools")
    tools = [] if tools is None else tools
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise invalid("tools: must be a list of objects")
    for number, tool in enumerate(tools):
        if not isinstance(tool.get("name", ""), str):
            raise invalid(f"tools.{number}.name: must be a string")
    return model, messages, tools


def _check_message(number: int, message: dict[str, Any]) -> None:
    if message.get("role") not in ("user", "assistant", "system"):
        raise invalid(f"messages.{number}.role: must be 'user' or 'assistant'")
    content = message.get("content")
    if isinstance(content, str):
        return
    blocks: list[Any] = content if isinstance(content, list) else [None]
    if not all(isinstance(block, dict) and isinstance(block.get("type"), str) for block in blocks):
        raise invalid(f"messages.{number}.content: must be a string or a list of content blocks")
    if any(block["type"] in ("tool_addition", "tool_removal") for block in blocks):
        raise invalid(f"messages.{number}: changing tools in mid-conversation is not supported by this gateway")
    for position, block in enumerate(blocks):
        _check_block(f"messages.{number}.content.{position}", block)


REQUIRED: dict[str, dict[str, type]] = {
    "text": {"text": str},
    "tool_use": {"id": str, "name": str, "input": dict},
    "tool_result": {"tool_use_id": str},
}
"""Fields that translating a history needs. Whatever else a block has is the upstream's business."""


def _check_block(where: str, block: dict[str, Any]) -> None:
    for name, kind in REQUIRED.get(block["type"], {}).items():
        if not isinstance(block.get(name), kind):
            what = "an object" if kind is dict else "a string"
            raise invalid(f"{where}.{name}: {'must be ' + what if name in block else 'Field required'}")
    if block["type"] == "tool_result" and not _is_content(block.get("content")):
        raise invalid(f"{where}.content: must be a string or a list of content blocks")


def _is_content(content: Any) -> bool:
    """Nothing, a string, or a list of blocks."""
    if isinstance(content, list):
        return all(isinstance(item, dict) and isinstance(item.get("type"), str) for item in content)
    return content is None or isinstance(content, str)


def _check_fields(body: dict[str, Any]) -> None:
    """Fields beside the messages that are read here, on the way to whichever upstream."""
    if not _is_content(body.get("system")):
        raise invalid("system: must be a string or a list of text blocks")
    if isinstance(body.get("system"), list):
        for position, block in enumerate(body["system"]):
            _check_block(f"system.{position}", block)
    for name in ("tool_choice", "thinking"):
        if body.get(name) is not None and not isinstance(body[name], dict):
            raise invalid(f"{name}: must be an object")
    if body.get("tool_choice") is not None and not isinstance(body["tool_choice"].get("type"), str):
        raise invalid("tool_choice.type: Field required")


def _check_max_tokens(body: dict[str, Any], counting: bool) -> None:
    value = body.get("max_tokens")
    if counting:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid("max_tokens: Field required" if value is None else "max_tokens: must be an integer")
    if value < 1:
        raise invalid("max_tokens: must be at least 1")


def _check_threads(body: dict[str, Any]) -> None:
    if body.get("thread") is not None:
        # The SDK's tool runner looks for exactly this code, and then sends the whole history instead.
        raise APIError(
            400,
            "thread: this gateway keeps no message threads; send the full message history",
            error_code="thread_unsupported_request",
            details={"unsupported": ["thread"]},
        )


def _check_newest_version(body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    for name in SAMPLING:
        if name in body:
            raise invalid(f"{name}: not accepted with anthropic-version 2026-10-21")
    for number, message in enumerate(messages):
        blocks = message["content"] if isinstance(message["content"], list) else []
        for position, block in enumerate(blocks):
            where = f"messages.{number}.content.{position}"
            if message["role"] == "assistant" and block["type"] == "document":
                raise invalid(f"{where}: document blocks are not accepted in assistant messages")
            if message["role"] == "user" and block["type"] == "text" and block.get("citations"):
                raise invalid(f"{where}.citations: not accepted in user messages")


# MCP servers and toolsets. The order of the checks is the order a caller would mend them in.


def _parse_servers(body: dict[str, Any], tools: list[dict[str, Any]], beta: str | None) -> tuple[Server, ...]:
    entries = body.get("mcp_servers")
    positions = [number for number, tool in enumerate(tools) if tool.get("type") == "mcp_toolset"]
    if not entries and not positions:
        return ()
    if beta is None:
        raise invalid(
            f"mcp_servers: requires the header 'anthropic-beta: {BETA_CURRENT}'"
            if entries
            else f"tools.{positions[0]}: mcp_toolset requires the header 'anthropic-beta: {BETA_CURRENT}'"
        )
    parsed = _parse_entries(entries, beta)
    toolsets = {number: _parse_toolset(number, tools[number], beta) for number in positions}
    _check_references(parsed, toolsets)
    if beta == BETA_DEPRECATED:
        return tuple(_deprecated_server(number, entry) for number, entry in enumerate(parsed))
    chosen = {toolset.mcp_server_name: (number, toolset) for number, toolset in toolsets.items()}
    servers = []
    for index, entry in enumerate(parsed):
        if entry.name not in chosen:
            raise invalid(f"MCP server '{entry.name}' is defined but not referenced by any mcp_toolset in tools.")
        number, toolset = chosen[entry.name]
        servers.append(Server(index, entry.name, entry.url, entry.authorization_token, toolset, number))
    return tuple(servers)


def _parse_entries(entries: Any, beta: str) -> list[ServerEntry]:
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise invalid("mcp_servers: must be a list")
    if len(entries) > MAX_SERVERS:
        raise invalid(f"mcp_servers: at most {MAX_SERVERS} servers are allowed")
    parsed: list[ServerEntry] = []
    for number, entry in enumerate(entries):
        server = _parse(ServerEntry, entry, f"mcp_servers.{number}")
        if any(server.name == other.name for other in parsed):
            raise invalid(f"mcp_servers.{number}.name: must be unique")
        if server.tool_configuration is not None and beta != BETA_DEPRECATED:
            raise invalid(
                f"mcp_servers.{number}.tool_configuration: not accepted with '{beta}'; use an mcp_toolset in tools"
            )
        parsed.append(server)
    return parsed


def _parse_toolset(number: int, tool: dict[str, Any], beta: str) -> Toolset:
    if beta == BETA_DEPRECATED:
        raise invalid(f"tools.{number}: mcp_toolset requires the header 'anthropic-beta: {BETA_CURRENT}'")
    toolset = _parse(Toolset, tool, f"tools.{number}")
    if toolset.tools is not None and beta != BETA_LISTINGS:
        raise invalid(f"tools.{number}.tools: requires the header 'anthropic-beta: {BETA_LISTINGS}'")
    return toolset


def _check_references(entries: list[ServerEntry], toolsets: dict[int, Toolset]) -> None:
    names = {entry.name for entry in entries}
    seen: set[str] = set()
    for number, toolset in toolsets.items():
        name = toolset.mcp_server_name
        if name not in names:
            raise invalid(f"tools.{number}: MCP server '{name}' not found in mcp_servers")
        if name in seen:
            raise invalid(f"tools.{number}: MCP server '{name}' is referenced by more than one mcp_toolset")
        seen.add(name)


def _deprecated_server(index: int, entry: ServerEntry) -> Server:
    """The old form as a toolset. `enabled: false` becomes a toolset that pins no tool, so nothing is contacted."""
    config = entry.tool_configuration or ToolConfiguration()
    toolset = Toolset(type="mcp_toolset", mcp_server_name=entry.name)
    if config.enabled is False:
        toolset = toolset.model_copy(update={"tools": []})
    elif config.allowed_tools is not None:
        allowed = {name: ToolConfig(enabled=True) for name in config.allowed_tools}
        toolset = toolset.model_copy(update={"default_config": ToolConfig(enabled=False), "configs": allowed})
    return Server(index, entry.name, entry.url, entry.authorization_token, toolset, None)


def _parse(model: type[S], value: Any, where: str) -> S:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        path = ".".join([where, *(str(part) for part in problem["loc"])])
        raise invalid(f"{path}: {_reason(problem)}") from None


def _reason(problem: Any) -> str:
    if problem["type"] == "missing":
        return "Field required"
    if problem["type"] == "extra_forbidden":
        return "Extra inputs are not permitted"
    return describe({**problem, "loc": ()})

"""What is refused before any network traffic, and how toolsets select tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from qanat.gateway.errors import APIError
from qanat.gateway.names import compose
from qanat.gateway.request import parse_request
from qanat.gateway.tools import ListedTool, build_table, pinned_listings
from tests.support.requirements import requirement

CURRENT, LISTINGS, DEPRECATED = "mcp-client-2025-11-20", "mcp-client-2026-09-15", "mcp-client-2025-04-04"
Block = dict[str, Any]


def server(name: str = "wiki", **extra: Any) -> Block:
    return {"type": "url", "url": f"https://{name}.example/mcp", "name": name, **extra}


def toolset(name: str = "wiki", **extra: Any) -> Block:
    return {"type": "mcp_toolset", "mcp_server_name": name, **extra}


def body(servers: Any, tools: Any, **extra: Any) -> Block:
    fields = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
    return {**fields, "mcp_servers": servers, "tools": tools, **extra}


def refusal(content: Any, *betas: str, version: str = "2023-06-01") -> APIError:
    with pytest.raises(APIError) as caught:
        parse_request(content, betas or (CURRENT,), version)
    assert caught.value.http_status == 400
    assert caught.value.error_type == "invalid_request_error"
    return caught.value


WRONG: list[tuple[str, Any, Any, str]] = [
    ("V1 unknown server", [server()], [toolset(), toolset("other")], "tools.1: MCP server 'other' not found"),
    ("V2 no toolset", [server()], [], "MCP server 'wiki' is defined but not referenced by any mcp_toolset in tools."),
    ("V3 two toolsets", [server()], [toolset(), toolset()], "tools.1: MCP server 'wiki' is referenced by more than"),
    ("V4 same name", [server(), server()], [toolset()], "mcp_servers.1.name: must be unique"),
    ("V5 relative", [server(url="/mcp")], [toolset()], "mcp_servers.0.url: must be an absolute"),
    ("V5 scheme", [server(url="ftp://a/mcp")], [toolset()], "mcp_servers.0.url: must be an absolute"),
    ("V5 user", [server(url="https://u:p@a/mcp")], [toolset()], "mcp_servers.0.url: must not contain user"),
    ("V5 fragment", [server(url="https://a/mcp#")], [toolset()], "mcp_servers.0.url: must not contain user"),
    ("V5 port", [server(url="https://a:99999/")], [toolset()], "mcp_servers.0.url: is not a valid URL"),
    ("V5 too long", [server(url="https://a/" + "x" * 2048)], [toolset()], "mcp_servers.0.url: "),
    ("V5 space", [server(url="https://a/ b")], [toolset()], "mcp_servers.0.url: must be ASCII"),
    ("V6 type", [server(type="stdio")], [toolset()], "mcp_servers.0.type: "),
    ("V6 missing", [{"type": "url", "name": "wiki"}], [toolset()], "mcp_servers.0.url: Field required"),
    ("V6 unknown", [server(extra=1)], [toolset()], "mcp_servers.0.extra: Extra inputs are not permitted"),
    ("V6 wrong type", [{**server(), "name": 7}], [toolset()], "mcp_servers.0.name: "),
    ("V6 empty name", [server(name="")], [toolset()], "mcp_servers.0.name: "),
    ("V6 no object", ["wiki"], [toolset()], "mcp_servers.0: "),
    ("V6 no list", {"wiki": 1}, [toolset()], "mcp_servers: must be a list"),
    ("V6 toolset field", [server()], [toolset(strict=True)], "tools.0.strict: Extra inputs are not permitted"),
    ("V6 toolset name", [server()], [{**toolset(), "name": "x"}], "tools.0.name: Extra inputs are not permitted"),
    ("V6 enabled", [server()], [toolset(default_config={"enabled": "no"})], "tools.0.default_config.enabled: "),
    ("V7 old shape", [server(tool_configuration={})], [toolset()], "mcp_servers.0.tool_configuration: "),
    ("V7 pinned", [server()], [toolset(tools=[])], "tools.0.tools: requires the header"),
    ("V8 too many", [server(f"s{n}") for n in range(21)], [toolset("s0")], "mcp_servers: at most 20"),
]


@requirement("messages:9")
@pytest.mark.parametrize(("servers", "tools", "message"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_malformed_server_or_toolset_is_refused(servers: Any, tools: Any, message: str) -> None:
    assert str(refusal(body(servers, tools))).startswith(message)


@requirement("messages:25")
def test_mcp_needs_its_beta_header() -> None:
    for content in (body([server()], [toolset()]), body(None, [toolset()])):
        with pytest.raises(APIError, match="anthropic-beta: mcp-client-2025-11-20"):
            parse_request(content, (), "2023-06-01")
    request = parse_request(body([], None), (), "2023-06-01")
    assert request.servers == ()


@requirement("messages:24")
def test_the_deprecated_shape_maps_to_toolsets() -> None:
    servers = [
        server("all"),
        server("off", tool_configuration={"enabled": False}),
        server("some", tool_configuration={"allowed_tools": ["a"]}),
    ]
    request = parse_request(body(servers, []), (DEPRECATED,), "2023-06-01")
    listing = (tool("a"), tool("b"))
    pinned = pinned_listings(request)
    assert pinned == {"off": ()}  # pinned to nothing: never asked
    table = build_table(request, {"all": listing, "some": listing, **pinned})
    assert [entry["name"] for entry in table.entries] == ["all_a", "all_b", "some_a"]
    assert "tool_configuration" in str(refusal(body([servers[1]], [toolset("off")]), DEPRECATED, CURRENT))
    assert "mcp_toolset requires" in str(refusal(body([server()], [toolset()]), DEPRECATED))


def tool(name: str, **schema: Any) -> ListedTool:
    return ListedTool(name, None, {"type": "object", **schema})


def names(*toolsets: Block, tools: str = "abc") -> list[str]:
    """Which of the tools a, b, c the model is offered."""
    request = parse_request(
        body([server(entry["mcp_server_name"]) for entry in toolsets], list(toolsets)), (CURRENT,), "2023-06-01"
    )
    listing = tuple(tool(name) for name in tools)
    table = build_table(request, {entry.name: listing for entry in request.servers})
    return [entry["name"] for entry in table.entries]


@requirement("messages:11")
def test_toolsets_select_exactly_the_documented_tools() -> None:
    off, on = {"enabled": False}, {"enabled": True}
    assert names(toolset()) == ["wiki_a", "wiki_b", "wiki_c"]
    assert names(toolset(default_config=off, configs={"b": on})) == ["wiki_b"]
    assert names(toolset(configs={"b": off})) == ["wiki_a", "wiki_c"]
    assert names(toolset(default_config=off, configs={"b": {"defer_loading": True}})) == []
    assert names(toolset("x", default_config=off, configs={"c": on}), toolset("y"), tools="cba") == [
        "x_c",
        "y_a",
        "y_b",
        "y_c",
    ]


def test_settings_merge_field_by_field() -> None:
    configs = {"a": {"enabled": True}, "b": {"defer_loading": False}}
    entry = toolset(default_config={"enabled": True, "defer_loading": True}, configs=configs)
    request = parse_request(body([server()], [entry]), (CURRENT,), "2023-06-01")
    table = build_table(request, {"wiki": (tool("a"), tool("b"))})
    assert [entry.get("defer_loading") for entry in table.entries] == [True, None]


@requirement("messages:10")
def test_a_configured_tool_that_does_not_exist_is_remembered() -> None:
    request = parse_request(body([server()], [toolset(configs={"nope": {}})]), (CURRENT,), "2023-06-01")
    assert build_table(request, {"wiki": (tool("a"),)}).unknown_configs == [("wiki", "nope")]


def table_refusal(
    servers: list[str], listings: Mapping[str, tuple[ListedTool, ...]], *client: Block, **extra: Any
) -> APIError:
    tools = [*client, *(toolset(name, **extra) for name in servers)]
    request = parse_request(body([server(name) for name in servers], tools), (CURRENT,), "2023-06-01")
    with pytest.raises(APIError) as caught:
        build_table(request, listings)
    return caught.value


@requirement("messages:31")
def test_names_that_collide_are_refused() -> None:
    client = {"name": "wiki_search", "input_schema": {"type": "object"}}
    assert table_refusal(["wiki"], {"wiki": (tool("search"),)}, client).error_code == "tool_name_conflict"
    collision = {"a_b": (tool("c"),), "a": (tool("b_c"),)}
    assert table_refusal(["a_b", "a"], collision).error_code == "tool_name_conflict"


@requirement("messages:31")
def test_odd_and_long_names_become_valid_and_stable_ones() -> None:
    odd = compose("my server!", "t" * 80)
    assert odd == compose("my server!", "t" * 80)
    assert len(odd) == 64
    assert odd.startswith("my_server__ttt")
    assert odd != compose("my server?", "t" * 80)
    assert compose("wiki", "search") == "wiki_search"
    assert len(compose("wiki", "\ud83d" * 80)) == 64


def test_limits_on_tools_hold() -> None:
    many = {"wiki": tuple(tool(f"t{number}") for number in range(513))}
    assert table_refusal(["wiki"], many).error_code == "available_tools_limit_exceeded"
    large = {"wiki": (tool("big", description="x" * 2_100_000),)}
    assert table_refusal(["wiki"], large).error_code == "available_tools_limit_exceeded"
    deferred = table_refusal(["wiki"], {"wiki": (tool("a"),)}, default_config={"defer_loading": True})
    assert "At least one tool must have defer_loading=false" in str(deferred)


@requirement("messages:26")
def test_threads_are_refused_with_the_code_the_sdk_looks_for() -> None:
    error = refusal(body(None, None, thread={"type": "create"}))
    assert error.error_code == "thread_unsupported_request"


@requirement("messages:27")
def test_the_newest_version_has_rules_of_its_own() -> None:
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
    cited = {"type": "text", "text": "x", "citations": [{"type": "char_location"}]}
    for role, block in (("assistant", document), ("user", cited)):
        content = body(None, None, messages=[{"role": role, "content": [block]}])
        parse_request(content, (), "2023-06-01")
        refusal(content, version="2026-10-21")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"model": "m"},
        body(None, None, messages=[]),
        body(None, None, messages=["x"]),
        body(None, None, messages=[{"role": "robot", "content": "x"}]),
        body(None, None, messages=[{"role": "user", "content": 7}]),
        body(None, None, messages=[{"role": "user", "content": [{}]}]),
        body(None, None, messages=[{"role": "system", "content": [{"type": "tool_addition"}]}]),
        body(None, None, max_tokens=0),
        body(None, None, max_tokens=True),
        body(None, "tools"),
    ],
)
def test_a_body_that_is_no_request_is_refused(content: Any) -> None:
    refusal(content)


@requirement("messages:23")
def test_the_latest_listing_of_the_history_pins_the_tools_and_toolset_tools_win() -> None:
    def listing(*tools: str, server_name: str = "wiki") -> Block:
        entries = [{"name": name, "input_schema": {"type": "object"}} for name in tools]
        return {"type": "mcp_tool_listing", "mcp_server_name": server_name, "tools": entries}

    history = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": [listing("old")]},
        {"role": "user", "content": "2"},
        {"role": "assistant", "content": [listing("new"), {"type": "text", "text": "x"}]},
        {"role": "user", "content": "3"},
    ]
    request = parse_request(body([server()], [toolset()], messages=history), (LISTINGS,), "2023-06-01")
    assert [entry.name for entry in pinned_listings(request)["wiki"]] == ["new"]
    pinned = toolset(tools=[{"name": "mine", "input_schema": {"type": "object"}}])
    request = parse_request(body([server()], [pinned], messages=history), (LISTINGS,), "2023-06-01")
    assert [entry.name for entry in pinned_listings(request)["wiki"]] == ["mine"]
    request = parse_request(body([server()], [toolset()], messages=history), (CURRENT,), "2023-06-01")
    with pytest.raises(APIError, match="mcp-client-2026-09-15"):
        pinned_listings(request)
    foreign = [{"role": "assistant", "content": [listing("x", server_name="other")]}]
    request = parse_request(body([server()], [toolset()], messages=foreign), (LISTINGS,), "2023-06-01")
    with pytest.raises(APIError) as caught:
        pinned_listings(request)
    assert caught.value.error_code == "tool_reference_unresolved"


def asked(*content: Any, role: str = "user", **extra: Any) -> Block:
    messages = [{"role": role, "content": list(content)}]
    return {"model": "m", "max_tokens": 10, "messages": messages, **extra}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (asked({"type": "text"}), "messages.0.content.0.text: Field required"),
        (asked({"type": "text", "text": 7}), "messages.0.content.0.text: must be a string"),
        (asked({"type": "tool_use", "name": "f", "input": {}}), "messages.0.content.0.id: Field required"),
        (
            asked({"type": "tool_use", "id": "a", "name": "f", "input": "x"}),
            "messages.0.content.0.input: must be an obj",
        ),
        (asked({"type": "tool_result", "content": "x"}), "messages.0.content.0.tool_use_id: Field required"),
        (asked({"type": "tool_result", "tool_use_id": "a", "content": ["x"]}), "messages.0.content.0.content: must be"),
        (asked(system=["x"]), "system: must be a string or a list"),
        (asked(system=[{"type": "text", "text": {}}]), "system.0.text: must be a string"),
        (asked(tools=[{"name": ["f"], "input_schema": {}}]), "tools.0.name: must be a string"),
        (asked(tool_choice="any"), "tool_choice: must be an object"),
        (asked(tool_choice={"name": "x"}), "tool_choice.type: Field required"),
        (asked(thinking=True), "thinking: must be an object"),
    ],
)
def test_what_translating_would_stumble_over_is_refused_by_name(content: Block, message: str) -> None:
    assert str(refusal(content)).startswith(message)


@pytest.mark.parametrize("token", ["secret-1\n", "secret-é", "secret\x7f"])
def test_a_token_that_fits_no_header_is_refused_without_being_repeated(token: str) -> None:
    message = str(refusal(body([server(authorization_token=token)], [toolset()])))
    assert message == "mcp_servers.0.authorization_token: must be printable ASCII, without line ends"


@pytest.mark.parametrize("token", ["", " ", "secret-1 "])
def test_a_token_that_no_header_can_end_in_is_refused(token: str) -> None:
    message = str(refusal(body([server(authorization_token=token)], [toolset()])))
    assert message == "mcp_servers.0.authorization_token: must not be empty, nor begin or end with a space"

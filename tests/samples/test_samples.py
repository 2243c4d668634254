"""The sample servers, asked by the official MCP client over a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult, TextContent

from qanat.samples import kb, tickets
from qanat.samples.database import Database
from qanat.samples.server import serve


@pytest.fixture
async def urls() -> AsyncIterator[dict[str, str]]:
    async with serve() as samples:
        yield samples.urls


async def call(url: str, tool: str, **arguments: Any) -> Any:
    """What a tool answers, as data."""
    async with Client(f"{url}/mcp") as client:
        result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    (block,) = result.content
    assert isinstance(block, TextContent)
    return json.loads(block.text)


async def test_the_ticket_server_lists_its_tools(urls: dict[str, str]) -> None:
    async with Client(f"{urls['tickets']}/mcp") as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
    assert names == [
        *("list_tickets", "search_tickets", "get_ticket", "create_ticket", "comment_on_ticket", "set_status"),
    ]


@pytest.mark.slow
async def test_open_tickets_come_most_urgent_first(urls: dict[str, str]) -> None:
    found = await call(urls["tickets"], "list_tickets", status="open", limit=2)
    assert [ticket["id"] for ticket in found["tickets"]] == [4101, 4102]
    assert found["total"] > 2


async def test_every_word_of_a_ticket_search_must_occur(urls: dict[str, str]) -> None:
    found = await call(urls["tickets"], "search_tickets", query="checkout idle connections")
    assert [ticket["id"] for ticket in found["tickets"]] == [4101]
    assert (await call(urls["tickets"], "search_tickets", query="checkout giraffe"))["total"] == 0


async def test_a_created_ticket_can_be_read_commented_and_closed(urls: dict[str, str]) -> None:
    url = urls["tickets"]
    created = await call(url, "create_ticket", title="Door sticks", description="Room 3", priority="low")
    assert (created["status"], created["priority"]) == ("open", "low")
    commented = await call(url, "comment_on_ticket", id=created["id"], text="oiled")
    assert [comment["text"] for comment in commented["comments"]] == ["oiled"]
    await call(url, "set_status", id=created["id"], status="closed")
    assert (await call(url, "get_ticket", id=created["id"]))["status"] == "closed"


async def test_an_unknown_ticket_is_an_error_the_model_can_read(urls: dict[str, str]) -> None:
    async with Client(f"{urls['tickets']}/mcp") as client:
        result = await client.call_tool("get_ticket", {"id": 1})
    assert isinstance(result, CallToolResult)
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    assert "no ticket 1" in result.content[0].text


async def test_the_knowledge_base_finds_articles_by_their_words(urls: dict[str, str]) -> None:
    found = await call(urls["kb"], "search_articles", query="how do I reset my password?")
    assert found["articles"][0]["id"] == "password-reset"
    article = await call(urls["kb"], "get_article", id="password-reset")
    assert "30 minutes" in article["body"]
    topics = await call(urls["kb"], "list_topics")
    assert sum(topic["articles"] for topic in topics["topics"]) == 16


@pytest.mark.parametrize("query", ["", '"', "a OR b", "NEAR(", "title:*", "tür", "'; DROP TABLE articles; --"])
def test_no_query_breaks_the_full_text_search(query: str) -> None:
    database = Database("kb")
    kb.search(database, query, 5)
    assert database.rows("SELECT id FROM articles")
    database.close()


async def test_a_write_is_dated_by_the_clock_it_was_given() -> None:
    database = Database("tickets")
    server = tickets.make_server(database, lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    await server.call_tool("comment_on_ticket", {"id": 4101, "text": "seen"})
    assert tickets.read(database, 4101).updated_at == "2026-01-02T03:04:05Z"
    database.close()

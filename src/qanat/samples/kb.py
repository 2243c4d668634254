"""The sample knowledge base: an MCP server with full-text search over SQLite's FTS5."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from qanat.samples.database import Database, search_words

_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


class Hit(BaseModel):
    """An article that was found; `excerpt` marks the words with asterisks."""

    id: str
    title: str
    topic: str
    excerpt: str


class Hits(BaseModel):
    """The best matches, best first."""

    articles: list[Hit]


class Article(BaseModel):
    """An article in full."""

    id: str
    title: str
    topic: str
    body: str
    updated_at: str


class Topic(BaseModel):
    name: str
    articles: int


class Topics(BaseModel):
    topics: list[Topic]


def make_server(database: Database) -> MCPServer:
    """The server over `database`."""
    server = MCPServer("kb", title="Knowledge base", instructions="How the shop's IT works.", log_level="WARNING")

    @server.tool(annotations=_READS)
    async def search_articles(
        query: str, limit: Annotated[int, Field(ge=1, le=20, description="How many articles at most.")] = 5
    ) -> Hits:
        """Search the articles of the knowledge base by words, best match first."""
        return Hits(articles=[Hit.model_validate(row) for row in search(database, query, limit)])

    @server.tool(annotations=_READS)
    async def get_article(id: str) -> Article:
        """Get one article of the knowledge base in full, by its id."""
        row = database.row("SELECT * FROM articles WHERE id = ?", id)
        if row is None:
            raise ToolError(f"there is no article {id!r}")
        return Article.model_validate(row)

    @server.tool(annotations=_READS)
    async def list_topics() -> Topics:
        """List the topics of the knowledge base and how many articles each has."""
        rows = database.rows("SELECT topic AS name, count(*) AS articles FROM articles GROUP BY topic ORDER BY topic")
        return Topics(topics=[Topic.model_validate(row) for row in rows])

    return server


def search(database: Database, query: str, limit: int) -> list[dict[str, object]]:
    """Articles with any of the words; those with more and rarer ones first."""
    words = search_words(query)
    if not words:
        return []
    return database.rows(
        "SELECT articles.id, articles.title, articles.topic,"
        " snippet(articles_text, 2, '*', '*', '…', 24) AS excerpt"
        " FROM articles_text JOIN articles ON articles.rowid = articles_text.rowid"
        " WHERE articles_text MATCH ? ORDER BY bm25(articles_text, 5, 2, 1) LIMIT ?",
        *(" OR ".join(f'"{word}"' for word in words), limit),
    )

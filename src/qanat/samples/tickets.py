"""The sample ticketing system: an MCP server as its owner would write it, knowing nothing of tunnels."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from qanat.samples.database import Database, Row, search_words

Status = Literal["open", "in_progress", "waiting", "resolved", "closed"]
Priority = Literal["low", "normal", "high", "urgent"]
Limit = Annotated[int, Field(ge=1, le=50, description="How many tickets at most.")]
_RANK = "CASE priority WHEN 'urgent' THEN 0 WHEN 'high' THEN 1 WHEN 'normal' THEN 2 ELSE 3 END, id"
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)


class Summary(BaseModel):
    """A ticket in a list."""

    id: int
    title: str
    status: Status
    priority: Priority
    assignee: str | None


class Comment(BaseModel):
    author: str
    text: str
    created_at: str


class Ticket(Summary):
    """A ticket in full."""

    description: str
    requester: str
    created_at: str
    updated_at: str
    comments: list[Comment]


class Tickets(BaseModel):
    """Some tickets, the most urgent first."""

    total: int
    tickets: list[Summary]


def make_server(database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> MCPServer:
    """The server over `database`; `now` dates what is written."""
    server = MCPServer("tickets", title="Tickets", instructions="The shop's ticketing system.", log_level="WARNING")

    @server.tool(annotations=_READS)
    async def list_tickets(
        status: Status | None = None, priority: Priority | None = None, limit: Limit = 10
    ) -> Tickets:
        """List tickets by status and priority, the most urgent first."""
        return find(database, [], status, priority, limit)

    @server.tool(annotations=_READS)
    async def search_tickets(query: str, status: Status | None = None, limit: Limit = 10) -> Tickets:
        """Search tickets: every word must occur in the title, the description or a comment."""
        return find(database, search_words(query), status, None, limit)

    @server.tool(annotations=_READS)
    async def get_ticket(id: int) -> Ticket:
        """Get one ticket in full, with its comments, by its number."""
        return read(database, id)

    @server.tool(annotations=_WRITES)
    async def create_ticket(title: str, description: str, priority: Priority = "normal") -> Ticket:
        """Create a new ticket and return it."""
        moment = stamp(now())
        id = database.insert(
            "INSERT INTO tickets (title, description, status, priority, requester, created_at, updated_at)"
            " VALUES (?, ?, 'open', ?, 'assistant', ?, ?)",
            *(title, description, priority, moment, moment),
        )
        return read(database, id)

    @server.tool(annotations=_WRITES)
    async def comment_on_ticket(id: int, text: str) -> Ticket:
        """Add a comment to a ticket and return the ticket."""
        read(database, id)
        moment = stamp(now())
        database.insert(
            "INSERT INTO comments (ticket_id, author, text, created_at) VALUES (?, 'assistant', ?, ?)", id, text, moment
        )
        database.insert("UPDATE tickets SET updated_at = ? WHERE id = ?", moment, id)
        return read(database, id)

    @server.tool(annotations=_WRITES)
    async def set_status(id: int, status: Status) -> Ticket:
        """Move a ticket to another status and return it."""
        read(database, id)
        database.insert("UPDATE tickets SET status = ?, updated_at = ? WHERE id = ?", status, stamp(now()), id)
        return read(database, id)

    return server


def find(database: Database, words: list[str], status: Status | None, priority: Priority | None, limit: int) -> Tickets:
    """Tickets in which every word occurs; `total` counts those beyond `limit` too."""
    told = "(SELECT coalesce(group_concat(text, ' '), '') FROM comments WHERE ticket_id = tickets.id)"
    terms = [f"lower(title || ' ' || description || ' ' || {told}) LIKE ?" for _ in words]
    values: list[object] = [f"%{word}%" for word in words]
    for column, value in (("status", status), ("priority", priority)):
        if value is not None:
            terms.append(f"{column} = ?")
            values.append(value)
    # Only fixed text is put together here; what was asked for travels as values.
    rows = database.rows(f"SELECT * FROM tickets WHERE {' AND '.join(terms) or '1'} ORDER BY {_RANK}", *values)  # noqa: S608 - fixed terms
    return Tickets(total=len(rows), tickets=[Summary.model_validate(row) for row in rows[:limit]])


def read(database: Database, id: int) -> Ticket:
    """One ticket. Raises `ToolError` when there is none."""
    row: Row | None = database.row("SELECT * FROM tickets WHERE id = ?", id)
    if row is None:
        raise ToolError(f"there is no ticket {id}")
    comments = database.rows("SELECT author, text, created_at FROM comments WHERE ticket_id = ? ORDER BY id", id)
    return Ticket.model_validate({**row, "comments": comments})


def stamp(moment: datetime) -> str:
    """A time as the tables hold it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

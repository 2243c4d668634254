"""What the official MCP conformance suite expects a server under test to offer, on the official SDK."""

from __future__ import annotations

import base64
from typing import Any

from mcp import types
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage
from pydantic import BaseModel, Field

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WAV = base64.b64encode(b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0\x80>\0\0\2\0\x10\0data\0\0\0\0").decode()


class Answer(BaseModel):
    """What a person is asked for."""

    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


def make_server() -> MCPServer:
    """The server under test."""
    server = MCPServer("conformance", log_level="ERROR")
    _add_tools(server)
    _add_conversing_tools(server)
    _add_resources(server)
    _add_prompts(server)
    return server


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text)


def _image() -> types.ImageContent:
    return types.ImageContent(type="image", data=PNG, mime_type="image/png")


def _embedded(uri: str, text: str) -> types.EmbeddedResource:
    contents = types.TextResourceContents(uri=uri, mime_type="text/plain", text=text)
    return types.EmbeddedResource(type="resource", resource=contents)


def _add_tools(server: MCPServer) -> None:
    @server.tool(structured_output=False)
    def test_simple_text() -> str:
        return "This is a simple text response for testing."

    @server.tool(structured_output=False)
    def test_image_content() -> list[types.ContentBlock]:
        return [_image()]

    @server.tool(structured_output=False)
    def test_audio_content() -> list[types.ContentBlock]:
        return [types.AudioContent(type="audio", data=WAV, mime_type="audio/wav")]

    @server.tool(structured_output=False)
    def test_embedded_resource() -> list[types.ContentBlock]:
        return [_embedded("test://embedded-resource", "This is an embedded resource content.")]

    @server.tool(structured_output=False)
    def test_multiple_content_types() -> list[types.ContentBlock]:
        embedded = _embedded("test://mixed-content-resource", '{"test":"data","value":123}')
        return [_text("Multiple content types test:"), _image(), embedded]

    @server.tool(structured_output=False)
    def test_error_handling() -> str:
        raise ValueError("This tool intentionally returns an error for testing")


def _add_conversing_tools(server: MCPServer) -> None:
    @server.tool(structured_output=False)
    async def test_tool_with_logging(ctx: Context[Any, Any]) -> str:
        for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.info(message)
        return "logged"

    @server.tool(structured_output=False)
    async def test_tool_with_progress(ctx: Context[Any, Any]) -> str:
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100)
        return "progressed"

    @server.tool(structured_output=False)
    async def test_sampling(prompt: str, ctx: Context[Any, Any]) -> str:
        message = types.SamplingMessage(role="user", content=_text(prompt))
        # Beside the call: the stream for everything else may not be open yet, and what is sent there then is lost.
        answer = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
        return f"LLM response: {answer.content}"

    @server.tool(structured_output=False)
    async def test_elicitation(message: str, ctx: Context[Any, Any]) -> str:
        answer = await ctx.elicit(message, Answer)
        return f"User response: {answer}"


def _add_resources(server: MCPServer) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        return base64.b64decode(PNG)

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:
        return f'{{"id":"{id}","templateTest":true,"data":"Data for ID: {id}"}}'


def _add_prompts(server: MCPServer) -> None:
    @server.prompt()
    def test_simple_prompt() -> str:
        return "This is a simple prompt for testing."

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
        return [UserMessage(_embedded(resourceUri, "Embedded resource content for testing."))]

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage]:
        return [UserMessage(_image()), UserMessage(_text("Please analyze the image above."))]

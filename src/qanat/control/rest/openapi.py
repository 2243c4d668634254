"""The OpenAPI document: what the framework finds out by itself, and what it cannot see.

Bodies are read by our own strict parser, headers by dependencies, and every error wears one envelope; all of that is
written in here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from qanat.control.rest import alias, tunnels
from qanat.control.rest.requests import VERSIONS

ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "request_id": {"type": "string", "pattern": "^req_"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "object", "properties": {"error_code": {"type": "string"}}},
            },
        },
    },
}
REFUSED = {
    "description": "Refused",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
        for path, methods in document["paths"].items():
            for operation in methods.values():
                _complete(path, operation, document)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Error"] = ERROR
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = document
    return app.openapi_schema


def _complete(path: str, operation: dict[str, Any], document: dict[str, Any]) -> None:
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = REFUSED
    if path != "/v1/oauth/token":
        operation["security"] = [{"bearer": []}]
    headers = _headers(path)
    if headers:
        operation["parameters"] = operation.get("parameters", []) + headers
    _lift_definitions(operation, document)


def _headers(path: str) -> list[dict[str, Any]]:
    if not path.startswith("/v1/") or path == "/v1/oauth/token":
        return []
    found = [_header("anthropic-version", {"enum": list(VERSIONS)})]
    for prefix, beta in ((tunnels.router.prefix, tunnels.BETA), (alias.router.prefix, alias.BETA)):
        if path == prefix or path.startswith(f"{prefix}/"):
            found.append(_header("anthropic-beta", {"enum": [beta]}))
    return found


def _header(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": True, "schema": {"type": "string"} | schema}


def _lift_definitions(operation: dict[str, Any], document: dict[str, Any]) -> None:
    """Body models bring their parts along; the document keeps parts in one place."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        definitions = content["schema"].pop("$defs", {})
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions)

"""The OpenAPI description of the API, from the very schemas that bodies are checked against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.chat.openai_api import ChatBody, CompletionBody
from pipeline.chat.page_api import InsightBody, ReplyBody, VoteBody
from pipeline.chat.requests import Fields

REFERENCE = "#/components/schemas/{model}"
BODIES: dict[str, tuple[type[Fields], str, str]] = {
    "/v1/chat/completions": (ChatBody, "Answer a conversation", "text/event-stream"),
    "/v1/completions": (CompletionBody, "Continue texts", "text/event-stream"),
    "/api/reply": (ReplyBody, "Stream the answers of several stages", "application/x-ndjson"),
    "/api/insight": (InsightBody, "Look into an answer", ""),
    "/api/votes": (VoteBody, "Keep a vote", ""),
}
REFUSALS = {
    "400": "not JSON, not of the schema, or nothing that can be answered",
    "401": "no token, where one is needed",
    "403": "from another site, or by another name of this machine",
    "404": "no such stage",
    "408": "the body did not arrive in time",
    "413": "the body is too large",
    "415": "the body is no application/json",
    "429": "too many wait; try again",
    "507": "the disk is full",
}


def openapi(stages: Sequence[str]) -> dict[str, Any]:
    """Describe the API of a run with these stages (OpenAPI 3.1)."""
    schemas: dict[str, Any] = {
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["message", "type"],
                    "properties": {"message": {"type": "string"}, "type": {"type": "string"}},
                }
            },
        }
    }
    paths: dict[str, Any] = {}
    for path, (body, summary, streamed) in BODIES.items():
        schema = body.model_json_schema(ref_template=REFERENCE)
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
        content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
        if streamed:
            content[streamed] = {"schema": {"type": "string"}}
        paths[path] = {
            "post": {
                "summary": summary,
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _reference(body.__name__)}},
                },
                "responses": {"200": {"description": "done", "content": content}, **_refusals()},
            }
        }
    for path, summary in {"/v1/models": "List the stages", "/api/run": "Describe the run"}.items():
        paths[path] = {"get": {"summary": summary, "responses": {"200": _found(), **_refusals("401", "403")}}}
    paths["/v1/models/{model}"] = {
        "get": {
            "summary": "Describe a stage",
            "parameters": [
                {
                    "name": "model",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "examples": list(stages)},
                }
            ],
            "responses": {"200": _found(), **_refusals("400", "401", "403", "404")},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fledge", "version": "1", "description": f"stages: {', '.join(stages)}"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=name)}


def _found() -> dict[str, Any]:
    return {"description": "found", "content": {"application/json": {"schema": {"type": "object"}}}}


def _refusals(*codes: str) -> dict[str, Any]:
    content = {"application/json": {"schema": _reference("Error")}}
    return {code: {"description": REFUSALS[code], "content": content} for code in (codes or tuple(REFUSALS))}

"""What an MCP client gets of the endpoints beyond what gradio gives it: the type of each answer, the answer as data,
and a mistake of its own marked as an error. None of that fails the service.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

import gradio as gr
from gradio_client.utils import python_type_to_json_schema

from .endpoints import ENDPOINTS

# What leaves everything on the server and on the Hub as it was.
_ONLY_READ = {"find", "methods", "recommend", "check", "recipe", "compare", "card", "download"}


def structured(page: gr.Blocks) -> None:
    """Wraps the tools of a page that is served; nothing where it serves none."""
    served = page.mcp_server_obj
    if served is None:
        return
    from mcp import types

    handlers: dict[type, Callable[..., Awaitable[Any]]] = served.mcp_server.request_handlers
    list_tools, call_tool = handlers[types.ListToolsRequest], handlers[types.CallToolRequest]
    schemas = {
        name: python_type_to_json_schema(get_type_hints(function)["return"]) for name, function in ENDPOINTS.items()
    }

    async def listed(request: Any) -> Any:
        found = (await list_tools(request)).root
        tools = []
        for tool in found.tools:
            name = served.tool_to_endpoint[tool.name].lstrip("/")
            hints = types.ToolAnnotations(readOnlyHint=name in _ONLY_READ, destructiveHint=False)
            tools.append(tool.model_copy(update={"outputSchema": schemas[name], "annotations": hints}))
        return types.ServerResult(found.model_copy(update={"tools": tools}))

    async def called(request: Any) -> Any:
        result = (await call_tool(request)).root
        if result.isError:
            return types.ServerResult(result)
        answer = json.loads(result.content[0].text)
        return types.ServerResult(
            types.CallToolResult(content=result.content, structuredContent=answer, isError="error" in answer)
        )

    handlers[types.ListToolsRequest], handlers[types.CallToolRequest] = listed, called

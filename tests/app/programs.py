"""The clients of programs and of agents in tests: a mistake that is answered is not passed over."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import gradio_client
import httpx
import pytest


class Refused(Exception):
    """What an endpoint answered that it cannot do."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['what']} -> {error['fix']}")
        self.error = error


class Client(gradio_client.Client):
    """gradio's own client; `predict` raises `Refused` where that is the answer.

    It waits: on a busy machine the app is slow to answer, and five seconds are all that is waited for otherwise. It
    asks once the stream of its last answer has ended, too: gradio's client takes an open stream for the next
    question's, and calls that cancelled where the app had closed it already.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, verbose=False, httpx_kwargs={"timeout": 300}, **options)

    def predict(self, *args: Any, **arguments: Any) -> Any:
        if (stream := self.streaming_future) is not None:
            concurrent.futures.wait([stream])
        answer = super().predict(*args, **arguments)
        if set(answer) == {"error"}:
            raise Refused(answer["error"])
        return answer

    def answers(self) -> dict[str, dict[str, Any]]:
        """Endpoint -> the schema of its answers, in which nothing may be that is not named."""
        told = httpx.get(f"{self.src}gradio_api/info", timeout=300).json()["named_endpoints"]
        return {name: _exact(endpoint["returns"][0]["type"]) for name, endpoint in told.items()}


def _exact(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_exact(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    own = {key: _exact(value) for key, value in schema.items()}
    return {**own, "additionalProperties": False} if "properties" in own else own


@asynccontextmanager
async def agent(url: str) -> AsyncIterator[Any]:
    """A session of a real MCP client with the app."""
    pytest.importorskip("mcp", reason="The package mcp is not installed: MCP is left out.")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with (
        streamable_http_client(f"{url}gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


async def call(session: Any, tool: str, **arguments: Any) -> Any:
    """What a tool answers; the session holds it against the type that the tool has told."""
    answer = await session.call_tool(tool, arguments)
    assert not answer.isError, answer.content
    assert json.loads(answer.content[0].text) == answer.structuredContent
    return answer.structuredContent


def apart(visit: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs it in a thread of its own: the browser of other tests has a loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(visit())).result()

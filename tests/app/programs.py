"""The client of programs in tests: a mistake that is answered is an exception, so that none is passed over."""

from __future__ import annotations

from typing import Any

import gradio_client
import httpx


class Refused(Exception):
    """What an endpoint answered that it cannot do."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['what']} -> {error['fix']}")
        self.error = error


class Client(gradio_client.Client):
    """gradio's own client; `predict` raises `Refused` where that is the answer.

    It waits: on a busy machine the app is slow to answer, and five seconds are all that is waited for otherwise.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, verbose=False, httpx_kwargs={"timeout": 300}, **options)

    def predict(self, *args: Any, **arguments: Any) -> Any:
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

"""The endpoints, from the real `gradio_client` and from a real MCP client."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from gradio_client import Client

from tests.app.conftest import DATASET, ENTITIES, SENTIMENT


@pytest.fixture(scope="module")
def client(app):
    return Client(app.url, verbose=False)


def test_a_program_checks_merges_compares_and_evaluates(client: Client) -> None:
    report = client.predict(models=SENTIMENT, api_name="/check")
    assert report["ok"] and report["cost"]["output_bytes"] > 0
    merged = client.predict(models=SENTIMENT, method="regmean", options={"alpha": 0.5}, api_name="/merge")
    assert "alpha: 0.5" in merged["recipe"]
    everyone = [*SENTIMENT, merged["name"]]
    compared = client.predict(models=everyone, texts=["a good film"], api_name="/compare")
    assert compared["models"] == ["films-sentiment", "shops-sentiment", "ensemble", "regmean"]
    scored = client.predict(models=everyone, data={"films": f"{DATASET}/test"}, limit=3, api_name="/evaluate")
    rows = {row["model"]: row for row in scored["table"]}
    assert set(rows) == {"films-sentiment", "shops-sentiment", "ensemble", "regmean"}
    best = max(rows[name]["films"] for name in ("films-sentiment", "shops-sentiment"))
    assert rows["regmean"]["gain"] == pytest.approx(rows["regmean"]["films"] - best)
    assert {score["examples"] for score in scored["scores"]} == {3}
    # Nothing tells where things lie on the server.
    assert "fusehub-visits" not in json.dumps([merged, compared, scored])


def test_a_merge_is_known_to_its_maker_alone(app, client: Client) -> None:
    merged = client.predict(models=SENTIMENT, method="mean", options={}, api_name="/merge")
    name, _, key = merged["name"].partition("@")
    other = Client(app.url, verbose=False)
    for guess, said in ((name, "does not exist"), (f"{name}@{key[:-1]}?", "There is no merge mean with that key")):
        with pytest.raises(Exception, match=said):
            other.predict(models=[SENTIMENT[0], guess], texts=["fine"], api_name="/compare")
    with pytest.raises(Exception, match="There is no merge regmean here"):
        other.predict(models=[f"regmean@{key}"], texts=["fine"], api_name="/compare")
    # Whoever was given the whole name may ask the merge.
    told = other.predict(models=[merged["name"]], texts=["fine"], api_name="/compare")
    assert told["models"] == ["mean"]


def test_errors_reach_a_program_as_words(client: Client) -> None:
    def refused(said: str, api_name: str, **arguments) -> None:
        with pytest.raises(Exception, match=said):
            client.predict(**arguments, api_name=api_name)

    refused("does not exist", "/check", models=["nobody/nothing", SENTIMENT[0]])
    refused("A merge takes two models or more", "/check", models=SENTIMENT[:1])
    refused("A list of texts is expected", "/check", models="ada/films-sentiment")
    refused("20 models are too many: 8 fit here", "/check", models=SENTIMENT * 10)
    refused("Did you mean 'regmean'", "/merge", models=SENTIMENT, method="regmaen", options={})
    refused("no option of regmean 'alpa'", "/merge", models=SENTIMENT, method="regmean", options={"alpa": 1})
    refused("different tasks|cannot be merged|architectures", "/merge", models=[SENTIMENT[0], "ada/other-sentiment"],
            method="mean", options={})  # fmt: skip
    refused("There is no text", "/compare", models=SENTIMENT, texts=[])
    refused("51 texts are too many at once", "/compare", models=SENTIMENT, texts=["fine"] * 51)
    refused("No model was named", "/compare", models=[], texts=["fine"])
    refused("task", "/compare", models=[SENTIMENT[0], ENTITIES[0]], texts=["fine"])
    refused("No dataset was named", "/evaluate", models=SENTIMENT, data={})
    refused("does not exist", "/evaluate", models=SENTIMENT, data={"x": "ada/nothing"})


def test_only_the_four_endpoints_are_documented(client: Client) -> None:
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert sorted(named) == ["/check", "/compare", "/evaluate", "/merge"]
    assert all(endpoint["parameters"] and endpoint["description"] for endpoint in named.values())


def test_an_mcp_client_checks_merges_compares_and_evaluates(app) -> None:
    pytest.importorskip("mcp", reason="The package mcp is not installed: MCP is left out.")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def call(session: ClientSession, tool: str, **arguments):
        answer = await session.call_tool(tool, arguments)
        assert not answer.isError, answer.content
        return json.loads(answer.content[0].text)

    async def visit() -> None:
        async with (
            streamable_http_client(f"{app.url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert set(tools) == {"check", "merge", "compare", "evaluate"}
            assert tools["merge"].inputSchema["properties"]["models"]["type"] == "array"
            assert (await call(session, "check", models=SENTIMENT))["ok"]
            merged = await call(session, "merge", models=SENTIMENT, method="regmean", options={"alpha": 0.5})
            everyone = [*SENTIMENT, merged["name"]]
            compared = await call(session, "compare", models=everyone, texts=["a good film"])
            assert compared["models"] == ["films-sentiment", "shops-sentiment", "ensemble", "regmean"]
            scored = await call(session, "evaluate", models=everyone, data={"films": DATASET}, limit=2)
            assert [row["model"] for row in scored["table"]].count("regmean") == 1
            refused = await session.call_tool("check", {"models": ["nobody/nothing", SENTIMENT[0]]})
            assert refused.isError and "does not exist" in refused.content[0].text

    # In a thread of its own: the browser of other tests has a loop in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, visit()).result()

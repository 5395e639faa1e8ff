"""The endpoints, from the real `gradio_client` and from a real MCP client."""

from __future__ import annotations

import io
import json
import zipfile

import httpx
import jsonschema
import pytest
from huggingface_hub import HfApi, ModelCard

from fusehub.errors import ACTIONS
from fusehub.methods import METHODS
from space.programs.endpoints import ENDPOINTS
from space.programs.told import DOES
from tests.app.conftest import DATASET, ENTITIES, SENTIMENT, serving
from tests.app.programs import Client, Refused, agent, apart, call

TEXTS = ["Anna visited Paris .", "Bruno lives in London .", "the music was good"]


@pytest.fixture(scope="module")
def client(app):
    return Client(app.url)


@pytest.fixture(scope="module")
def owner(app, hub):
    return Client(app.url, oauth_token=hub.token("carl"))


def test_a_program_goes_the_whole_way(app, client: Client, owner: Client, hub) -> None:
    """By every endpoint; every answer is of the type that is told, and calls each model as it was asked for."""
    answers, schemas = {}, client.answers()

    def ask(name: str, by: Client = client, **arguments):
        answers[name] = by.predict(**arguments, api_name=f"/{name}")
        jsonschema.validate(answers[name], schemas[f"/{name}"])
        return answers[name]

    found = ask("find", query="sentiment", with_statistics=True)["models"]
    assert {model["id"] for model in found} >= set(SENTIMENT)
    assert all(model["statistics_at"] and model["task"] == "text-classification" for model in found)
    known = {way["name"]: way for way in ask("methods")["methods"]}
    assert set(known) == {name for name, method in METHODS.items() if not method.needs_data}
    jsonschema.validate({"alpha": 0.5}, known["regmean"]["options"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"alpa": 0.5}, known["regmean"]["options"])
    assert known["task_arithmetic"]["takes_base"] == "needed" and "density" in known["ties"]["options"]["properties"]
    advice = ask("recommend", models=SENTIMENT)
    assert advice["recommended"]["can_run"] and advice["reason"]
    assert {way["method"] for way in advice["others"]} < set(known)

    report = ask("check", models=SENTIMENT, base_model="ada/base")
    assert report["ok"] and report["cost"]["output_bytes"] > 0 and report["cost"]["seconds"] > 0
    assert [model["name"] for model in report["models"]] == SENTIMENT == list(report["statistics"])
    merged = ask("merge", models=SENTIMENT, method="regmean", options={"alpha": 0.5}, weights={SENTIMENT[0]: 2})
    assert "alpha: 0.5" in merged["recipe"] and "weight: 2.0" in merged["recipe"]
    assert merged["models"] == [merged["name"]] and merged["weights"] == {SENTIMENT[0]: 2.0, SENTIMENT[1]: 1.0}
    everyone = [*SENTIMENT, merged["name"]]
    compared = ask("compare", models=everyone, texts=["a good film"])
    assert compared["models"] == [*SENTIMENT, "ensemble", merged["name"]] and compared["ensemble_of"] == SENTIMENT
    assert [answer["model"] for answer in compared["texts"][0]["answers"]] == compared["models"]
    scored = ask("evaluate", models=everyone, data={"films": f"{DATASET}/test"}, limit=3)
    rows = {row["model"]: row for row in scored["table"]}
    assert set(rows) == set(compared["models"])
    best = max(rows[name]["main"]["films"] for name in SENTIMENT)
    assert rows[merged["name"]]["gain"] == pytest.approx(rows[merged["name"]]["main"]["films"] - best)
    assert {score["examples"] for score in scored["scores"]} == {3} and all(score["few"] for score in scored["scores"])
    assert any(merged["name"] in line for line in scored["summary"])
    told = ask("recipe", recipe=merged["name"])
    assert told["left_out"] == [] and told["recipe"] == merged["recipe"] and told["arguments"]["base_model"] is None
    assert [*told["arguments"]["weights"].values()] == [2.0, 1.0] and told["arguments"]["options"]["alpha"] == 0.5
    repo = "carl/merged-by-a-program"
    card = ask("card", merge=merged["name"], repo_id=repo, license="mit")
    assert f'model="{repo}"' in card["text"] and "license: mit" in card["text"] and card["license"] == "apache-2.0"
    # What was scored is in it.
    assert "name: films" in card["text"]
    download = ask("download", merge=merged["name"])
    weights = next(file for file in download["files"] if file["name"] == "model.safetensors")
    content = httpx.get(weights["url"]).content
    assert len(content) == weights["size"]
    with zipfile.ZipFile(io.BytesIO(httpx.get(download["zip"]).content)) as archive:
        assert archive.read("regmean/model.safetensors") == content
    pushed = ask("push", owner, merge=merged["name"], repo_id="merged-by-a-program", demo=True)
    assert pushed["repo_id"] == repo and pushed["private"]
    api = HfApi(endpoint=hub.url, token=hub.token("carl"))
    info = api.model_info(repo, files_metadata=True)
    assert info.sha == pushed["commit"]
    space = api.space_info(f"{repo}-demo")
    assert space.private and space.card_data.get("models") == [repo] and pushed["demo_url"].endswith(f"{repo}-demo")
    assert ModelCard.load(api.hf_hub_download(repo, "README.md")).data.base_model == SENTIMENT
    made = ask("statistics", model=ENTITIES[1], texts=TEXTS)
    assert made["examples"] == 3 and "3 texts" in made["warnings"][0]
    assert set(answers) == set(ENDPOINTS)
    # Nothing tells where things lie on the server.
    assert "fusehub-" not in json.dumps(answers).replace("fusehub-statistics", "")


def test_a_merge_takes_the_base_the_labels_and_the_statistics_that_it_is_given(client: Client, app) -> None:
    """Without statistics of its own, the second tagger cannot be merged by RegMean."""

    def merge(models, **arguments):
        return client.predict(models=models, **arguments, api_name="/merge")

    with pytest.raises(Refused, match="has no published statistics") as caught:
        merge(ENTITIES, method="regmean")
    assert [own["code"] for own in caught.value.error["actions"]] == ["collect-statistics"]
    made = client.predict(model=ENTITIES[1], texts=TEXTS, api_name="/statistics")["name"]
    merged = merge(ENTITIES, method="regmean", statistics={ENTITIES[1]: made})
    assert f"statistics: {made}" in merged["recipe"] and str(app.temporary) not in json.dumps(merged)
    # Of a repo that says it has some, and of the update.
    merged = merge(SENTIMENT, method="regmean", statistics={SENTIMENT[1]: SENTIMENT[1]})
    assert f"statistics: {SENTIMENT[1]}@" in merged["recipe"]
    merged = merge(SENTIMENT, method="regmean", statistics={SENTIMENT[1]: "data-free"}, base_model="ada/base")
    assert "statistics: data-free" in merged["recipe"] and merged["base_model"] == "ada/base"
    merged = merge(SENTIMENT, method="task_arithmetic", base_model="ada/base")
    assert merged["base_model"] == "ada/base"
    merged = merge(SENTIMENT, method="mean", heads="keep")
    assert len(merged["models"]) == 2
    told = client.predict(models=merged["models"], texts=["fine"], api_name="/compare")
    assert told["models"] == merged["models"]
    # What is not said is what is recommended.
    advice = client.predict(models=SENTIMENT, api_name="/recommend")["recommended"]
    assert merge(SENTIMENT)["method"] == advice["method"]


def test_a_recipe_becomes_the_arguments_of_the_same_merge(client: Client, hub) -> None:
    """From its text, from the repo of a merge, and of one with statistics that were made here."""

    def bytes_of(merged) -> bytes:
        files = client.predict(merge=merged["name"], api_name="/download")["files"]
        return httpx.get(next(file["url"] for file in files if file["name"] == "model.safetensors")).content

    def read(recipe: str):
        return client.predict(recipe=recipe, api_name="/recipe")

    made = client.predict(model=ENTITIES[1], texts=TEXTS, api_name="/statistics")["name"]
    first = client.predict(
        models=ENTITIES, method="regmean", options={"alpha": 0.7}, weights={ENTITIES[0]: 3},
        statistics={ENTITIES[1]: made}, api_name="/merge",
    )  # fmt: skip
    told = read(first["name"])
    assert told["left_out"] == [] and made in told["arguments"]["statistics"].values()
    again = client.predict(**told["arguments"], api_name="/merge")
    assert again["recipe"] == first["recipe"] and bytes_of(again) == bytes_of(first)
    assert read(first["recipe"])["arguments"] == told["arguments"]
    # As mergekit writes one; what a merge here cannot do is named, and the rest holds.
    written = "\n".join(
        ["merge_method: ties", "base_model: ada/base", "dtype: bfloat16", "parameters: {epsilon: 0.1}", "models:"]
        + [
            f"- {{model: {name}, parameters: {{weight: {place}, density: 0.5}}}}"
            for place, name in enumerate(SENTIMENT, 1)
        ]
    )
    told = read(written)
    assert told["left_out"] == ["dtype: 'bfloat16'"] and any("epsilon does nothing" in note for note in told["notes"])
    assert told["arguments"]["weights"] == {SENTIMENT[0]: 1.0, SENTIMENT[1]: 2.0}
    assert told["arguments"]["options"] == {"density": 0.5} and told["arguments"]["base_model"] == "ada/base"
    assert client.predict(**told["arguments"], api_name="/merge")["options"]["density"] == 0.5
    told = read(written.replace("weight: 2, density: 0.5", "weight: [0, 1], density: 0.4"))
    assert f"weight of {SENTIMENT[1]}: [0.0, 1.0]" in told["left_out"]
    assert f"density of {SENTIMENT[1]}: 0.4" in told["left_out"] and "density" not in told["arguments"]["options"]
    # What is said once of all models holds for each that says nothing else.
    head, _, models = written.partition("parameters: {epsilon: 0.1}")
    once = f"{head}parameters: {{weight: 3, density: 0.25}}{models.replace('weight: 1, density: 0.5', '')}"
    told = read(once.replace(", density: 0.5", ""))
    assert told["arguments"]["weights"] == {SENTIMENT[0]: 3.0, SENTIMENT[1]: 2.0}
    assert told["arguments"]["options"] == {"density": 0.25}
    # From the Hub, as this caller may read it.
    api = HfApi(endpoint=hub.url, token=hub.token("carl"))
    api.create_repo("carl/a-recipe", private=True)
    api.upload_file(repo_id="carl/a-recipe", path_in_repo="fusehub_recipe.yaml", path_or_fileobj=written.encode())
    owner = Client(client.src, oauth_token=hub.token("carl"))
    assert owner.predict(recipe="carl/a-recipe", api_name="/recipe")["arguments"]["options"] == {"density": 0.5}
    for recipe, said in (
        ("carl/a-recipe", "or is private"),
        (SENTIMENT[0], "has no recipe"),
        ("regmean@nobody", "There is no merge regmean with that key"),
        ("merge_method: regmean", "at least two models"),
        ("merge_method: regmaen\nmodels: [{model: a/a}, {model: b/b}]", "Did you mean 'regmean'"),
        ("merge_method: mean\nmodels: [{model: a/a}, {model: a/a}]", "names a model twice"),
        ("merge_method: mean\nmodel: [", "is not YAML"),
        ("", "The name of the recipe is empty"),
    ):
        with pytest.raises(Refused, match=said):
            read(recipe)


def test_what_was_made_is_known_to_its_maker_alone(app, client: Client) -> None:
    merged = client.predict(models=SENTIMENT, method="mean", options={}, api_name="/merge")
    name, _, key = merged["name"].partition("@")
    other = Client(app.url)
    for guess, said in ((name, "does not exist"), (f"{name}@{key[:-1]}?", "There is no merge mean with that key")):
        with pytest.raises(Refused, match=said):
            other.predict(models=[SENTIMENT[0], guess], texts=["fine"], api_name="/compare")
    with pytest.raises(Refused, match="There is no merge regmean here"):
        other.predict(models=[f"regmean@{key}"], texts=["fine"], api_name="/compare")
    for guess in (name, f"{name}@{key[:-1]}?", f"regmean@{key}", "", "@", f"@{key}"):
        for endpoint in ("/card", "/download"):
            with pytest.raises(Refused, match="There is no merge"):
                other.predict(merge=guess, api_name=endpoint)
        if "@" in guess:
            with pytest.raises(Refused, match="There is no merge"):
                other.predict(recipe=guess, api_name="/recipe")
        with pytest.raises(Refused, match="There is no merge"):
            other.predict(merge=guess, repo_id="carl/x", api_name="/push")
    for guess in (f"statistics@{key}", "statistics@none"):
        with pytest.raises(Refused, match="There are no statistics with that key"):
            other.predict(models=SENTIMENT, statistics={SENTIMENT[0]: guess}, api_name="/recommend")
    # Whoever was given the whole name may ask the merge.
    told = other.predict(models=[merged["name"]], texts=["fine"], api_name="/compare")
    assert told["models"] == [merged["name"]]


def test_a_mistake_is_an_answer_in_words_for_programs(app, client: Client) -> None:
    def refused(said: str, api_name: str, **arguments) -> None:
        with pytest.raises(Refused, match=said) as caught:
            client.predict(**arguments, api_name=api_name)
        assert "step " not in str(caught.value) and "--" not in caught.value.error["fix"], caught.value

    refused("does not exist", "/check", models=["nobody/nothing", SENTIMENT[0]])
    refused("A merge takes two models or more", "/check", models=SENTIMENT[:1])
    refused("models: input should be a valid list", "/check", models="ada/films-sentiment")
    refused("models.1.: input should be a valid string", "/check", models=[SENTIMENT[0], 7])
    refused("20 models are too many: 8 fit here", "/check", models=SENTIMENT * 10)
    refused("labels: ada/x is none of the models", "/check", models=SENTIMENT, labels={"ada/x": ["a"]})
    refused("Did you mean 'regmean'", "/merge", models=SENTIMENT, method="regmaen", options={})
    refused("no option of regmean 'alpa'", "/merge", models=SENTIMENT, method="regmean", options={"alpa": 1})
    refused("options: input should be a valid dict", "/merge", models=SENTIMENT, method="mean", options=[1])
    refused("weights: ada/x is none of the models", "/merge", models=SENTIMENT, weights={"ada/x": 1})
    refused("Give `base_model`", "/merge", models=SENTIMENT, method="task_arithmetic")
    refused("different tasks|cannot be merged|architectures", "/merge", models=[SENTIMENT[0], "ada/other-sentiment"],
            method="mean", options={})  # fmt: skip
    refused("a dataset or texts, and not both", "/statistics", model=SENTIMENT[0])
    refused("limit: input should be less than or equal to 5000", "/statistics", model=SENTIMENT[0], data=DATASET,
            limit=10**9)  # fmt: skip
    refused("no task 'sentiment'", "/find", task="sentiment")
    refused("sort: input should be 'downloads' or 'last_modified'", "/find", sort="likes")
    refused("There is no text", "/compare", models=SENTIMENT, texts=[])
    refused("51 texts are too many at once", "/compare", models=SENTIMENT, texts=["fine"] * 51)
    refused("No model was named", "/compare", models=[], texts=["fine"])
    refused("task", "/compare", models=[SENTIMENT[0], ENTITIES[0]], texts=["fine"])
    refused("No dataset was named", "/evaluate", models=SENTIMENT, data={})
    refused("does not exist", "/evaluate", models=SENTIMENT, data={"x": "ada/nothing"})
    assert set(DOES) == set(ACTIONS)
    # By plain HTTP: the service has not failed, and says what is wrong.
    call = f"{app.url}gradio_api/call/card"
    event = httpx.post(call, json={"data": ["mean@none", None, None]}).json()["event_id"]
    said = httpx.get(f"{call}/{event}").text
    assert "event: complete" in said and "event: error" not in said and "There is no merge mean" in said


def test_every_endpoint_is_documented(client: Client) -> None:
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert sorted(named) == sorted(f"/{name}" for name in ENDPOINTS)
    assert all(endpoint["description"] for endpoint in named.values())
    method = next(own for own in named["/merge"]["parameters"] if own["parameter_name"] == "method")
    assert "regmean" in method["python_type"]["type"]


def test_an_agent_goes_the_way_by_mcp(app) -> None:
    async def visit() -> None:
        async with agent(app.url) as session:
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert set(tools) == set(ENDPOINTS)
            for tool in tools.values():
                own = tool.inputSchema["properties"].values()
                assert tool.description and tool.outputSchema["properties"] and all(one["description"] for one in own)
            takes = tools["merge"].inputSchema["properties"]
            assert takes["models"]["type"] == "array" and "regmean" in takes["method"]["oneOf"][1]["enum"]
            # What is said of an argument in two lines is there as a whole.
            assert takes["statistics"]["description"].endswith("left out: what its owner has published.")
            assert tools["check"].annotations.readOnlyHint and not tools["push"].annotations.readOnlyHint
            assert SENTIMENT[0] in [model["id"] for model in (await call(session, "find", query="films"))["models"]]
            assert "regmean" in [way["name"] for way in (await call(session, "methods"))["methods"]]
            assert (await call(session, "check", models=SENTIMENT))["ok"]
            assert (await call(session, "recommend", models=SENTIMENT))["recommended"]["can_run"]
            merged = await call(session, "merge", models=SENTIMENT, method="regmean", options={"alpha": 0.5})
            assert tools["recipe"].annotations.readOnlyHint
            assert "YAML" in tools["recipe"].inputSchema["properties"]["recipe"]["description"]
            again = (await call(session, "recipe", recipe=merged["recipe"]))["arguments"]
            assert (await call(session, "merge", **again))["recipe"] == merged["recipe"]
            everyone = [*SENTIMENT, merged["name"]]
            compared = await call(session, "compare", models=everyone, texts=["a good film"])
            assert compared["models"] == [*SENTIMENT, "ensemble", merged["name"]]
            scored = await call(session, "evaluate", models=everyone, data={"films": DATASET}, limit=2)
            assert [row["model"] for row in scored["table"]].count(merged["name"]) == 1
            assert (await call(session, "card", merge=merged["name"]))["text"].startswith("---\n")
            download = await call(session, "download", merge=merged["name"])
            assert download["zip"].startswith(app.url) and httpx.get(download["zip"]).status_code == 200
            refused = await session.call_tool("check", {"models": ["nobody/nothing", SENTIMENT[0]]})
            assert refused.isError and "does not exist" in refused.structuredContent["error"]["what"]
            wrong = await session.call_tool("merge", {"models": SENTIMENT, "method": "regmaen"})
            assert wrong.isError and "regmaen" in wrong.content[0].text
            nobody = await session.call_tool("push", {"merge": merged["name"], "repo_id": "carl/x"})
            assert nobody.isError, "nobody is logged in here"

    apart(visit)


def test_an_agent_makes_statistics_and_pushes_as_whoever_is_logged_in(hub, tmp_path) -> None:
    """On a laptop, whose user's token is stored: an MCP client has none of its own."""

    async def visit(url: str) -> None:
        async with agent(url) as session:
            made = await call(session, "statistics", model=ENTITIES[1], texts=TEXTS)
            assert made["examples"] == 3 and "3 texts" in made["warnings"][0]
            merged = await call(
                session, "merge", models=ENTITIES, method="regmean", statistics={ENTITIES[1]: made["name"]}
            )
            pushed = await call(session, "push", merge=merged["name"], repo_id="by-an-agent", license="mit")
            assert pushed["repo_id"] == "carl/by-an-agent" and pushed["private"] and pushed["demo_url"] is None
            api = HfApi(endpoint=hub.url, token=hub.token("carl"))
            info = api.model_info("carl/by-an-agent")
            assert info.sha == pushed["commit"] and info.private and info.card_data.license == "mit"
            again = await session.call_tool("push", {"merge": merged["name"], "repo_id": "by-an-agent"})
            assert again.isError and "name-another" in again.content[0].text

    with serving(hub, tmp_path, HF_TOKEN=hub.token("carl")) as own:
        apart(lambda: visit(own.url))

"""No reference of a visitor leads to a folder of a shared machine, to another host, or past the gate of a model."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from space.visit import DOWNLOADS
from tests.app.conftest import DATASET, PRIVATE, ROOT, SENTIMENT, serving
from tests.app.programs import Client, Refused
from tests.unit.experts import edit_json, relatives
from tests.unit.lora_cases import adapter

GATED = "ada/gated-sentiment"


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """What lies on the server: a model that fits the visitors' models, and texts."""
    folder = tmp_path_factory.mktemp("machine")
    secret, _ = relatives(folder)
    # Where the app is started there are models too, under names that the Hub could have.
    for name in ("kept", "owner/kept"):
        shutil.copytree(secret, folder / "started" / name)
    (folder / "texts.csv").write_text("text,label\nthe server's own secret,positive\nand more of it,negative\n")
    return secret


@pytest.fixture(scope="module")
def elsewhere():
    """A server that is not the Hub, and what it was asked for."""
    asked: list[str] = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


@pytest.fixture(scope="module")
def strangers(hub, machine, elsewhere, tmp_path_factory):
    """What eve publishes: adapters whose base is a folder of the server, and data that lies there or elsewhere."""
    api = HfApi(endpoint=hub.url, token=hub.token("eve"))
    folder = tmp_path_factory.mktemp("eve")
    path, _ = adapter(folder / "adapter", machine, target_modules=["query"])
    (path / "README.md").unlink()
    bases = {"absolute": str(machine), "user": "~/models", "up": f"../../../..{machine}", "file": f"file://{machine}"}
    bases |= {"one": "kept", "two": "owner/kept", "here": "./kept", "link": f"{hub.url}/owner/kept"}
    for name, base in {**bases, "gated": GATED}.items():
        edit_json(path / "adapter_config.json", base_model_name_or_path=base, revision=None)
        api.create_repo(f"eve/{name}")
        api.upload_folder(repo_id=f"eve/{name}", folder_path=path, commit_message="Adapter")
    texts = machine.parent / "texts.csv"
    data = {"here": str(texts), "root": f"/{texts.name}", "elsewhere": f"{elsewhere[0]}/x.csv", "up": "../../x.csv"}
    for name, pattern in data.items():
        front = json.dumps(
            {"configs": [{"config_name": "default", "data_files": [{"split": "test", "path": pattern}]}]}
        )
        api.create_repo(f"eve/data-{name}", repo_type="dataset")
        api.upload_file(
            repo_id=f"eve/data-{name}", repo_type="dataset", path_in_repo="README.md",
            path_or_fileobj=f"---\n{front}\n---\n".encode(),
        )  # fmt: skip
    return [*(f"eve/{name}" for name in bases)], [f"eve/data-{name}/test" for name in data]


@pytest.fixture(scope="module")
def shared(hub, machine, strangers, tmp_path_factory):
    started = machine.parent / "started"
    with serving(hub, tmp_path_factory.mktemp("space"), started_in=started, SPACE_ID="ada/fusehub") as served:
        yield served
        assert "in FuseHub itself" not in served.log.read_text()


def models(machine, hub, adapters):
    """Every form in which a visitor can name a folder of the server as a model."""
    name = str(machine)
    yield from (name, f"{name}/", f"file://{name}", f"hf://{name}", f"hf:/{name}", f"..{name}", f"~/..{name}")
    yield from (f"{hub.url}/{name}", f"{hub.url}{name}", f"https://huggingface.co/{name}", f"{hub.url}/models/{name}")
    yield from (f"{name}@main", f"{name}+{SENTIMENT[0]}", f"{SENTIMENT[0]}+{name}", f"hf://{name}+eve/absolute")
    for here in ("kept", "owner/kept"):
        yield from (here, f"./{here}", f"{here}/", f"hf://{here}", f"{hub.url}/{here}", f"{hub.url}/{here}/tree/main")
        yield from (f"{here}@main", f"{here}+eve/absolute", f"{here}+eve/{'one' if here == 'kept' else 'two'}")
    yield from (".", "~")
    yield from adapters
    yield from (f"{SENTIMENT[0]}+{found}/x" for found in adapters)


def refused(call) -> str:
    with pytest.raises(Exception) as caught:
        call()
    return str(caught.value)


def test_no_endpoint_reaches_a_folder_of_the_server_by_any_name_of_a_model(shared, hub, machine, strangers) -> None:
    texts, data, two = ["fine"], {"x": f"{DATASET}/test"}, SENTIMENT
    # gradio's client loses an answer where another thread's question is the last of its stream.
    clients: dict[tuple[int, str | None], Client] = {}

    def client(token: str | None = None) -> Client:
        key = (threading.get_ident(), token)
        if key not in clients:
            clients[key] = Client(shared.url, **({"oauth_token": token} if token else {}))
        return clients[key]

    def ask(endpoint: str, token: str | None = None, **arguments):
        return lambda name: client(token).predict(
            **{key: value(name) if callable(value) else value for key, value in arguments.items()}, api_name=endpoint
        )

    def both(name: str) -> list[str]:
        return [name, two[0]]

    def said(name: str) -> dict[str, str]:
        return {two[0]: name}

    def itself(name: str) -> str:
        return name

    calls = {
        "/find": [ask("/find", base=itself)],
        "/methods": [],
        "/recommend": [
            ask("/recommend", models=both),
            ask("/recommend", models=two, base_model=itself),
        ],
        "/check": [ask("/check", models=both), ask("/check", models=two, base_model=itself)],
        "/recipe": [ask("/recipe", recipe=itself)],
        "/statistics": [ask("/statistics", model=itself, texts=texts)],
        "/merge": [
            ask("/merge", models=both, method="mean"),
            ask("/merge", models=two, method="task_arithmetic", base_model=itself),
            ask("/merge", models=two, method="regmean", statistics=said),
        ],
        "/compare": [ask("/compare", models=lambda name: [name], texts=texts)],
        "/evaluate": [ask("/evaluate", models=lambda name: [name], data=data)],
        # What takes merges takes no other names; where a push goes to is no reference that is read.
        "/card": [ask("/card", merge=itself)],
        "/push": [ask("/push", hub.token("eve"), merge=itself, repo_id="eve/x")],
        "/download": [ask("/download", merge=itself)],
    }
    assert set(client().view_api(return_format="dict")["named_endpoints"]) == set(calls), "an endpoint is not walked"
    names = list(models(machine, hub, strangers[0]))

    def walk(endpoint: str, call, name: str) -> None:
        try:
            # Nothing was fine-tuned from these adapters: that is no reference that is followed.
            answer = call(name)
            assert endpoint == "/find" and answer == {"models": []}, (endpoint, name, answer)
            return
        except Refused as error:
            said = str(error)
        assert "in FuseHub itself" not in said, (endpoint, name, said)
        # The words of visitors may come back, and nothing of the machine that they did not say themselves.
        assert not any(str(place) in said for place in (shared.temporary, shared.log.parent, ROOT)), (name, said)

    with ThreadPoolExecutor(4) as asking:
        for endpoint, own in calls.items():
            for call in own:
                list(asking.map(lambda name, endpoint=endpoint, call=call: walk(endpoint, call, name), names))


def test_data_is_read_from_the_hub_and_from_nowhere_else(shared, hub, machine, strangers, elsewhere) -> None:
    client = Client(shared.url)
    csv = machine.parent / "texts.csv"
    named = [str(csv), f"hf:/{csv}", f"file://{csv}", f"{hub.url}/{csv}", f"hf://datasets/{csv}", f"..{csv}"]
    named += [
        "kept",
        "owner/kept",
        "../texts.csv",
        f"{elsewhere[0]}/x.csv",
        f"{elsewhere[0]}/datasets/ada/reviews",
    ]
    for source in [*named, *strangers[1]]:
        for call in (
            lambda source=source: client.predict(models=SENTIMENT, data={"x": source}, api_name="/evaluate"),
            lambda source=source: client.predict(model=SENTIMENT[0], data=source, api_name="/statistics"),
        ):
            said = refused(call)
            assert "in FuseHub itself" not in said and "secret" not in said, (source, said)
            assert not any(str(place) in said for place in (shared.temporary, shared.log.parent, ROOT)), (source, said)
    assert elsewhere[1] == []
    assert client.predict(models=SENTIMENT, data={"x": f"{DATASET}/test"}, api_name="/evaluate")["scores"]


def test_what_one_may_read_is_not_answered_to_another_through_an_adapter(shared, hub) -> None:
    """The base is in the memory of the process that answers, and in the cache, since its owner asked it."""
    owner = Client(shared.url, oauth_token=hub.token("ada"))
    assert owner.predict(models=[GATED], texts=["fine"], api_name="/compare")["models"]
    assert owner.predict(models=["eve/gated"], texts=["fine"], api_name="/compare")["models"]
    for token in (None, hub.token("carl"), hub.token("eve")):
        stranger = Client(shared.url, oauth_token=token)
        for name in ("eve/gated", f"{GATED}+eve/gated", f"{GATED}+eve/absolute"):
            for call in (
                lambda name=name, stranger=stranger: stranger.predict(
                    models=[name], texts=["fine"], api_name="/compare"
                ),
                lambda name=name, stranger=stranger: stranger.predict(
                    models=[name, SENTIMENT[0]], method="mean", api_name="/merge"
                ),
            ):
                assert "is gated" in refused(call), name


def test_what_one_visitor_was_answered_is_not_answered_to_another_who_may_not_read_it(shared, hub) -> None:
    """By any endpoint, by name and by commit: files, models and reports are in memory and on the disk by then."""
    api = HfApi(endpoint=hub.url, token=hub.token("ada"))
    owner, *strangers = (
        Client(shared.url, oauth_token=token) for token in (hub.token("ada"), hub.token("carl"), None)
    )
    for name, said in ((f"{PRIVATE}@{api.model_info(PRIVATE).sha}", "or is private"), (GATED, "is gated")):
        for call in _calls([name, SENTIMENT[1]]):
            assert call(owner)
            for stranger in strangers:
                assert said in refused(lambda call=call, stranger=stranger: call(stranger)), name


def test_what_a_visitor_made_here_is_reached_by_its_secret_name_alone(shared, hub) -> None:
    """Its folder is no name, neither for models and data nor as the base of an adapter."""
    owner, stranger = (Client(shared.url) for _ in range(2))
    name, _, key = owner.predict(models=SENTIMENT, method="mean", api_name="/merge")["name"].partition("@")
    made = next(path.parent for path in shared.temporary.rglob("fusehub_recipe.yaml"))
    api = HfApi(endpoint=hub.url, token=hub.token("eve"))
    config = json.loads(Path(api.hf_hub_download("eve/absolute", "adapter_config.json")).read_text())
    api.upload_file(
        repo_id="eve/absolute", path_in_repo="adapter_config.json",
        path_or_fileobj=json.dumps(config | {"base_model_name_or_path": str(made)}).encode(),
    )  # fmt: skip
    for name in (str(made), f"hf://{made}", "eve/absolute", f"{SENTIMENT[0]}+{made}"):
        for call in _calls([name, SENTIMENT[1]]):
            refused(lambda call=call: call(stranger))
    for data in (made / "fusehub_recipe.yaml", made.parent):
        refused(lambda data=data: stranger.predict(models=SENTIMENT, data={"x": str(data)}, api_name="/evaluate"))
    # What leads to a download is the merge's own secret, which only its page tells: no name, key or path.
    place = urllib.parse.quote(str(made), safe="")
    for guess in ("", name, key, f"{name}@{key}", made.name, place, f"..%2F{place}"):
        for address in (f"{guess}.zip", f"{guess}/config.json", f"{guess}/..%2Fconfig.json"):
            assert _status(f"{shared.url}{DOWNLOADS}/{address}") == 404, address
    assert _status(f"{shared.url}gradio_api/file={made}/config.json") == 403


def _status(asked: str | urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def _calls(models: list[str]):
    """Every endpoint, asked for these models, and for the first of them as a base and as what holds statistics."""
    data, taken = {"x": f"{DATASET}/test"}, {SENTIMENT[0]: models[0]}
    yield lambda client: client.predict(models=models, api_name="/check")
    yield lambda client: client.predict(models=SENTIMENT, base_model=models[0], api_name="/check")
    yield lambda client: client.predict(models=models, api_name="/recommend")
    yield lambda client: client.predict(model=models[0], texts=["fine"] * 3, api_name="/statistics")
    yield lambda client: client.predict(models=SENTIMENT, method="regmean", statistics=taken, api_name="/merge")
    yield lambda client: client.predict(models=models, method="mean", api_name="/merge")
    yield lambda client: client.predict(models=models, texts=["fine"], api_name="/compare")
    yield lambda client: client.predict(models=models, data=data, limit=2, api_name="/evaluate")


def test_a_recipe_leads_to_nothing_on_the_machine(shared, hub, machine) -> None:
    """Neither one that is given nor one that a stranger has published; on a laptop its user's own folders do."""
    api, client = HfApi(endpoint=hub.url, token=hub.token("eve")), Client(shared.url)
    api.create_repo("eve/recipe")
    for key, said in (
        {"model": f"- model: {machine}", "statistics": f"- {{model: {SENTIMENT[1]}, statistics: {machine}}}",
         "data": f"- {{model: {SENTIMENT[1]}, data: {machine.parent}/texts.csv}}"}.items()
    ):  # fmt: skip
        written = f"merge_method: mean\nmodels:\n- model: {SENTIMENT[0]}\n{said}\n"
        assert "is not the name of" in refused(
            lambda written=written: client.predict(recipe=written, api_name="/recipe")
        )
        api.upload_file(repo_id="eve/recipe", path_in_repo="fusehub_recipe.yaml", path_or_fileobj=written.encode())
        assert "names what lies on a machine" in refused(
            lambda: client.predict(recipe="eve/recipe", api_name="/recipe")
        ), key
    for name in (str(machine / "fusehub_recipe.yaml"), f"file://{machine}", "../x", f"hf://{machine}"):
        refused(lambda name=name: client.predict(recipe=name, api_name="/recipe"))


@pytest.mark.parametrize("path", ["", "gradio_api/info", "gradio_api/mcp/", "config", f"{DOWNLOADS}/secret.zip"])
def test_only_the_address_that_is_served_is_answered(shared, app, path) -> None:
    for served in (shared, app):
        port = served.url.rstrip("/").rpartition(":")[2]
        for host, allowed in (
            (f"127.0.0.1:{port}", True),
            (f"localhost:{port}", True),
            (f"[::1]:{port}", True),
            (f"rebound.example:{port}", False),
            ("localhost.evil.example", False),
            ("127.0.0.1.evil.example", False),
            ("ada-fusehub.hf.space", served is shared),
        ):
            request = urllib.request.Request(f"{served.url}{path}", headers={"Host": host, "Origin": f"http://{host}"})
            status = _status(request)
            assert (status != 421) == allowed, (host, status)


def test_an_app_on_a_laptop_reads_the_folders_of_its_user(app, machine, tmp_path) -> None:
    own = shutil.copytree(machine, tmp_path / "own")
    assert Client(app.url).predict(models=[str(own), SENTIMENT[0]], api_name="/check")["models"]

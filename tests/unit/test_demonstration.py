"""Demonstrations: a Space beside a model that is pushed, whose app.py runs and answers."""

import ast
import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from gradio_client import Client
from huggingface_hub import HfApi, SpaceCard

from fusehub.localhub.faults import FILENAME
from fusehub.merging.merge import merge
from fusehub.publishing.demonstration import demo_name
from tests.unit.experts import edit_json, recipe_of, relatives
from tests.unit.lora_cases import adapter
from tests.unit.tiny import tiny_model
from tests.warm import python

TEXT = "a lovely film"
# What one asks a model of each kind, as its app.py is asked.
ASKED = {
    "fill-mask": ("bert", [TEXT + " [MASK]"]),
    "question-answering": ("bert", ["Who?", "Anna works for Acme in Paris."]),
    "text-generation": ("llama", ["the film"]),
    "text2text-generation": ("t5", [TEXT]),
    "token-classification": ("bert", ["Anna lives in Paris"]),
    "image-classification": ("vit", None),
}
# Runs the app.py of each Space without serving it, and asks each of its pages; of one that cannot load its model, what
# its page shows.
_ASK = """
import json, runpy, sys
from PIL import Image
found = {}
for name, (path, asked) in json.loads(sys.argv[1]).items():
    page = runpy.run_path(path)["demo"]
    asked = [Image.new("RGB", (20, 20))] if asked is None else asked
    pages = [fn.fn for fn in page.fns.values() if (fn.api_name or "").startswith("answer")]
    found[name] = [answer(*asked) for answer in pages]
    found[name] = found[name] or str(page.get_config_file()["components"])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    merge(recipe_of(relatives(folder), "mean"), folder / "merged")
    return folder / "merged"


def test_the_space_of_a_merge_serves_what_the_model_answers(hub, ann, merged, tmp_path) -> None:
    """It is private as the model is, and its program runs as a Space runs it."""
    told = ann.json("publish", merged, "shown", "--demo")
    assert told["demo_url"] == f"{hub.url}/spaces/ann/shown-demo" and told["demo_needs_token"] and told["private"]
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    info = api.space_info("ann/shown-demo")
    assert info.private and info.sdk == "gradio"
    assert {file.rfilename for file in info.siblings} == {".gitattributes", "README.md", "app.py", "requirements.txt"}
    folder = Path(api.snapshot_download("ann/shown-demo", repo_type="space", local_dir=tmp_path / "space"))
    card = SpaceCard.load(folder / "README.md")
    assert card.data.models == ["ann/shown"] and card.data.app_file == "app.py" and "HF_TOKEN" in card.text
    required = {line.split(">")[0] for line in (folder / "requirements.txt").read_text().splitlines()}
    imported = {
        (node.module or "").partition(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse((folder / "app.py").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == {"gradio", "transformers"} and required == {"torch", "transformers"}

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = hub.env("ann", home=tmp_path / "home") | {"GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    env |= {"GRADIO_ANALYTICS_ENABLED": "False"}
    env.pop("HF_HUB_OFFLINE", None)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=env, stdout=log, stderr=log)
    try:
        client = _served(process, f"http://127.0.0.1:{port}/", tmp_path / "log")
        said = client.predict(TEXT, api_name="/answer")
    finally:
        process.terminate()
        process.wait(60)
    assert {row["label"] for row in said["confidences"]} == {"negative", "positive"}
    out = ann.json("compare", merged, "--text", TEXT)
    assert said["label"] == out["texts"][0]["answers"][0]["label"]


def _served(process: subprocess.Popen, url: str, log: Path) -> Client:
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return Client(url, verbose=False)
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"app.py did not start: {log.read_text()[-2000:]}")


def test_every_task_has_a_program_that_answers(hub, ann, merged, tmp_path) -> None:
    """Also merges that keep several heads, and adapters; that of a model which may not be read says so."""
    asked = {}
    for task, (arch, question) in ASKED.items():
        labels = ("O", "B-PER") if task.startswith("token") else ("cat", "dog")
        name = task.split("-")[0]
        tiny_model(tmp_path / name, arch, task=task, labels=labels)
        ann("publish", tmp_path / name, name, "--demo", "--no-private")
        asked[name] = question
    tiny_model(tmp_path / "number", labels=["score"], problem_type="regression")
    ann("publish", tmp_path / "number", "number", "--demo", "--no-private")
    parts = relatives(tmp_path / "kept", labels=(["good", "bad"], ["sport", "news", "art"]))
    merge(recipe_of(parts, "mean", heads="keep"), tmp_path / "heads")
    ann("publish", tmp_path / "heads", "heads", "--demo", "--no-private")
    base = tiny_model(tmp_path / "base")
    ann("publish", base, "base", "--no-private")
    for number in range(2):
        lora, _ = adapter(tmp_path / f"lora-{number}", base, seed=number)
        edit_json(lora / "adapter_config.json", base_model_name_or_path="ann/base")
    loras = [tmp_path / f"lora-{number}" for number in range(2)]
    ann("merge", *loras, "--method", "mean", "--as-adapter", "--out", tmp_path / "lora")
    ann("publish", tmp_path / "lora", "lora", "--demo", "--no-private", "--allow-license")
    ann("publish", merged, "closed", "--demo")
    asked |= {name: [TEXT] for name in ("number", "heads", "lora", "closed")}

    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    programs = {
        name: (
            api.hf_hub_download(f"ann/{name}-demo", "app.py", repo_type="space", local_dir=tmp_path / "apps" / name),
            own,
        )
        for name, own in asked.items()
    }
    env = hub.env(home=tmp_path / "home") | {"OMP_NUM_THREADS": "1"}
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        env.pop(name, None)
    told = subprocess.run([*python(), "-c", _ASK, json.dumps(programs)], env=env, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-3000:]
    found = json.loads(told.stdout.splitlines()[-1])
    assert "ann/closed could not be loaded" in found["closed"] and "a secret called HF_TOKEN" in found["closed"]
    one = {name: answers[0] for name, answers in found.items()}
    assert len(one["fill"]) == 5 and all(0 <= chance <= 1 for chance in one["fill"].values())
    assert one["question"] and one["question"] in "Anna works for Acme in Paris."
    assert isinstance(one["text"], str) and isinstance(one["text2text"], str)
    assert one["token"]["text"] == "Anna lives in Paris" and isinstance(one["token"]["entities"], list)
    assert set(one["image"]) == {"cat", "dog"}
    assert isinstance(one["number"], float)
    assert set(one["lora"]) == {"negative", "positive"}
    assert [set(answer) for answer in found["heads"]] == [{"good", "bad"}, {"sport", "news", "art"}]


def test_what_speaks_against_it_is_said_before_anything_is_pushed(hub, ann, merged, tmp_path) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    api.create_repo("ann/taken-demo", repo_type="space", space_sdk="static")
    api.upload_file(repo_id="ann/taken-demo", repo_type="space", path_in_repo="index.html", path_or_fileobj=b"mine")
    for more in ([], ["--exist-ok"]):
        what, fix = ann.fails("publish", merged, "taken", "--demo", *more)
        assert "spaces/ann/taken-demo exists already, and is no demonstration of ann/taken" in what
        assert "leave the demonstration out" in fix
    assert not api.repo_exists("ann/taken")
    ann("publish", merged, "plain", "--no-private")
    what, fix = ann.fails("publish", merged, "plain", "--demo", "--create-pr")
    assert "nothing to show" in what and "repo of your own" in fix
    assert not list(api.get_repo_discussions("ann/plain"))
    # One's own is replaced where that was said, and what else lies there stays.
    ann("publish", merged, "again", "--demo")
    api.delete_repo("ann/again")
    assert (
        "spaces/ann/again-demo exists already, and shows ann/again"
        in ann.fails("publish", merged, "again", "--demo")[0]
    )
    api.upload_file(repo_id="ann/again-demo", repo_type="space", path_in_repo="notes.txt", path_or_fileobj=b"mine")
    ann("publish", merged, "again", "--demo", "--exist-ok")
    assert "notes.txt" in api.list_repo_files("ann/again-demo", repo_type="space")


def test_a_space_that_fails_leaves_the_model_and_says_where_it_is(hub, ann, merged) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    plan = hub.root / FILENAME
    plan.write_text(json.dumps([{"path": "/api/spaces/ann/half-demo/commit/.*", "do": "status", "status": 403}]))
    try:
        what, fix = ann.fails("publish", merged, "half", "--demo")
    finally:
        plan.unlink()
    assert f"The model is on the Hub: {hub.url}/ann/half (commit " in what and "could not be made" in what
    assert "--exist-ok --demo" in fix
    assert "model.safetensors" in api.list_repo_files("ann/half") and not api.repo_exists(
        "ann/half-demo", repo_type="space"
    )
    ann("publish", merged, "half", "--demo", "--exist-ok")
    assert "app.py" in api.list_repo_files("ann/half-demo", repo_type="space")


def test_names_that_are_long_still_have_a_demonstration() -> None:
    assert demo_name("ann/films") == "ann/films-demo"
    assert demo_name("ann/" + "a" * 90 + "-bcdefg") == "ann/" + "a" * 90 + "-demo"

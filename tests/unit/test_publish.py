"""Pushes to a real server by the unmodified client, and what lies there afterwards."""

import json
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard

from fusehub.localhub import running
from fusehub.merging import merge
from fusehub.statistics.collect import collect
from tests.unit.experts import recipe_of, relatives, text_file, texts_of

ROOT = Path(__file__).resolve().parents[2]
# What every script begins with: `tell(name, value)` reports to the test, `fails(call)` the error that it must raise.
PRELUDE = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi
from fusehub.errors import FuseHubError
from fusehub.publishing import publish, publish_statistics
told, work = {}, Path(sys.argv[1])

def tell(name, value):
    told[name] = value

def fails(call):
    try:
        value = call()
    except FuseHubError as error:
        return [type(error).__name__, error.what, error.fix]
    raise SystemExit(f"no error, but {value}")

def files(repo, revision=None):
    return sorted(f.rfilename for f in HfApi().model_info(repo, revision=revision).siblings)

def exists(repo):
    return HfApi().repo_exists(repo)

"""

EXPERTS = """
# A stranger's two experts, one with its statistics beside it, the other with statistics published afterwards.
for number, licence in enumerate(["mit", "apache-2.0"]):
    folder = work / f"expert-{number}"
    (folder / "README.md").write_text(
        f"---\\nlicense: {licence}\\nlanguage: [en]\\ndatasets: [ann/texts-{number}]\\n---\\nHi\\n")
    (folder / "optimizer.pt").write_bytes(b"x" * 1000)
    tell(f"expert-{number}", publish(folder, f"expert-{number}", public=True).to_dict())
import shutil
publish(shutil.copytree(work / "expert-1", work / "expert-2"), "expert-2", public=True)
tell("own statistics", publish_statistics(work / "statistics-1", model="ann/expert-1").to_dict())
tell("files 0", files("ann/expert-0"))
tell("files 1", files("ann/expert-1"))
tell("card 1", Path(HfApi().hf_hub_download("ann/expert-1", "README.md")).read_text())

# An earlier version in shards is replaced as a whole, and other files beside it stay.
from huggingface_hub import CommitOperationAdd
publish(shutil.copytree(work / "expert-1", work / "sharded"), "sharded", public=True)
old = ["statistics-00001-of-00002.safetensors", "statistics.safetensors.index.json", "fisher.safetensors", "notes.txt"]
HfApi().create_commit(
    "ann/sharded", [CommitOperationAdd(f"fusehub/{name}", b"old") for name in old], commit_message="old")
commits = len(HfApi().list_repo_commits("ann/sharded"))
publish_statistics(work / "statistics-1", model="ann/sharded")
tell("commits", len(HfApi().list_repo_commits("ann/sharded")) - commits)
tell("files after", [name for name in files("ann/sharded") if name.startswith("fusehub/")])
HfApi().delete_repo("ann/sharded")

from fusehub.refs import resolve
tell("other weights", fails(lambda: publish_statistics(work / "statistics-1", model="ann/expert-0")))
tell("few rows", fails(lambda: publish_statistics(work / "few", model="ann/expert-0")))
tell("no model", fails(lambda: publish_statistics(work / "few", model=str(work / "expert-0"))))
tell("no statistics", fails(lambda: publish_statistics(work, model="ann/expert-0")))
"""

FUSE = """
# Somebody else merges them from the Hub alone, and publishes the merge.
from fusehub.evaluation import evaluate
from fusehub.merging import merge
from fusehub.predict import predict
from fusehub.recipe import Recipe
models = ["ann/expert-0", "ann/expert-1"]
out = work / "fused"
merge(Recipe.parse({"merge_method": "regmean", "models": [{"model": m} for m in models]}), out)
(work / "d.jsonl").write_text("".join(json.dumps({"text": t, "label": "positive"}) + "\\n" for t in ["a", "b c"]))
found = evaluate([*models, str(out)], {"mine": str(work / "d.jsonl")})
before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
published = publish(out, "fused", evaluation=found)
tell("published", published.to_dict())
tell("untouched", before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()})
info = HfApi().model_info("bob/fused", files_metadata=True)
tell("private", info.private)
tell("tags", info.tags)
tell("commits", [c.title for c in HfApi().list_repo_commits("bob/fused")])
tell("files", files("bob/fused"))
tell("card", Path(HfApi().hf_hub_download("bob/fused", "README.md")).read_text())
tell("mean", found.mean()["fused"])
texts = ["Anna lives in Paris.", "a lovely story"]
here, there = predict(str(out), texts), predict("bob/fused", texts)
tell("same", here.probabilities.tolist() == there.probabilities.tolist())

# Taken names, and what lies there already.
tell("taken", fails(lambda: publish(out, "bob/fused")))
api = HfApi()
api.create_repo("bob/mine")
api.upload_file(path_or_fileobj=b"keep me", path_in_repo="notes.txt", repo_id="bob/mine")
head = api.model_info("bob/mine").sha
tell("taken, mine", fails(lambda: publish(out, "mine")))
tell("taken, untouched", api.model_info("bob/mine").sha == head)
tell("added", publish(out, "mine", exist_ok=True).to_dict())
tell("added files", files("bob/mine"))
tell("kept", Path(api.hf_hub_download("bob/mine", "notes.txt")).read_text())

# A pull request to somebody else's repo, and a push that is not allowed there.
tell("not mine", fails(lambda: publish(out, "ann/expert-0", exist_ok=True)))
tell("not mine, new", fails(lambda: publish(out, "ann/new")))
tell("no such repo", fails(lambda: publish(out, "ann/none", pull_request=True)))
before = api.model_info("ann/expert-0").sha
tell("request", publish(out, "ann/expert-0", pull_request=True).to_dict())
tell("request left main", api.model_info("ann/expert-0").sha == before)
tell("request files", files("ann/expert-0", "refs/pr/1"))
request = publish_statistics(work / "statistics-1", model="ann/expert-2", pull_request=True)
tell("statistics request", [request.pull_request_url, files("ann/expert-2"), files("ann/expert-2", "refs/pr/1")])

# A companion repo of statistics for a model that one does not own.
tell("not my model", fails(lambda: publish_statistics(work / "statistics-1", model="ann/expert-1")))
companion = publish_statistics(work / "statistics-1", "stats-1", model="ann/expert-1", public=True)
tell("companion", companion.to_dict())
tell("companion files", files("bob/stats-1"))
tell("companion card", Path(api.hf_hub_download("bob/stats-1", "README.md")).read_text())
tell("companion again", publish_statistics(work / "statistics-1", "stats-1", model="ann/expert-1").commit)
tell("companion taken", fails(lambda: publish_statistics(work / "statistics-1", "mine", model="ann/expert-1")))
tell("no such name", fails(lambda: publish(out, "bob/a b")))
"""

REFUSED = """
# Nothing of this may make a repo.
import shutil
import torch
from safetensors.torch import load_file, save_file

def broken(name, change, base="local"):
    copy = shutil.copytree(work / base, work / name)
    change(copy)
    return fails(lambda: publish(copy, name))

def rewrite(folder, change, hashed=True):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if hashed:
        import hashlib
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        edit(folder, lambda report: report["sha256"].update({"model.safetensors": digest}))

def edit(folder, change):
    report = json.loads((folder / "fusehub_report.json").read_text())
    change(report)
    (folder / "fusehub_report.json").write_text(json.dumps(report))

HEAD = "classifier.weight"
tell("missing", broken("missing", lambda f: rewrite(f, lambda t: t.pop(HEAD))))
tell("extra", broken("extra", lambda f: rewrite(f, lambda t: t.update({"more.weight": torch.zeros(2)}))))
tell("shape", broken("shape", lambda f: rewrite(f, lambda t: t.update({HEAD: torch.zeros(5, 16)}))))
tell("nan", broken("nan", lambda f: rewrite(f, lambda t: t[HEAD].fill_(float("nan")))))
tell("changed", broken("changed", lambda f: rewrite(f, lambda t: t[HEAD].zero_(), hashed=False)))
tell("gone", broken("gone", lambda f: (f / "model.safetensors").unlink()))
tell("cut", broken("cut", lambda f: (f / "model.safetensors").write_bytes(b"12345678"), "expert-0"))
tell("no tokenizer", broken("no-tokenizer", lambda f: [p.unlink() for p in f.glob("*token*")]))
tell("empty", broken("empty", lambda f: [p.unlink() for p in f.iterdir() if p.is_file()]))
tell("unfinished", broken("x.partial", lambda f: None))
tell("bad card", broken("bad-card", lambda f: (f / "README.md").write_text("---\\nlicense: [1]\\n---\\n")))
tell("no yaml", broken("no-yaml", lambda f: (f / "README.md").write_text("---\\n[: x\\n---\\n")))

def licence(*licences, private=False):
    def change(folder):
        edit(folder, lambda r: [s.update(licence=x, private=private) for s, x in zip(r["sources"], licences)])
    return change

tell("no derivatives", broken("no-derivatives", licence("mit", "cc-by-nd-4.0")))
work_nd = work / "no-derivatives"
gated = shutil.copytree(work / "local", work / "gated")
licence("mit", "mit", private=True)(gated)
tell("gated, public", fails(lambda: publish(gated, "gated", public=True)))
api = HfApi()
api.create_repo("cat/open")
tell("gated, into public", fails(lambda: publish(gated, "open", exist_ok=True)))
mine = shutil.copytree(work / "local", work / "mine")
(mine / "README.md").write_text("mine")
tell("results lost", fails(lambda: publish(mine, "mine", evaluation={})))
tell("repos", sorted(m.id for m in api.list_models(author="cat")))

# What is not forbidden: by force, into a private repo, with a card of one's own.
tell("forced", publish(work_nd, "forced", force=True).to_dict())
tell("gated, private", publish(gated, "gated").to_dict())
(mine / "README.md").write_text("---\\nlicense: mit\\n---\\nMy words.\\n")
(mine / ".hidden").write_text("secret")
(mine / "more").mkdir()
(mine / "more" / "plot.txt").write_text("x")
tell("my card", publish(mine, "mine").repo_id)
tell("my words", Path(api.hf_hub_download("cat/mine", "README.md")).read_text())
tell("my files", files("cat/mine"))
tell("report", Path(api.hf_hub_download("cat/mine", "fusehub_report.json")).read_text())
tell("recipe", Path(api.hf_hub_download("cat/mine", "fusehub_recipe.yaml")).read_text())

# Shards beside an old model.safetensors would never be loaded.
shards = work / "shards"
tell("shards", publish(shards, "shards", public=True).repo_id)
tell("shadowed", fails(lambda: publish(shards, "mine", exist_ok=True)))

# Experts that keep their heads: every subfolder is loaded, and can be loaded from the Hub.
tell("kept", publish(work / "kept", "kept").repo_id)
tell("kept files", files("cat/kept"))
code = Path(api.hf_hub_download("cat/kept", "README.md")).read_text().partition("```python\\n")[2].partition("```")[0]
exec(code.replace("from transformers import", "from transformers import AutoConfig, "), names := {})
configs = [names["AutoConfig"].from_pretrained("cat/kept", subfolder=name) for name in ("expert-0", "expert-1")]
tell("kept labels", [list(config.id2label.values()) for config in configs])
kept = shutil.copytree(work / "kept", work / "kept-broken")
(kept / "expert-1" / "config.json").unlink()
tell("kept broken", fails(lambda: publish(kept, "kept-broken")))
tell("kept broken repo", exists("cat/kept-broken"))
"""

FAILING = """
# On this line to the hub, things go wrong at repos of certain names.
out = work / "local"
tell("cut", fails(lambda: publish(out, "cut")))
tell("cut repo", exists("dan/cut"))
HfApi().create_repo("dan/old-cut")
tell("old", fails(lambda: publish(out, "old-cut", exist_ok=True)))
tell("old repo", exists("dan/old-cut"))
tell("late", fails(lambda: publish(out, "late")))
tell("late files", files("dan/late"))
tell("different", fails(lambda: publish(out, "different")))
"""


@contextmanager
def bad_line(hub):
    """The address of a line to the hub that fails: cut at the commit, overtaken by somebody else's commit, or with
    other bytes in what it reads back."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2])))
            asked = [b""]
            for one, other, change in ((client, server, ask), (server, client, answer)):
                threading.Thread(target=pump, args=(one, other, change, asked), daemon=True).start()

    def pump(one, other, change, asked):
        try:
            while data := one.recv(2**16):
                other.sendall(change(data, asked))
        except OSError:
            pass
        for end in (one, other):
            end.close()

    def ask(data, asked):
        line = data.partition(b"\r\n")[0]
        if re.match(rb"[A-Z]+ /", line):
            asked[0] = line
            if b"cut/commit/" in line:
                raise OSError("cut")
            if b"late/commit/" in line:
                api = HfApi(hub.url, token=hub.token("dan"))
                api.upload_file(path_or_fileobj=b"x", path_in_repo="theirs.txt", repo_id="dan/late")
        return data

    def answer(data, asked):
        changed = b"different/paths-info" in asked[0]
        return re.sub(rb'"oid":"..', b'"oid":"00', data) if changed else data

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with running(tmp_path_factory.mktemp("hub")) as server:
        for name in ("ann", "bob", "cat", "dan"):
            server.add_user(name)
        yield server
    assert (server.root / "server.log").read_text() == ""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two experts, statistics of both, and merges of them, all local."""
    folder = tmp_path_factory.mktemp("work")
    parts = relatives(folder)
    for number, part in enumerate(parts):
        data = text_file(folder, number, texts_of(number, count=110))
        collect(str(part), data, part / "fusehub" if number == 0 else folder / "statistics-1").close()
    collect(str(parts[0]), text_file(folder, 9, texts_of(0, count=9)), folder / "few").close()
    merge(recipe_of(parts, "mean"), folder / "local")
    merge(recipe_of(parts, "mean"), folder / "shards", max_shard_size=20_000)
    other = relatives(folder / "other", labels=(["good", "bad"], ["sport", "news", "art"]))
    merge(recipe_of(other, "mean", heads="keep"), folder / "kept")
    return folder


@pytest.fixture(scope="module")
def script(hub, work, tmp_path_factory):
    """Runs a script in a process of its own as `user` (None: nobody), and gives back what it told."""

    def run(code, user, token=None, **more):
        env = hub.env(user, home=tmp_path_factory.mktemp("home")) | more
        env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        env |= {"HF_TOKEN": token} if token else {}
        env = {
            key: value
            for key, value in env.items()
            if key != "HF_HUB_OFFLINE" and (user or token or key != "HF_TOKEN")
        }
        done = subprocess.run(
            [sys.executable, "-c", f"{PRELUDE}\n{code}\nprint(json.dumps(told))", str(work)],
            env=env, capture_output=True, text=True, timeout=300, cwd=work,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert env.get("HF_TOKEN") is None or env["HF_TOKEN"] not in done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def ann(script):
    return script(EXPERTS, "ann")


@pytest.fixture(scope="module")
def bob(ann, script):
    return script(FUSE, "bob")


@pytest.fixture(scope="module")
def cat(script):
    return script(REFUSED, "cat")


# --- experts and their statistics ------------------------------------------------------------------------------------


def test_an_expert_is_pushed_with_its_card_and_without_what_training_left(ann):
    own = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    statistics = ["fusehub/statistics.json", "fusehub/statistics.safetensors"]
    assert ann["files 0"] == ann["files 1"] == sorted([".gitattributes", *own, *statistics])
    assert not ann["expert-0"]["private"] and ann["expert-0"]["repo_id"] == "ann/expert-0"


def test_statistics_add_nothing_else_to_the_model(ann):
    assert ann["own statistics"]["repo_id"] == "ann/expert-1"
    assert ann["card 1"].endswith("---\nHi\n"), "the card is the owner's"


def test_an_earlier_version_is_replaced_in_one_commit(ann):
    assert ann["commits"] == 1
    own = ["fusehub/statistics.json", "fusehub/statistics.safetensors"]
    assert ann["files after"] == sorted(["fusehub/notes.txt", *own])


def test_statistics_that_are_of_other_weights_or_too_few_texts_are_refused(ann):
    assert ann["other weights"][0] == "BadStatistics" and "other weights" in ann["other weights"][1]
    assert ann["few rows"][0] == "BadStatistics"
    assert "of few rows (bert.pooler.dense.weight: 9 rows, classifier.weight: 9," in ann["few rows"][1]
    assert ann["no model"][0] == "NotFound" and "Publish the model first" in ann["no model"][2]
    assert ann["no statistics"][0] == "NotFound"


def test_statistics_go_to_others_as_a_request_or_beside_the_model(bob, hub):
    assert bob["not my model"][0] == "AccessDenied" and "--pull-request" in bob["not my model"][2]
    url, main, request = bob["statistics request"]
    assert url == f"{hub.url}/ann/expert-2/discussions/1"
    assert set(request) - set(main) == {"fusehub/statistics.json", "fusehub/statistics.safetensors"}
    assert bob["companion"]["repo_id"] == "bob/stats-1" and not bob["companion"]["private"]
    assert bob["companion files"] == [
        ".gitattributes",
        "README.md",
        "fusehub/statistics.json",
        "fusehub/statistics.safetensors",
    ]
    card = ModelCard(bob["companion card"])
    assert card.data.base_model == ["ann/expert-1"] and "fusehub-statistics" in card.data.tags
    assert bob["companion again"] == bob["companion"]["commit"], "the same again is no new commit"
    assert bob["companion taken"][0] == "OutputExists" and "bob/mine" in bob["companion taken"][1]


# --- a merge ---------------------------------------------------------------------------------------------------------


def test_a_merge_is_private_and_answers_the_same_from_the_hub(bob, hub):
    assert bob["private"] and bob["published"]["private"]
    assert bob["published"]["url"] == f"{hub.url}/bob/fused"
    assert bob["same"] and bob["untouched"]
    assert bob["commits"][0].startswith("Merge of expert-0 and expert-1 by regmean (FuseHub ")
    assert len(bob["commits"]) == 2, "the empty repo, and everything at once"
    assert bob["files"] == [
        ".gitattributes",
        "README.md",
        "config.json",
        "fusehub_recipe.yaml",
        "fusehub_report.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_card_of_a_merge_from_the_hub(bob, ann, hub):
    card = ModelCard(bob["card"])
    value = round(bob["mean"], 4)
    metrics = [
        {"type": "accuracy", "value": value, "name": "Accuracy"},
        {"type": "f1", "value": value, "name": "F1 (macro)", "args": {"average": "macro"}},
    ]
    found = card.data.to_dict()
    index = found.pop("model-index")
    assert index[0]["name"] == "fused" and index[0]["results"][0]["metrics"][0] == metrics[0]
    assert found == {
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "base_model": ["ann/expert-0", "ann/expert-1"],
        "base_model_relation": "merge",
        "language": ["en"],
        "datasets": ["ann/texts-0", "ann/texts-1"],
        "tags": ["merge", "fusehub", "regmean"],
    }
    assert {"base_model:merge:ann/expert-0", "base_model:merge:ann/expert-1", "license:mit"} <= set(bob["tags"])
    commits = [ann["expert-0"]["commit"], ann["own statistics"]["commit"]]
    for number, commit in enumerate(commits):
        page = f"{hub.url}/ann/expert-{number}/tree/{commit}"
        assert f"| [ann/expert-{number}]({page}) | 1 | " in card.text
        assert f"| [its own repo]({page}/fusehub): 11{3 * number} texts" in card.text
        assert f"- model: ann/expert-{number}@{commit}" in card.text
    assert "hf download bob/fused fusehub_recipe.yaml" in card.text
    assert "Not on the Hub" not in card.text and "/tmp" not in card.text


def test_a_taken_name_is_refused_and_left_as_it_is(bob):
    assert bob["taken"][0] == "OutputExists" and "bob/fused exists already" in bob["taken"][1]
    assert bob["taken, mine"][0] == "OutputExists" and bob["taken, untouched"]
    assert bob["kept"] == "keep me" and bob["added files"] == sorted([*bob["files"], "notes.txt"])


def test_a_pull_request_leaves_the_repo_as_it_is(bob, hub):
    assert bob["request"]["pull_request_url"] == f"{hub.url}/ann/expert-0/discussions/1"
    assert bob["request left main"] and "fusehub_recipe.yaml" in bob["request files"]
    assert bob["no such repo"][0] == "NotFound" and "ann/none" in bob["no such repo"][1]


def test_a_repo_of_somebody_else_is_refused(bob):
    assert bob["not mine"][0] == bob["not mine, new"][0] == "AccessDenied"
    assert "--pull-request" in bob["not mine"][2]
    assert bob["no such name"][0] == "NotFound" and "not the name of a repo" in bob["no such name"][1]


# --- what must not be pushed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("missing", "BadFile", "lacks classifier.weight"),
        ("extra", "BadFile", "has left over more.weight"),
        ("shape", "BadFile", "has in other shapes classifier.weight"),
        ("nan", "NonFinite", "NaN"),
        ("changed", "BadFile", "not what the merge wrote"),
        ("gone", "NotFound", "lacks model.safetensors"),
        ("cut", "BadFile", "cannot load"),
        ("no tokenizer", "NotFound", "no tokenizer"),
        ("empty", "NotFound", "no config.json"),
        ("unfinished", "NotFound", "no finished model"),
        ("bad card", "BadData", '"license" must be a string'),
        ("no yaml", "BadData", "is not YAML"),
        ("no derivatives", "FuseHubError", "expert-1 is under cc-by-nd-4.0"),
        ("gated, public", "AccessDenied", "expert-0 and expert-1 are gated or private"),
        ("gated, into public", "AccessDenied", "open to everyone"),
        ("results lost", "BadData", "results would be lost"),
        ("shadowed", "OutputExists", "would be loaded instead"),
        ("kept broken", "BadFile", "not complete"),
    ],
)
def test_what_is_broken_or_not_allowed_is_told_before_anything_is_made(cat, case, kind, words):
    assert cat[case][0] == kind and words in cat[case][1], cat[case]
    assert cat[case][2]


def test_nothing_was_made_for_what_was_refused(cat):
    assert cat["repos"] == ["cat/open"] and not cat["kept broken repo"]


def test_force_pushes_and_private_is_no_trouble(cat):
    assert cat["forced"]["private"] and cat["gated, private"]["private"]


def test_a_card_of_ones_own_is_kept(cat):
    assert cat["my words"] == "---\nlicense: mit\n---\nMy words.\n"
    assert "more/plot.txt" in cat["my files"] and ".hidden" not in cat["my files"]


def test_what_is_published_names_no_folder_of_this_machine(cat, work):
    assert str(work) in (work / "mine" / "fusehub_report.json").read_text()
    for name in ("report", "recipe"):
        assert str(work) not in cat[name] and "expert-0" in cat[name]


def test_heads_that_were_kept_are_loadable_from_the_hub(cat):
    assert {"expert-0/config.json", "expert-1/head.safetensors", "fusehub_report.json"} <= set(cat["kept files"])
    assert cat["kept labels"] == [["good", "bad"], ["sport", "news", "art"]]


def test_a_push_that_fails_takes_back_only_what_it_made(script, hub):
    with bad_line(hub) as address:
        dan = script(FAILING, "dan", HF_ENDPOINT=address)
    assert dan["cut"][0] == "Offline" and not dan["cut repo"]
    assert dan["old"][0] == "Offline" and dan["old repo"], "this one was there before"
    assert dan["late"][0] == "OutputExists" and "Somebody else changed dan/late" in dan["late"][1]
    assert "theirs.txt" in dan["late files"], "it is not empty any more"
    assert dan["different"][0] == "BadFile" and "arrived differently" in dan["different"][1]


@pytest.mark.parametrize(
    ("token", "words"), [("none", "there is none"), ("read", "can only read"), ("wrong", "does not accept your token")]
)
def test_without_a_token_that_can_write(script, hub, token, words):
    given = {"none": None, "read": hub.token("ann", "read"), "wrong": "hf_" + "x" * 34}[token]
    told = script('tell("error", fails(lambda: publish(work / "local", "ann/locked")))', None, given)
    assert told["error"][0] == "AccessDenied" and words in told["error"][1]
    assert "token" in told["error"][2].lower() or "hf auth login" in told["error"][2]

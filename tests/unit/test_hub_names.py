"""Every way to name a model at the Hub: folders of repos, revisions with slashes, links; and what naming it costs."""

import json
import os
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager

import pytest
import transformers
from huggingface_hub import HfApi
from safetensors.torch import load_file

from fusehub.checking.check import check
from fusehub.hub.names import Place, may_be_repo, plain, readings
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.resolve import resolve
from tests.unit.at_hub import session
from tests.unit.experts import WEIGHTS, edit_json, rel, relatives, save_weights, text_file
from tests.unit.lora_cases import ADAPTER, adapter
from tests.warm import python

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("ann/m", Place("ann/m")),
        ("gpt2", Place("gpt2")),
        ("gpt2@v1", Place("gpt2", "", "v1")),
        ("ann/m/head", Place("ann/m", "head")),
        ("ann/m/a/b/c@refs/pr/3", Place("ann/m", "a/b/c", "refs/pr/3")),
        ("ann/m/head@feature/x", Place("ann/m", "head", "feature/x")),
        ("ann/m@refs/pr/3", Place("ann/m", "", "refs/pr/3")),
        ("hf://ann/m@refs/pr/3/head", Place("ann/m", "head", "refs/pr/3")),
        ("hf://ann/m@v1/a/head", Place("ann/m", "a/head", "v1")),
        ("hf://ann/m/head", Place("ann/m", "head")),
        ("https://huggingface.co/ann/m", Place("ann/m")),
        ("https://huggingface.co/ann/m/", Place("ann/m")),
        ("https://hf.co/ann/m/tree/main/a/head", Place("ann/m", "a/head", "main")),
        (f"https://huggingface.co/ann/m/tree/{SHA}", Place("ann/m", "", SHA)),
        ("https://huggingface.co/ann/m/tree/refs%2Fpr%2F3/head?x=1#y", Place("ann/m", "head", "refs/pr/3")),
        ("https://huggingface.co/ann/m/blob/main/a/config.json", Place("ann/m", "", "main")),
        ("https://huggingface.co/ann/m/resolve/refs/pr/3/config.json", Place("ann/m", "", "refs/pr/3")),
        (f"https://huggingface.co/ann/m/commit/{SHA}", Place("ann/m", "", SHA)),
    ],
)
def test_names_and_links_lead_to_a_folder_of_a_repo_at_a_revision(text, place):
    assert readings(plain(text))[0] == place and may_be_repo(text)
    assert readings(str(place))[0] == place


def test_what_follows_a_revision_is_read_in_all_ways():
    assert readings("ann/m@feature/x/head") == [
        Place("ann/m", "x/head", "feature"),
        Place("ann/m", "head", "feature/x"),
        Place("ann/m", "", "feature/x/head"),
    ]


# --- a Hub --------------------------------------------------------------------------------------------------------


@contextmanager
def counted(url):
    """An address that leads to the Hub at `url`, and the bytes that came back through it so far."""
    host, port = url.removeprefix("http://").split(":")
    listening = socket.create_server(("127.0.0.1", 0))
    came = []

    def pump(source, target, kept):
        try:
            while data := source.recv(65536):
                kept.append(len(data))
                target.sendall(data)
        except OSError:
            pass
        for side in (source, target):
            side.close()

    def accept():
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            threading.Thread(target=pump, args=(client, server, []), daemon=True).start()
            threading.Thread(target=pump, args=(server, client, came), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", came
    finally:
        listening.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two experts and their base as folders, and an adapter on the base."""
    home = tmp_path_factory.mktemp("folders")
    experts = relatives(home, "bert", hidden=16)
    path, _ = adapter(home / "adapter", home / "base", target_modules=["query"], r=2)
    edit_json(path / "adapter_config.json", base_model_name_or_path="ann/multi/deep/base")
    (path / "README.md").unlink()
    return {"h0": experts[0], "h1": experts[1], "base": home / "base", "adapter": path}


@pytest.fixture(scope="module")
def repo(hub, folders):
    """`ann/multi`: heads in folders, of which one lies deeper, and the adapter; on a branch, other heads."""
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    api.create_repo("ann/multi")
    for inside, name in (("h0", "h0"), ("h1", "h1"), ("deep/base", "base"), ("adapter", "adapter")):
        api.upload_folder(repo_id="ann/multi", folder_path=folders[name], path_in_repo=inside)
    # Another model lies in the root: what is in the folders must not be mixed up with it.
    other = relatives(folders["base"].parent / "other", "bert", hidden=32)[0]
    api.upload_folder(repo_id="ann/multi", folder_path=other)
    api.create_branch("ann/multi", branch="feature/x")
    api.upload_folder(repo_id="ann/multi", folder_path=folders["h1"], path_in_repo="h0", revision="feature/x")
    return "ann/multi"


def test_folders_of_a_repo_are_checked_merged_collected_and_compared(repo, ann, folders, tmp_path):
    names = [f"{repo}/h0", f"{repo}/h1"]
    report = ann.json("check", *names)
    assert report["ok"] and report["download_bytes"] == sum(
        (folders[n] / WEIGHTS).stat().st_size for n in ("h0", "h1")
    )
    statistics = []
    for number, name in enumerate(names):
        ann("collect", name, "--data", text_file(tmp_path, number), "--out", tmp_path / f"s{number}")
        statistics += ["--statistics", f"{name}={tmp_path / f's{number}'}"]
    ann("merge", *names, *statistics, "--out", tmp_path / "solved")
    ann("merge", f"hf://{repo}@main/h0", f"{ann_url(ann)}/{repo}/tree/main/h1", "--base", f"{repo}/deep/base",
        "--method", "task_arithmetic", "--out", tmp_path / "added")  # fmt: skip
    base, a, b, got = (
        load_file(path / WEIGHTS) for path in (folders["base"], folders["h0"], folders["h1"], tmp_path / "added")
    )
    for name, value in got.items():
        assert rel(value.double(), base[name].double() + (a[name] - base[name]) + (b[name] - base[name])) < 1e-5
    sources = json.loads((tmp_path / "solved" / "fusehub_report.json").read_text())["sources"]
    assert [source["short_name"] for source in sources] == ["h0", "h1"]
    # What was written names the same again.
    ann("merge", tmp_path / "solved" / "fusehub_recipe.yaml", "--out", tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "solved" / WEIGHTS).read_bytes()
    answers = ann.json("compare", *names, folders["h0"], "--text", "a fine film")["texts"][0]["answers"]
    assert answers[0]["probabilities"] == answers[2]["probabilities"] != answers[1]["probabilities"]
    card = ann("publish", tmp_path / "solved", "solved", "--dry-run")
    assert "base_model:\n- ann/multi\n" in card


def ann_url(run):
    return run.python("from fusehub.hub.client import endpoint; print(endpoint())").strip()


def test_a_revision_with_slashes_is_one_wherever_the_folder_stands(repo, ann, folders):
    code = "from fusehub.models.resolve import resolve\n"
    code += "from fusehub.models.checkpoints.checkpoint import Checkpoint, headers\n"
    code += "for n in {names}:\n"
    code += " r = resolve(n); c = Checkpoint(r)\n assert headers(r) == c.tensors\n"
    code += " print(r.id, float(c['classifier.weight'].double().sum()))"
    names = [f"{repo}/h0@feature/x", f"{repo}@feature/x/h0", f"https://huggingface.co/{repo}/tree/feature/x/h0"]
    told = ann.python(code.format(names=[*names, f"{repo}/h0"])).split("\n")[:-1]
    expected = [float(load_file(folders[n] / WEIGHTS)["classifier.weight"].double().sum()) for n in ("h1", "h0")]
    assert len(set(told[:3])) == 1 and told[0].startswith(f"{repo}/h0@")
    assert [float(line.split()[1]) for line in (told[0], told[3])] == expected
    what, _ = ann.fails("check", f"{repo}/h9", f"{repo}/h0")
    assert what.startswith(f"{repo} has nothing in h9; it holds") and "h0" in what
    what, _ = ann.fails("check", "no/such/folder/here", f"{repo}/h0")
    assert "There is no folder no/such/folder/here here, and no/such does not exist" in what


def test_adapters_in_folders_of_repos_are_put_on_bases_in_folders_of_repos(repo, ann, folders):
    names = [
        f"{repo}/deep/base+{repo}/adapter",
        f"{repo}/adapter",
        f"hf://{repo}/deep/base@main+hf://{repo}/adapter@main",
    ]
    code = "from fusehub.models.resolve import resolve\n"
    code += "from fusehub.models.checkpoints.checkpoint import Checkpoint, headers\n"
    code += "for n in {names}:\n"
    code += " r = resolve(n); c = Checkpoint(r)\n assert headers(r) == c.tensors\n"
    code += " print(r.id, float(c['bert.encoder.layer.0.attention.self.query.weight'].double().sum()))"
    told = ann.python(code.format(names=names)).split("\n")[:-1]
    assert len(set(told)) == 1 and told[0].count(f"{repo}/") == 2
    with Checkpoint(resolve(f"{folders['base']}+{folders['adapter']}")) as checkpoint:
        value = checkpoint["bert.encoder.layer.0.attention.self.query.weight"]
    assert float(told[0].split()[1]) == float(value.double().sum())
    again = told[0].split()[0]
    assert ann.python(code.format(names=[again])).strip() == told[0]


def test_offline_a_folder_of_a_repo_is_read_from_the_cache(repo, hub, folders, tmp_path):
    with session(hub, "ann", tmp_path / "home") as run:
        run("merge", f"{repo}/h0", f"{repo}/h1", "--method", "mean", "--out", tmp_path / "online")
    home = tmp_path / "home"
    code = (
        "from fusehub.merging.merge import merge\nfrom fusehub.checking.check import check\n"
        f"assert check(['{repo}/h0', '{repo}/h1']).download == 0\n"
        f"merge(['{repo}/h0', '{repo}/h1'], '{tmp_path / 'offline'}', method='mean')"
    )
    environment = hub.env("ann", home=home / ".home") | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([*python(), "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "offline" / WEIGHTS).read_bytes() == (tmp_path / "online" / WEIGHTS).read_bytes()
    recipes = [(tmp_path / place / "fusehub_recipe.yaml").read_text() for place in ("offline", "online")]
    assert recipes[0] == recipes[1] and f"{repo}/h0@" in recipes[0]


@pytest.fixture(scope="module")
def heavy(hub, tmp_path_factory):
    """Tied language models of several megabytes that store their head too, which their configs do not tell apart."""
    home = tmp_path_factory.mktemp("heavy")
    experts = relatives(home, "llama", task="text-generation", hidden=256, tie_word_embeddings=True)
    auto = transformers.AutoModelForCausalLM
    said = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 128}
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    adapter(home / "heavy-adapter", experts[0], auto=auto, **said)
    (home / "heavy-adapter" / "README.md").unlink()
    for number, path in enumerate(experts):
        tensors = load_file(path / WEIGHTS)
        save_weights(path, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + number})
    for path in (*experts, home / "heavy-adapter"):
        api.create_repo(f"ann/{path.name}")
        api.upload_folder(repo_id=f"ann/{path.name}", folder_path=path)
    assert min((experts[0] / WEIGHTS).stat().st_size, (home / "heavy-adapter" / ADAPTER).stat().st_size) > 2_000_000
    return ["ann/expert-0", "ann/expert-1", "ann/expert-0+ann/heavy-adapter"]


def test_checks_and_plans_download_no_weights(heavy, hub, tmp_path):
    plan = "from fusehub.merging.plan import plan_merge\nfrom fusehub.merging.recipe import Recipe\n"
    plan += f"plan_merge(Recipe.of({heavy[:2]}, 'mean'))"
    with counted(hub.url) as (address, came):
        env = {"HF_ENDPOINT": address}
        with session(Elsewhere(hub, env), "ann", tmp_path / "home") as run:
            run("check", *heavy)
            run("merge", *heavy, "--method", "mean", "--dry-run")
            run("merge", *heavy[:2], "--method", "ties", "--base", heavy[0], "--dry-run")
            run.python(plan)
            assert 1000 < sum(came) < 1_900_000
            before = sum(came)
            run("merge", *heavy[:2], "--method", "mean", "--out", tmp_path / "merged")
            assert sum(came) - before > 4_000_000, "the counter counts"
    assert "lm_head.weight" in load_file(tmp_path / "merged" / WEIGHTS)


class Elsewhere:
    """A Hub whose clients reach it by way of another address."""

    def __init__(self, hub, env):
        self._hub, self._env = hub, env

    def env(self, *args, **options):
        return self._hub.env(*args, **options) | self._env


def test_a_broken_card_is_told_as_what_it_is(folders, tmp_path):
    for number, text in enumerate(("---\nlicense: [mit\n---\n", "---\n- a\n---\n")):
        broken = shutil.copytree(folders["h0"], tmp_path / f"m{number}")
        (broken / "README.md").write_text(text)
        found = check([str(broken), str(folders["h1"])]).findings
        [finding] = [f for f in found if f.code == "card-unreadable"]
        assert finding.level == "warning" and str(broken) in finding.what
    assert not any(f.code == "card-unreadable" for f in check([str(folders["h0"]), str(folders["h1"])]).findings)

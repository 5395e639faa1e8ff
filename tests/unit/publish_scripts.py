"""What test_publish's processes run, each as one user of the Hub, and a line to the Hub on which things go wrong."""

import re
import socket
import threading
from contextlib import contextmanager

from huggingface_hub import HfApi

# What every script begins with: `tell(name, value)` reports to the test, `fails(call)` the error that it must raise.
PRELUDE = """
import contextlib, json, sys
from pathlib import Path
from huggingface_hub import HfApi
from fusehub.errors import FuseHubError
from fusehub.publishing.publish import publish, publish_statistics
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
for number, license in enumerate(["mit", "apache-2.0"]):
    folder = work / f"expert-{number}"
    (folder / "README.md").write_text(
        f"---\\nlicense: {license}\\nlanguage: [en]\\ndatasets: [ann/texts-{number}]\\n---\\nHi\\n")
    (folder / "optimizer.pt").write_bytes(b"x" * 1000)
    tell(f"expert-{number}", publish(folder, f"expert-{number}", private=False).to_dict())
import shutil
publish(shutil.copytree(work / "expert-1", work / "expert-2"), "expert-2", private=False)
tell("own statistics", publish_statistics(work / "statistics-1", model="ann/expert-1").to_dict())
tell("files 0", files("ann/expert-0"))
tell("files 1", files("ann/expert-1"))
tell("card 1", Path(HfApi().hf_hub_download("ann/expert-1", "README.md")).read_text())

# An earlier version in shards is replaced as a whole, and other files beside it stay.
from huggingface_hub import CommitOperationAdd
publish(shutil.copytree(work / "expert-1", work / "sharded"), "sharded", private=False)
old = ["statistics-00001-of-00002.safetensors", "statistics.safetensors.index.json", "fisher.safetensors", "notes.txt"]
HfApi().create_commit(
    "ann/sharded", [CommitOperationAdd(f"fusehub/{name}", b"old") for name in old], commit_message="old")
commits = len(HfApi().list_repo_commits("ann/sharded"))
publish_statistics(work / "statistics-1", model="ann/sharded")
tell("commits", len(HfApi().list_repo_commits("ann/sharded")) - commits)
tell("files after", [name for name in files("ann/sharded") if name.startswith("fusehub/")])
HfApi().delete_repo("ann/sharded")

from fusehub.models.resolve import resolve
# What is allowed switches off no other check.
others, few = work / "statistics-1", work / "few"
tell("other weights", fails(lambda: publish_statistics(others, model="ann/expert-0", allow_few_rows=True)))
tell("few rows", fails(lambda: publish_statistics(few, model="ann/expert-0", allow_other_weights=True)))
tell("no model", fails(lambda: publish_statistics(work / "few", model=str(work / "expert-0"))))
tell("no statistics", fails(lambda: publish_statistics(work, model="ann/expert-0")))
"""

FUSE = """
# Somebody else merges them from the Hub alone, and publishes the merge.
from fusehub.comparing.evaluate import evaluate
from fusehub.merging.merge import merge
from fusehub.comparing.predictor import predict
from fusehub.merging.recipe import Recipe
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
tell("no such repo", fails(lambda: publish(out, "ann/none", create_pr=True)))
before = api.model_info("ann/expert-0").sha
tell("request", publish(out, "ann/expert-0", create_pr=True).to_dict())
tell("request left main", api.model_info("ann/expert-0").sha == before)
tell("request files", files("ann/expert-0", "refs/pr/1"))
request = publish_statistics(work / "statistics-1", model="ann/expert-2", create_pr=True)
tell("statistics request", [request.pull_request_url, files("ann/expert-2"), files("ann/expert-2", "refs/pr/1")])

# A branch that is made for it, and a commit in one's own words.
before = api.model_info("bob/mine").sha
said = {"commit_message": "By hand", "commit_description": "And why."}
branch = publish(work / "local", "mine", exist_ok=True, revision="next", **said)
tell("branch", branch.to_dict())
(commit, *earlier) = api.list_repo_commits("bob/mine", revision="next")
tell("branch commit", [commit.commit_id, commit.title, commit.message, earlier[0].commit_id == before])
tell("branch left main", api.model_info("bob/mine").sha == before)
tell("branch again", publish(work / "local", "mine", exist_ok=True, revision="next").url)
tell("branch, new repo", publish(out, "branched", revision="first").url)
tell("branch, new repo, files", [files("bob/branched"), files("bob/branched", "first")])
tell("no such branch", fails(lambda: publish(out, "ann/expert-0", create_pr=True, revision="nowhere")))
tell("a commit", fails(lambda: publish(out, "mine", exist_ok=True, revision=before)))

# What parameters were called before.
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    old = publish(out, "old-words", public=True)
    tell("old request", publish(out, "ann/expert-0", pull_request=True).pull_request_url)
tell("old words", [old.private, [[w.category.__name__, str(w.message), w.filename] for w in caught
                                 if w.category is FutureWarning]])
try:
    publish(out, "old-words", public=True, private=False)
except TypeError as error:
    tell("both words", str(error))

# Results are pushed as their folders are.
from fusehub.collecting.collect import collect
result = merge(Recipe.parse({"merge_method": "mean", "models": [{"model": m} for m in models]}), work / "pushed")
tell("push", result.push_to_hub("pushed", private=False, commit_message="Mine").to_dict())
tell("push files", files("bob/pushed"))
from fusehub.comparing.tuning import Tuning, tune
tuned = tune(models, Tuning({"mine": str(work / "d.jsonl")}, weights=True, trials=1), method="mean")
tell("push tuned", [tuned.push_to_hub("tuned").private, files("bob/tuned") == files("bob/pushed")])
from fusehub.statistics.file import Statistics
from fusehub.statistics.sources import open_statistics
with contextlib.closing(open_statistics(str(work / "statistics-1"))) as statistics:
    tell("push statistics", statistics.push_to_hub("stats-2", model="ann/expert-1").to_dict())
    tell("push statistics, own", fails(lambda: statistics.push_to_hub()))

# A companion repo of statistics for a model that one does not own.
tell("not my model", fails(lambda: publish_statistics(work / "statistics-1", model="ann/expert-1")))
companion = publish_statistics(work / "statistics-1", "stats-1", model="ann/expert-1", private=False)
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
tell("half tensors", broken("a", lambda f: (f / "fusehub" / "statistics.json").unlink(), "expert-0"))
tell("half metadata", broken("b", lambda f: (f / "fusehub" / "statistics.safetensors").unlink(), "expert-0"))
tell("no tokenizer", broken("no-tokenizer", lambda f: [p.unlink() for p in f.glob("*token*")]))
tell("empty", broken("empty", lambda f: [p.unlink() for p in f.iterdir() if p.is_file()]))
tell("unfinished", broken("x.partial", lambda f: None))
tell("bad card", broken("bad-card", lambda f: (f / "README.md").write_text("---\\nlicense: [1]\\n---\\n")))
tell("no yaml", broken("no-yaml", lambda f: (f / "README.md").write_text("---\\n[: x\\n---\\n")))

def license(*licenses, private=False):
    def change(folder):
        edit(folder, lambda r: [s.update(license=x, private=private) for s, x in zip(r["sources"], licenses)])
    return change

tell("no derivatives", broken("no-derivatives", license("mit", "cc-by-nd-4.0")))
loose = shutil.copytree(work / "local", work / "loose")
license("mit", "cc-by-nc-4.0")(loose)
tell("loosened", fails(lambda: publish(loose, "loose", license="apache-2.0")))
(loose / "README.md").write_text("---\\nlicense: mit\\n---\\nMy words.\\n")
tell("loosened by hand", fails(lambda: publish(loose, "loose")))
tell("license lost", fails(lambda: publish(loose, "loose", license="mit")))
work_nd = work / "no-derivatives"
conflict = shutil.copytree(work / "local", work / "conflict")
license("gpl-3.0", "cc-by-nc-4.0")(conflict)
tell("conflict, public", fails(lambda: publish(conflict, "conflict", private=False, allow_restricted=True)))
gated = shutil.copytree(work / "local", work / "gated")
license("mit", "mit", private=True)(gated)
tell("gated, public", fails(lambda: publish(gated, "gated", private=False, allow_license=True)))
api = HfApi()
api.create_repo("cat/open")
tell("gated, into public", fails(lambda: publish(gated, "open", exist_ok=True)))
mine = shutil.copytree(work / "local", work / "mine")
(mine / "README.md").write_text("mine")
tell("results lost", fails(lambda: publish(mine, "mine", evaluation={})))
tell("repos", sorted(m.id for m in api.list_models(author="cat")))

# What is not forbidden: by what the owner allows, into a private repo, with a card of one's own.
tell("forced", publish(work_nd, "forced", allow_license=True).to_dict())
tell("gated, private", publish(gated, "gated").to_dict())
tell("conflict, private", publish(conflict, "conflict").to_dict())
tell("conflict, its card", Path(api.hf_hub_download("cat/conflict", "README.md")).read_text())
tell("conflict, allowed", publish(conflict, "conflict-open", private=False, allow_license=True).to_dict())
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
tell("shards", publish(shards, "shards", private=False).repo_id)
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

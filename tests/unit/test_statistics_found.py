"""`--statistics auto` and `find --with-statistics` on a real Hub: where statistics may lie, and what is in the way."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi
from safetensors import safe_open
from safetensors.torch import save

from fusehub.collecting.collect import collect
from tests.unit.experts import relatives, text_file, texts_of

CARD = "---\nlicense: mit\nbase_model: ann/base\n---\n# A model\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two experts and the statistics of each, as folders."""
    folder = tmp_path_factory.mktemp("work")
    for number, path in enumerate(relatives(folder, layers=1)):
        (path / "README.md").write_text(CARD)
        data = text_file(folder, number, texts_of(number, count=110))
        collect(str(path), data, folder / f"statistics-{number}").close()
    (folder / "base" / "README.md").write_text("---\nlicense: mit\n---\n# The base\n")
    return folder


class Repos:
    """Models and statistics of one test, put on the Hub file by file."""

    def __init__(self, hub, work: Path, name: str) -> None:
        self.hub, self.work, self.name = hub, work, name

    def api(self, user: str) -> HfApi:
        return HfApi(self.hub.url, token=self.hub.token(user))

    def model(self, number: int = 0, *, user: str = "ann") -> str:
        repo = f"{user}/{self.name}-{number}"
        self.put(repo, {path.name: path for path in (self.work / f"expert-{number}").iterdir() if path.is_file()})
        return repo

    def own(self, repo: str, number: int = 0) -> str:
        """Statistics in the model's own repo; the commit."""
        return self.put(repo, self._files(number))

    def companion(self, of: str, number: int = 0, *, user: str = "ann", name: str = "", **change: object) -> str:
        """A companion repo of the model `of`, whose metadata may say something else."""
        repo = f"{user}/{name or self.name + '-statistics'}"
        files = self._files(number)
        if change:
            told = json.loads((self.work / f"statistics-{number}" / "statistics.json").read_text()) | change
            files["fusehub/statistics.json"] = json.dumps(told).encode()
        files["README.md"] = f"---\nbase_model: {of}\ntags: [fusehub-statistics]\n---\n".encode()
        self.put(repo, files)
        return repo

    def put(self, repo: str, files: dict) -> str:
        api = self.api(repo.partition("/")[0])
        api.create_repo(repo, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        return api.create_commit(repo, operations, commit_message="x").oid

    def _files(self, number: int) -> dict:
        folder = self.work / f"statistics-{number}"
        return {f"fusehub/{path.name}": path for path in folder.iterdir() if path.suffix != ".partial"}


@pytest.fixture
def repos(hub, work, request):
    name = re.sub(r"[^a-z]+", "-", request.node.name.removeprefix("test_"))
    return Repos(hub, work, name[-40:].strip("-"))


def origins(ann, *models: str, **options: str) -> list[str]:
    """Where a merge would take the statistics of `models` from."""
    more = [word for key, value in options.items() for word in (f"--{key}", value)]
    return ann.json("merge", *models, "--method", "regmean", "--dry-run", *more)["statistics"]


def test_in_the_models_repo_at_its_commit_or_later(ann, repos):
    first, second = repos.model(0), repos.model(1)
    bare = repos.api("ann").model_info(first).sha
    commits = [repos.own(first, 0), repos.own(second, 1)]
    assert origins(ann, first, second) == [f"{first}@{commits[0]}", f"{second}@{commits[1]}"]
    # Pinned before the statistics came: the weights are the same, which is what counts.
    assert origins(ann, f"{first}@{bare}", second)[0] == f"{first}@{commits[0]}"


def test_in_a_companion_repo_of_the_same_user(ann, repos):
    first, second = repos.model(0), repos.model(1)
    companion = repos.companion(first, 0)
    commit = repos.own(second, 1)
    sha = repos.api("ann").model_info(companion).sha
    assert origins(ann, first, second) == [f"{companion}@{sha}", f"{second}@{commit}"]
    out = repos.work / f"{repos.name}-merged"
    ann("merge", first, second, "--method", "regmean", "--out", out)
    report = json.loads((out / "fusehub_report.json").read_text())
    assert report["sources"][0]["statistics"]["origin"] == f"{companion}@{sha}"
    shutil.rmtree(out)


def test_of_other_weights_are_passed_over_for_those_that_fit(ann, repos):
    first, second = repos.model(0), repos.model(1)
    repos.own(first, 1)  # Of the weights before the last training, say.
    repos.own(second, 1)
    what, fix = ann.fails("merge", first, second, "--method", "regmean", "--dry-run")
    assert f"{first}: the statistics there are ({first}@" in what and "made for other weights" in what
    assert f"fusehub collect {first} --data DATA" in fix
    wrong = repos.companion(first, 1, name=f"{repos.name}-wrong")
    what, _ = ann.fails("merge", first, second, "--method", "regmean", "--dry-run")
    assert wrong in what
    right = repos.companion(first, 0)
    assert origins(ann, first, second)[0].startswith(f"{right}@")


def test_what_others_made_is_listed_and_used_only_where_it_is_named(ann, repos):
    """Anybody can tag a repo as the companion of any model, and statistics decide what is merged."""
    first, second = repos.model(0), repos.model(1)
    commit = repos.own(second, 1)
    eve = repos.companion(first, 0, user="eve")
    sha = repos.api("eve").model_info(eve).sha
    what, fix = ann.fails("merge", first, second, "--method", "regmean", "--dry-run")
    assert f"{first} has no published statistics of its owner" in what and f"{eve} (by eve)" in what
    option = f"--statistics {first}={eve}@{sha}"
    assert f"`{option}`" in fix and f"fusehub collect {first} --data DATA" in fix
    assert origins(ann, first, second, statistics=f"{first}={eve}@{sha}") == [f"{eve}@{sha}", f"{second}@{commit}"]
    # A dry run finds them as little where other weights may be used, and where the owner has some of these.
    ann.fails("merge", first, second, "--method", "regmean", "--dry-run", "--allow-other-weights")
    own = repos.companion(first, 0)
    assert origins(ann, first, second)[0].startswith(f"{own}@")


def test_what_others_made_is_questioned_before_it_decides(ann, repos, tmp_path):
    """It is held against random tokens: told where it looks like the model's, refused where it cannot be."""
    first, second = repos.model(0), repos.model(1)
    repos.own(second, 1)
    bob = repos.companion(first, 0, user="bob")
    ann("merge", first, second, "--method", "regmean", "--statistics", f"{first}={bob}", "--out", tmp_path / "merged")
    report = json.loads((tmp_path / "merged" / "fusehub_report.json").read_text())
    [note] = [note for note in report["notes"] if bob in note]
    assert "made by others than the owner of" in note and "times that of random tokens" in note
    own = repos.companion(first, 0)
    ann("merge", first, second, "--method", "regmean", "--out", tmp_path / "own")
    report = json.loads((tmp_path / "own" / "fusehub_report.json").read_text())
    assert own in json.dumps(report["sources"]) and not [note for note in report["notes"] if own in note]
    files = repos._files(0)
    with safe_open(files["fusehub/statistics.safetensors"], "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    # The second element of a triangle is the product of the first two features: no sums of squares have this one.
    odd = {n: value + (torch.arange(len(value)) == 1) * 10 * value.max() if n.endswith(".S") else value
           for n, value in tensors.items()}  # fmt: skip
    repos.put(bob, {"fusehub/statistics.safetensors": save(odd, metadata)})
    what, _ = ann.fails(
        "merge", first, second, "--method", "regmean", "--statistics", f"{first}={bob}", "--out", tmp_path / "odd"
    )
    assert f"{bob}@" in what and "is no sum of squares" in what
    tensors = {name: value * (1e5 if name[-2:] in (".S", ".d") else 1) for name, value in tensors.items()}
    repos.put(bob, {"fusehub/statistics.safetensors": save(tensors, metadata)})
    what, fix = ann.fails(
        "merge", first, second, "--method", "regmean", "--statistics", f"{first}={bob}", "--out", tmp_path / "poisoned"
    )
    assert f"The statistics {bob}@" in what and f"cannot be of {first}" in what and "fusehub collect" in fix
    assert not (tmp_path / "poisoned").exists()


def test_others_statistics_of_other_weights_are_not_offered(ann, repos):
    first, second = repos.model(0), repos.model(1)
    repos.own(second, 1)
    eve = repos.companion(first, 1, user="eve")
    what, fix = ann.fails("merge", first, second, "--method", "regmean", "--dry-run")
    assert eve not in what + fix


def test_an_organisations_companion_is_its_own(ann, repos, hub):
    """Whoever may write to the model may write to it; its members' own repos are others'."""
    hub.add_org(f"org{len(repos.name)}", {"ann": "write"})
    org = f"org{len(repos.name)}"
    files = {path.name: path for path in (repos.work / "expert-0").iterdir() if path.is_file()}
    HfApi(repos.hub.url, token=repos.hub.token("ann")).create_repo(f"{org}/m")
    api = repos.api("ann")
    api.create_commit(f"{org}/m", [CommitOperationAdd(n, p) for n, p in files.items()], commit_message="x")
    second = repos.model(1)
    repos.own(second, 1)
    member = repos.companion(f"{org}/m", 0, name="of-a-member")
    what, _ = ann.fails("merge", f"{org}/m", second, "--method", "regmean", "--dry-run")
    assert f"{member} (by ann)" in what
    own = f"{org}/m-statistics"
    api.create_repo(own)
    card = f"---\nbase_model: {org}/m\ntags: [fusehub-statistics]\n---\n".encode()
    added = repos._files(0) | {"README.md": card}
    api.create_commit(own, [CommitOperationAdd(n, p) for n, p in added.items()], commit_message="x")
    assert origins(ann, f"{org}/m", second)[0].startswith(f"{own}@")


@pytest.mark.parametrize("broken", ["version", "format", "layers", "json"])
def test_what_is_broken_hides_nothing(ann, repos, broken):
    first, second = repos.model(0), repos.model(1)
    repos.own(second, 1)
    change = {"version": {"version": 2}, "format": {"format": "other"}, "layers": {"layers": "none"}}.get(broken, {})
    wrong = repos.companion(first, 0, name=f"{repos.name}-broken", **change)
    if broken == "json":
        repos.put(wrong, {"fusehub/statistics.json": b"{"})
    for _ in range(3):
        # The first in the list.
        repos.api("ann").hf_hub_download(wrong, "fusehub/statistics.json", force_download=True)
    what, fix = ann.fails("merge", first, second, "--method", "regmean", "--dry-run")
    assert wrong in what and "fusehub collect" in fix
    if broken == "version":
        assert "version 2 of the format; this FuseHub reads version 1" in what
    right = repos.companion(first, 0)
    assert origins(ann, first, second)[0].startswith(f"{right}@")


def test_a_gated_companion_hides_nothing(ann, repos, hub):
    first, second = repos.model(0), repos.model(1)
    repos.own(second, 1)
    gated = repos.companion(first, 0, user="eve")
    repos.api("eve").update_repo_settings(gated, gated="auto")
    what, _ = ann.fails("merge", first, second, "--method", "regmean", "--dry-run")
    assert f"{first} has no published statistics" in what and gated not in what
    right = repos.companion(first, 0)
    assert origins(ann, first, second)[0].startswith(f"{right}@")


def test_find_lists_models_whose_statistics_are_there_and_a_merge_uses_those(ann, repos):
    prefix = repos.name
    first, second, bare = repos.model(0), repos.model(1), repos.model(0, user="bob")
    repos.own(second, 1)
    companion = repos.companion(first, 0)
    found = ann.json("find", prefix, "--with-statistics")["models"]
    assert {model["id"]: model["statistics_at"] for model in found} == {first: companion, second: second}
    assert bare in {model["id"] for model in ann.json("find", prefix)["models"]}
    table = ann("find", prefix, "--with-statistics")
    [line] = [line for line in table.splitlines() if line.startswith(first)]
    assert companion in line and bare not in table
    assert [place.partition("@")[0] for place in origins(ann, first, second)] == [companion, second]
    repos.put("ann/base", {path.name: path for path in (repos.work / "base").iterdir() if path.is_file()})
    by_base = ann.json("find", prefix, "--with-statistics", "--base", "ann/base")["models"]
    assert {model["id"] for model in by_base} == {first, second}
    assert ann.json("find", "no-such-model", "--with-statistics")["models"] == []

"""Bytes are what the Hub says they are: in the cache and on the wire, of weights, configs, adapters and statistics."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file

from fusehub.collecting.collect import collect
from fusehub.errors import BadFile
from fusehub.localhub.faults import FILENAME
from fusehub.models.resolve import resolve
from tests.unit.at_hub import session
from tests.unit.experts import LABELS, WEIGHTS, files_of, relatives, text_file, texts_of, weights_of


@pytest.fixture(scope="module")
def work(hub, tmp_path_factory):
    """Two experts with statistics, as folders and as repos of ann."""
    folder = tmp_path_factory.mktemp("work")
    for number, path in enumerate(relatives(folder, layers=1)):
        collect(str(path), text_file(folder, number), path / "fusehub").close()
        api = HfApi(hub.url, token=hub.token("ann"))
        api.create_repo(f"ann/e{number}")
        api.upload_folder(repo_id=f"ann/e{number}", folder_path=path)
    rows = [{"text": text, "label": LABELS[number % 2]} for number, text in enumerate(texts_of(0))]
    content = "\n".join(map(json.dumps, rows)).encode()
    api.create_repo("ann/texts", repo_type="dataset")
    api.upload_file(repo_id="ann/texts", repo_type="dataset", path_or_fileobj=content, path_in_repo="train.jsonl")
    (folder / "texts.jsonl").write_bytes(content)
    return folder


@pytest.fixture
def fresh(hub, work, tmp_path):
    """ann with a cache of her own, and where in it the file of a repo lies."""
    with session(hub, "ann", tmp_path / "home") as run:
        yield run


def cached(tmp_path, repo: str, filename: str):
    [path] = (tmp_path / "home").rglob(f"models--{repo.replace('/', '--')}/snapshots/*/{filename}")
    return path


def flip(path, at: int = -6) -> None:
    """Turns one bit of a file over: by default of the last number's exponent, which stays finite."""
    path = path.resolve()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def stored(hub_root, content) -> list:
    """Where a Hub keeps the files that have this content."""
    return [path for path in hub_root.rglob("blobs/*") if path.read_bytes() == content]


# As on a machine where nothing was downloaded yet.
FORGET = """
import shutil
from huggingface_hub.constants import HF_HUB_CACHE
from fusehub.models.remote_headers import forget_headers
shutil.rmtree(HF_HUB_CACHE, True)
forget_headers()
"""


@pytest.fixture
def wire(hub, work, tmp_path_factory):
    """Makes the Hub send a file with one bit turned, for as long as the test runs."""
    known = (work / "expert-0" / WEIGHTS).read_bytes()
    root = next(path for path in tmp_path_factory.getbasetemp().glob("hub*") if stored(path, known))
    spoilt = {}

    def spoil(content: bytes, at: int = -6) -> None:
        for path in stored(root, content):
            spoilt[path] = content
            flip(path, at)

    yield spoil
    for path, content in spoilt.items():
        path.write_bytes(content)


def test_a_bit_that_flipped_in_the_cache_is_healed(fresh, work, tmp_path):
    fresh("merge", "ann/e0", "ann/e1", "--out", "good")
    good = weights_of(tmp_path / "home" / "good")
    for name in (WEIGHTS, "fusehub/statistics.safetensors", "config.json"):
        # Of a text, the last digit of some number: JSON all the same.
        at = -6 if name != "config.json" else (work / "expert-1" / name).read_bytes().index(b"64")
        flip(cached(tmp_path, "ann/e1", name), at)
        fresh("merge", "ann/e0", "ann/e1", "--out", name.partition("/")[0])
        again = weights_of(tmp_path / "home" / name.partition("/")[0])
        assert all(torch.equal(again[key], value) for key, value in good.items()), name
        assert cached(tmp_path, "ann/e1", name).read_bytes() == (work / "expert-1" / name).read_bytes()


def test_a_model_that_answers_or_is_counted_is_healed_first(fresh, work, tmp_path):
    (tmp_path / "home" / "texts.txt").write_text("a good film\n" * 30)
    answer = (
        "from fusehub.comparing.predictor import predict\n"
        "print(predict('ann/e0', ['a good film']).probabilities.tolist())"
    )

    def collected(out: str) -> dict:
        fresh("collect", "ann/e0", "--data", "texts.txt", "--out", out)
        return load_file(tmp_path / "home" / out / "statistics.safetensors")

    said, counted = fresh.python(answer), collected("before")
    weights = cached(tmp_path, "ann/e0", WEIGHTS)
    for number in range(2):
        # The sign of the last number: another model would answer and be counted.
        flip(weights, -1)
        if number:
            again = collected("after")
            assert all(torch.equal(again[key], value) for key, value in counted.items())
        else:
            assert fresh.python(answer) == said
        assert weights.read_bytes() == (work / "expert-0" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", [WEIGHTS, "fusehub/statistics.safetensors", "config.json", "tokenizer.json"])
def test_wrong_bytes_on_the_wire_are_refused_and_not_kept(fresh, work, wire, tmp_path, name):
    content = (work / "expert-1" / name).read_bytes()
    wire(content, -6 if name != "config.json" else content.index(b"64"))
    what, fix = fresh.fails("merge", "ann/e0", "ann/e1", "--out", "merged")
    assert "ann/e" in what and name in what and "is not what the Hub says it is" in what
    assert "thrown out of the cache" in fix
    assert not (tmp_path / "home" / "merged").exists()
    assert not list(
        (tmp_path / "home").rglob(
            f"models--{what.partition(':')[0].partition('@')[0].replace('/', '--')}/snapshots/*/{name}"
        )
    )
    what, _ = fresh.fails("merge", "ann/e0", "ann/e1", "--out", "merged")
    assert "is not what the Hub says it is" in what, "a second try is no way around it"


def test_wrong_bytes_of_data_are_refused(fresh, work, wire, tmp_path):
    content = (work / "texts.jsonl").read_bytes()
    wire(content, content.index(b"negative"))
    what, fix = fresh.fails("collect", "ann/e0", "--data", "ann/texts", "--out", "statistics")
    assert "The dataset ann/texts: train.jsonl is not what the Hub says it is" in what and "thrown out" in fix
    assert not (tmp_path / "home" / "statistics").exists()


def test_wrong_bytes_of_an_expert_give_no_statistics(fresh, work, wire, tmp_path):
    wire((work / "expert-0" / WEIGHTS).read_bytes())
    (tmp_path / "home" / "texts.txt").write_text("a good film\n" * 30)
    what, _ = fresh.fails("collect", "ann/e0", "--data", "texts.txt", "--out", "statistics")
    assert f"ann/e0: {WEIGHTS} is not what the Hub says it is" in what
    assert not (tmp_path / "home" / "statistics").exists()


def header_of(path: Path, **changed: str) -> str:
    """The header of a safetensors file with other dtypes, as an answer to whoever asks for its first bytes."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    for name, dtype in changed.items():
        header[name]["dtype"] = dtype
    text = json.dumps(header)
    # Every byte of its length is a character of one byte.
    while any(byte > 127 for byte in len(text).to_bytes(8, "little")):
        text += " "
    return len(text).to_bytes(8, "little").decode() + text


@pytest.fixture
def plan(hub):
    """What the Hub does wrong, for as long as the test runs or until it is told otherwise."""

    def told(*faults: dict) -> None:
        (hub.root / FILENAME).write_text(json.dumps(faults))

    yield told
    (hub.root / FILENAME).unlink(missing_ok=True)


def test_a_plan_by_a_wrong_header_is_made_anew(fresh, work, plan, tmp_path):
    """A header that is read from afar is a part of a file, and held to no hash: the file that comes after it is."""
    fresh("merge", "ann/e0", "ann/e1", "--method", "mean", "--out", "good")
    fresh.python(FORGET)
    # Numbers that are no floats are not averaged.
    wrong = header_of(work / "expert-0" / WEIGHTS, **{"classifier.weight": "I32"})
    plan({"path": f"/ann/e./resolve/.*/{WEIGHTS}", "method": "GET", "count": 2, "do": "json", "body": wrong})
    fresh("merge", "ann/e0", "ann/e1", "--method", "mean", "--out", "again")
    good, again = (weights_of(tmp_path / "home" / name) for name in ("good", "again"))
    assert all(torch.equal(again[key], value) for key, value in good.items())


def test_a_header_that_contradicts_itself_is_refused(fresh, work, plan):
    content = (work / "expert-0" / WEIGHTS).read_bytes()
    # The last digit of a number.
    at = re.search(rb'"shape":\[\d+', content).end() - 1
    plan({"path": f"/ann/e0/resolve/.*/{WEIGHTS}", "method": "GET", "do": "flip", "at": at})
    told = fresh.told("check", "ann/e0", "ann/e1", "--json")
    assert told["code"] == 1 and f"ann/e0: the header of {WEIGHTS} is broken" in told["out"]
    plan()
    fresh("check", "ann/e0", "ann/e1")


READING = [
    ("merge", "ann/e0", "ann/e1", "--out", "OUT"),
    ("collect", "ann/e0", "--data", "ann/texts", "--out", "OUT"),
    ("evaluate", "ann/e0", "--data", "a=ann/texts/train", "--out", "OUT"),
    ("compare", "ann/e0", "ann/e1", "--text", "a fine film"),
    ("inspect", "ann/e0", "--against", "ann/e0"),
    ("check", "ann/e0", "ann/e1"),
]


def test_each_command_heals_every_file_of_the_cache(fresh, work, tmp_path):
    """All that it left there has one bit turned: it gives what it gave, and leaves the files as they were."""
    home = tmp_path / "home"

    def given(command: tuple[str, ...], out: str) -> object:
        told = fresh(*(out if word == "OUT" else word for word in command), "--json")
        if (home / out).is_dir():
            return {path: digest for path, digest in files_of(home / out).items() if path.endswith(".safetensors")}
        return re.sub(r'"seconds": [\d.e-]+', "", told)

    def blobs() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in home.rglob("blobs/*") if path.is_file() and path.stat().st_size}

    for command in READING:
        fresh.python(FORGET)
        first, good = given(command, f"{command[0]}-1"), blobs()
        assert good, command
        for path, content in good.items():
            flip(path, len(content) // 2)
        assert given(command, f"{command[0]}-2") == first, command
        assert blobs() == good, command


OFFLINE = """
import os
os.environ["HF_HUB_OFFLINE"] = "1"
from huggingface_hub import constants
constants.HF_HUB_OFFLINE = True
import fusehub
try:
    {}
except fusehub.FuseHubError as error:
    print(type(error).__name__, error)
"""


def test_offline_the_cache_is_held_to_its_hashes(fresh, work, tmp_path):
    fresh("merge", "ann/e0", "ann/e1", "--out", "good")
    weights = cached(tmp_path, "ann/e1", WEIGHTS)
    flip(weights)
    said = fresh.python(OFFLINE.format("fusehub.merge(['ann/e0', 'ann/e1'], 'merged', method='mean')"))
    assert f"ann/e1: {WEIGHTS} is not what the Hub says it is" in said and "with the network on" in said
    assert not weights.exists() and not (tmp_path / "home" / "merged").exists()


def test_a_cache_that_cannot_be_written_is_told(fresh, work, tmp_path, monkeypatch):
    fresh("merge", "ann/e0", "ann/e1", "--out", "good", "--method", "mean")
    path = cached(tmp_path, "ann/e1", WEIGHTS)
    flip(path)

    def refuse(self, missing_ok=False):
        raise PermissionError(self)

    monkeypatch.setattr(type(path), "unlink", refuse)
    with pytest.raises(BadFile, match="is not what the Hub says it is") as raised:
        resolve(str(path.parent)).path(WEIGHTS)
    assert "cannot be written" in raised.value.fix and path.exists()


def test_a_folder_of_the_cache_that_was_named_is_held_to_its_hashes_too(fresh, work, tmp_path):
    fresh("merge", "ann/e0", "ann/e1", "--out", "good", "--method", "mean")
    folder = cached(tmp_path, "ann/e1", WEIGHTS).parent
    assert resolve(str(folder)).path(WEIGHTS).is_file()
    flip(folder / WEIGHTS)
    with pytest.raises(BadFile, match="is not what the Hub says it is"):
        resolve(str(folder)).path(WEIGHTS)


def test_links_that_are_none_of_the_cache_are_taken_as_they_are(tmp_path, work):
    """Only the Hub's cache names files by their hash."""
    shutil.copytree(work / "expert-0", tmp_path / "model")
    (tmp_path / "blobs").mkdir()
    os.replace(tmp_path / "model" / WEIGHTS, tmp_path / "blobs" / ("0" * 64))
    (tmp_path / "model" / WEIGHTS).symlink_to("../blobs/" + "0" * 64)
    assert resolve(str(tmp_path / "model")).path(WEIGHTS).is_file()


def test_files_that_repos_share_are_known_by_the_hash_of_the_repo(tmp_path, work, monkeypatch):
    """Where repos share files, a blob is a link to one that is named by another hash, which is no sha256."""
    from huggingface_hub import constants

    from fusehub.models.tensor_files import sha256_of

    expert = work / "expert-0"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo, shared = tmp_path / "models--ann--m", tmp_path / "blobs" / "ab" / ("ab" * 32)
    snapshot = repo / "snapshots" / ("1" * 40)
    for folder in (shared.parent, snapshot, repo / "blobs"):
        folder.mkdir(parents=True)
    shutil.copyfile(expert / WEIGHTS, shared)
    sha256 = sha256_of(shared)
    (repo / "blobs" / sha256).symlink_to(f"../../blobs/ab/{shared.name}")
    (snapshot / WEIGHTS).symlink_to(f"../../blobs/{sha256}")
    shutil.copyfile(expert / "config.json", snapshot / "config.json")
    ref = resolve("ann/m")
    assert ref.files[WEIGHTS].sha256 == sha256
    assert ref.path(WEIGHTS).is_file()
    flip(snapshot / WEIGHTS)
    with pytest.raises(BadFile, match=f"and the Hub's {sha256}"):
        ref.path(WEIGHTS)
    assert not shared.exists(), "no other repo gets it either"


def test_an_adapter_is_held_to_its_hashes(hub, fresh, work, tmp_path):
    from tests.unit.lora_cases import adapter

    folder, _ = adapter(tmp_path / "adapter", work / "base", target_modules=["query"])
    (folder / "README.md").unlink()
    api = HfApi(hub.url, token=hub.token("ann"))
    for repo, path in (("ann/base", work / "base"), ("ann/adapter", folder)):
        api.create_repo(repo)
        api.upload_folder(repo_id=repo, folder_path=path)
    arguments = ["merge", "ann/base+ann/adapter", "ann/e0", "--method", "mean", "--out"]
    fresh(*arguments, "good")
    config = json.loads((folder / "adapter_config.json").read_text())
    wanted = f'"lora_alpha": {config["lora_alpha"]}'.encode()
    at = (folder / "adapter_config.json").read_bytes().index(wanted) + len(wanted) - 1
    flip(cached(tmp_path, "ann/adapter", "adapter_config.json"), at)
    fresh(*arguments, "again")
    good, again = (weights_of(tmp_path / "home" / name) for name in ("good", "again"))
    assert all(torch.equal(again[key], value) for key, value in good.items())

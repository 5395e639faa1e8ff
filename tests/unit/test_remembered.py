"""What is remembered from run to run: told again as it was, and only where the same would come of it."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

import fusehub
from fusehub.hub import remembered, verified
from fusehub.hub.remembered import keep, recall
from fusehub.models.checkpoints.checkpoint import hash_share, headers, weight_hashes
from fusehub.models.known import layouts
from fusehub.models.known.layouts import layout_for
from fusehub.models.layout import layout_of
from fusehub.models.resolve import resolve
from fusehub.models.tasks import load_config
from tests.unit.experts import WEIGHTS, edit_json, relatives
from tests.unit.tiny import tiny_model

# `sys.argv`: two models and a folder. Says what was imported, and which bytes were made.
RUN = """
import json, sys
import fusehub
*models, out = sys.argv[1:]
report = fusehub.check(models)
checked = [name for name in ("torch", "transformers") if name in sys.modules]
hashes = dict(fusehub.merge(models, out, method="mean").hashes)
codes = [finding.code for finding in report.findings]
print(json.dumps([checked, "transformers" in sys.modules, codes, hashes]))
"""


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """An empty memory: the folder of its files."""
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    forget()
    yield tmp_path / "assets" / "fusehub"
    forget()


def forget() -> None:
    """What this process knows by itself."""
    layouts._layout_for.cache_clear()
    layouts._known.cache_clear()
    verified._known.clear()


def files_in(memory: Path, kind: str = "*") -> list[Path]:
    return sorted(memory.glob(f"{kind}/*"))


@pytest.mark.parametrize("arch", ["bert", "gpt2"])
def test_a_second_merge_imports_no_transformers_and_makes_the_same_bytes(arch, tmp_path):
    task = "text-generation" if arch == "gpt2" else "text-classification"
    experts = relatives(tmp_path, arch, task=task)
    edit_json(experts[1] / "tokenizer_config.json", model_max_length=128)  # Another file, which does the same.

    def run(out: str) -> list:
        env = {**os.environ, "HF_ASSETS_CACHE": str(tmp_path / "assets")}
        command = [sys.executable, "-c", RUN, *map(str, experts), str(tmp_path / out)]
        return json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)

    checked, imported, *first = run("first")
    assert checked == ["torch", "transformers"] and imported
    assert run("second") == [[], False, *first]


@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5", "bart", "distilbert", "mixtral", "vit"])
def test_a_layout_is_remembered_as_transformers_has_it(arch, tmp_path, memory, monkeypatch):
    task = {"t5": "text2text-generation", "bart": "text2text-generation", "vit": "image-classification"}
    ref = resolve(str(tiny_model(tmp_path / "model", arch, task=task.get(arch, "text-classification"))))
    names = list(headers(ref))
    layout_for(ref).names(names)
    forget()
    told = layout_for(ref)
    made = layout_of(load_config(ref))
    monkeypatch.setattr(layouts, "layout_of", None)  # It is not made again.
    assert told == made and told.names(names) == made.names(names)


@pytest.mark.parametrize("said", [None, {"vocab_size": 50}])
def test_a_model_that_is_gone_still_has_its_layout(tmp_path, memory, said):
    first, second = (tiny_model(tmp_path / name) for name in ("first", "second"))
    ref = resolve(str(first))
    known = layout_for(ref, ref.config | said if said else None)
    shutil.rmtree(first)
    other = resolve(str(second))
    layout = layout_for(other, other.config | said if said else None)
    assert layout is known
    assert set(layout.names(layout.shapes)) == set(layout.shapes)
    assert layout.shapes[layout.embeddings[0]][0] == (50 if said else other.config["vocab_size"])


def test_what_is_not_as_it_was_written_is_no_answer(memory):
    keep("kind", ["question", 1], {"answer": [1, 2]})
    assert recall("kind", ["question", 1]) == {"answer": [1, 2]} and recall("kind", ["question", 2]) is None
    [path] = files_in(memory)
    whole = path.read_bytes()
    for broken in (whole.replace(b"2]", b"3]"), whole[:-2], b"", b"x"):
        path.write_bytes(broken)
        assert recall("kind", ["question", 1]) is None
    keep("kind", ["question", 1], "again")
    assert recall("kind", ["question", 1]) == "again" and files_in(memory) == [path]


def test_what_another_user_wrote_is_no_answer(memory):
    keep("kind", "question", "answer")
    [path] = files_in(memory)
    try:
        os.chown(path, 12345, -1)
    except PermissionError:
        pytest.skip("needs the right to give files away")
    assert recall("kind", "question") is None


def test_the_oldest_make_room_and_what_killed_processes_left_goes(memory, monkeypatch):
    monkeypatch.setattr(remembered, "MOST_ANSWERS", 3)
    for number in range(3):
        keep("kind", number, number)
        time.sleep(0.01)
    left = memory / "kind" / "of-a-killed.tmp"
    left.write_text("half")
    os.utime(left, (0, 0))
    assert recall("kind", 0) == 0  # Asked for, it is no longer the oldest.
    time.sleep(0.01)
    keep("kind", 3, 3)
    assert [recall("kind", number) for number in range(4)] == [0, None, 2, 3] and not left.exists()
    monkeypatch.setattr(remembered, "MOST_BYTES", 200)
    keep("kind", 4, "x" * 100)
    assert [recall("kind", number) for number in (0, 2, 3)] == [None] * 3 and recall("kind", 4)


def test_a_place_that_takes_no_files_is_no_trouble(tmp_path, memory, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "file"))
    keep("kind", "question", "answer")
    assert recall("kind", "question") is None
    ref = resolve(str(tiny_model(tmp_path / "model")))
    assert layout_for(ref).shapes == layout_of(load_config(ref)).shapes


def test_another_version_is_asked_anew_and_one_that_is_being_written_always(tmp_path, memory, monkeypatch):
    ref = resolve(str(tiny_model(tmp_path / "model")))
    layout_for(ref)
    assert len(files_in(memory, "layouts")) == 1
    for version, count in (("9.9.9", 2), ("9.10.0.dev0", 2)):
        forget()
        monkeypatch.setattr(layouts, "versions", lambda *names, version=version: dict.fromkeys(names, version))
        layout_for(ref)
        assert len(files_in(memory, "layouts")) == count


def test_a_class_that_a_program_has_put_into_transformers_is_not_remembered(tmp_path, memory, monkeypatch):
    import transformers

    class OwnForSequenceClassification(transformers.BertForSequenceClassification):
        pass

    monkeypatch.setattr(transformers, "OwnForSequenceClassification", OwnForSequenceClassification, raising=False)
    path = tiny_model(tmp_path / "model")
    edit_json(path / "config.json", architectures=["OwnForSequenceClassification"])
    assert layout_for(resolve(str(path))).architecture == "OwnForSequenceClassification"
    assert not files_in(memory, "layouts")


def test_what_something_is_made_of_is_hashed_anew(experts, tmp_path, memory):
    paths = experts()
    refs = [resolve(str(path)) for path in paths]
    true = [weight_hashes(ref) for ref in refs]
    for path in paths:
        keep("hashes", verified._Written.of(path / WEIGHTS, 64), "0" * 64)
    forget()
    assert weight_hashes(refs[0], verified.remembered_hash) == {WEIGHTS: "0" * 64}
    merged = fusehub.merge(list(map(str, paths)), tmp_path / "merged", method="mean")
    assert list(merged.plan.hashes) == true


def test_the_hash_of_a_file_is_remembered_until_it_is_written(tmp_path, memory, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    found = verified.remembered_hash(path)
    assert not files_in(memory)  # What is written next can have the same time.
    monkeypatch.setattr(verified, "_COARSE_NS", -1)
    forget()
    assert verified.remembered_hash(path) == found and len(files_in(memory, "hashes")) == 1
    path.write_bytes(b"kontent")
    assert verified.remembered_hash(path) != found


def test_processes_hash_a_share_each_and_believe_each_other_of_the_same_files(experts, memory):
    refs = [resolve(str(path)) for path in experts()]
    told = []
    for index in range(2):
        forget()
        hash_share(refs, SimpleNamespace(index=index, count=2))
        told.append(verified.known_hashes())
    assert [len(own) for own in told] == [1, 1] and told[0].keys() != told[1].keys()
    forget()
    own, other = (Path(written[0]) for [written] in told)
    verified.learn_hashes(dict.fromkeys(told[0], "0" * 64))
    verified.learn_hashes({(*written[:-1], 1): "1" * 64 for written in told[1]})
    assert verified.file_hash(own) == "0" * 64
    assert {verified.file_hash(other)} == set(told[1].values())  # What was written at another time is another file.

"""LoRA adapters on the Hub, from publishing to publishing what was merged of them; the numbers are peft's."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.experts import WEIGHTS, edit_json, text_file, texts_of
from tests.unit.lora_cases import ADAPTER, adapter
from tests.unit.tiny import tiny_model

LABELS = ("good", "bad", "mixed")
TOLD = """
import json
from huggingface_hub import HfApi, ModelCard
info, card = HfApi().model_info("{repo}"), ModelCard.load("{repo}")
files = sorted(file.rfilename for file in info.siblings)
print(json.dumps([info.library_name, info.pipeline_tag, info.tags, files, card.data.to_dict(), card.text]))
"""
BY_PEFT = """
import json, torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer
model = AutoPeftModelForSequenceClassification.from_pretrained("{repo}").eval()
tokenizer = AutoTokenizer.from_pretrained("{repo}")
with torch.no_grad():
    logits = model(**tokenizer("a fine film", return_tensors="pt")).logits
print(json.dumps([logits.softmax(-1)[0].tolist(), type(model).__name__]))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A base, and two adapters on it that bring heads of their own, as their owner has them before publishing."""
    folder = tmp_path_factory.mktemp("work")
    base = tiny_model(folder / "base", labels=LABELS, hidden=16)
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# The base\n")
    for number in range(2):
        path, _ = adapter(folder / f"adapter-{number}", base, seed=number, target_modules=["query", "dense"], r=2)
        (path / "README.md").write_text(
            "---\nlicense: mit\nlibrary_name: peft\nbase_model: ann/base\npipeline_tag: text-classification\n---\nHi\n"
        )
        text_file(folder, number, texts_of(number, count=110))
    rows = [{"text": text, "label": LABELS[number % 3]} for number, text in enumerate(texts_of(5))]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def published(ann, bob, work):
    """The base, two adapters, statistics of the one in its repo and of the other in a companion of bob's."""
    what, fix = ann.fails("publish", work / "adapter-0", "adapter-0", "--no-private")
    assert "on a base that nobody else has" in what and "Publish the base first" in fix
    ann("publish", work / "base", "base", "--no-private")
    for number in range(2):
        edit_json(work / f"adapter-{number}" / "adapter_config.json", base_model_name_or_path="ann/base")
        ann("publish", work / f"adapter-{number}", f"adapter-{number}", "--no-private")
    ann("collect", "ann/adapter-0", "--data", work / "texts-0.txt", "--publish")
    bob("collect", "ann/adapter-1", "--data", work / "texts-1.txt", "--publish", "--repo", "adapter-1-statistics")
    bob.python(
        "from huggingface_hub import HfApi; HfApi().update_repo_settings('bob/adapter-1-statistics', private=False)"
    )
    return ["ann/adapter-0", "ann/adapter-1"]


@pytest.fixture(scope="module")
def small(published, bob, work):
    """Their mean, as an adapter."""
    bob("merge", *published, "--method", "mean", "--as-adapter", "--out", work / "small")
    return work / "small"


def told(run, repo: str) -> list:
    return json.loads(run.python(TOLD.format(repo=repo)))


def probabilities(run, *models: object) -> list[list[float]]:
    [text] = run.json("compare", *models, "--text", "a fine film")["texts"]
    return [list(answer["probabilities"].values()) for answer in text["answers"]]


def test_an_adapter_is_published_without_its_base(published, ann):
    library, task, tags, files, _, _ = told(ann, "ann/adapter-0")
    assert (library, task) == ("peft", "text-classification") and "base_model:adapter:ann/base" in tags
    own = [ADAPTER, "README.md", "adapter_config.json", ".gitattributes"]
    assert files == sorted([*own, "fusehub/statistics.json", "fusehub/statistics.safetensors"])


def test_statistics_of_adapters_are_found_wherever_they_are(published, bob, work):
    found = bob.json("find", "adapter", "--base", "ann/base", "--with-statistics")["models"]
    assert {model["id"]: model["statistics_at"] for model in found} == {
        "ann/adapter-0": "ann/adapter-0",
    }
    listed = {model["id"]: model for model in bob.json("find", "adapter", "--base", "ann/base")["models"]}
    assert listed["ann/adapter-1"]["offered_at"] == ["bob/adapter-1-statistics"]
    bobs = ["--statistics", "{}=bob/adapter-1-statistics"]
    bob("merge", *published, *(word.format(published[1]) for word in bobs), "--out", work / "solved")
    report = json.loads((work / "solved" / "fusehub_report.json").read_text())
    origins = [source["statistics"]["origin"].partition("@")[0] for source in report["sources"]]
    assert origins == ["ann/adapter-0", "bob/adapter-1-statistics"]
    assert sum(tensor["action"] == "solve" for tensor in report["tensors"]) > 10
    # With the base said by hand it is the same expert.
    by_hand = [f"ann/base+{name}" for name in published]
    bob("merge", *by_hand, *(word.format(by_hand[1]) for word in bobs), "--out", work / "by-hand")
    a, b = (load_file(work / name / WEIGHTS) for name in ("solved", "by-hand"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    shutil.rmtree(work / "by-hand")


def test_statistics_of_one_adapter_are_not_those_of_another(published, ann, bob, work):
    folder = work / "statistics"
    ann("collect", "ann/adapter-0", "--data", work / "texts-0.txt", "--out", folder)
    what, _ = ann.fails("merge", *published, "--statistics", f"ann/adapter-1={folder}", "--dry-run")
    assert "made for other weights (ann/adapter-0 at " in what
    config = json.loads((work / "adapter-0" / "adapter_config.json").read_text())
    edit_json(work / "adapter-0" / "adapter_config.json", lora_alpha=config["lora_alpha"] * 2)
    what, _ = ann.fails(
        "merge", work / "adapter-0", published[1], "--statistics", f"{work / 'adapter-0'}={folder}", "--dry-run"
    )
    assert "made for other weights" in what, "alpha is part of what the weights are"
    edit_json(work / "adapter-0" / "adapter_config.json", lora_alpha=config["lora_alpha"])


def test_a_merge_of_adapters_is_published_as_one_and_peft_loads_it_from_the_hub(small, published, bob, work):
    bob("merge", *published, "--method", "mean", "--out", work / "whole")
    before = probabilities(bob, *published, small, work / "whole")
    assert max(abs(a - b) for a, b in zip(before[2], before[3], strict=True)) < 1e-5
    scores = bob.json("evaluate", *published, small, "--data", f"mine={work / 'data.jsonl'}", "--out", work / "s.json")
    assert [score["model"] for score in scores["scores"]] == ["adapter-0", "adapter-1", "small"]
    done = bob.json("publish", small, "small", "--results", work / "s.json")
    assert done["private"] and done["repo_id"] == "bob/small"
    library, task, tags, files, card, text = told(bob, "bob/small")
    assert (library, task) == ("peft", "text-classification")
    assert {"base_model:adapter:ann/base", "merge", "lora", "license:cc-by-nc-4.0"} <= set(tags)
    assert not [tag for tag in tags if tag.startswith("base_model:merge")]
    assert {ADAPTER, "adapter_config.json", "config.json", "fusehub_recipe.yaml", "tokenizer.json"} <= set(files)
    assert WEIGHTS not in files and card["base_model"] == ["ann/base"]
    assert card["base_model_relation"] == "adapter" and card["model-index"]
    for name in published:
        assert f"[{name}]" in text and "on [ann/base](" in text
    assert "rank 4 at most" in text and str(work) not in text
    assert "best single expert" in text, "the adapters are known as what went in"
    assert probabilities(bob, "bob/small")[0] == before[2]
    by_peft, kind = json.loads(bob.python(BY_PEFT.format(repo="bob/small")))
    assert kind.startswith("PeftModel")
    assert max(abs(a - b) for a, b in zip(by_peft, before[2], strict=True)) < 1e-5
    code = text.partition("```python\n")[2].partition("\n```")[0]
    assert "PeftModel" in code and bob.python(code).count("label") == 1
    # What is pushed says how it is made again: the same bytes.
    bob.python(
        "from huggingface_hub import hf_hub_download as get; get('bob/small', 'fusehub_recipe.yaml', local_dir='.')"
    )
    recipe = bob.python("print(open('fusehub_recipe.yaml').read())")
    assert "as_adapter: true" in recipe and "ann/base@" in recipe
    (work / "again.yaml").write_text(recipe)
    bob("merge", work / "again.yaml", "--out", work / "again")
    for name in (ADAPTER, "adapter_config.json"):
        assert (work / "again" / name).read_bytes() == (small / name).read_bytes()


def test_what_is_changed_or_broken_afterwards_is_not_published(small, bob, work):
    for name, change, said in (
        (ADAPTER, lambda path: path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1"), "not what the merge wrote"),
        ("adapter_config.json", lambda path: edit_json(path, lora_alpha=99), "not what the merge wrote"),
        (ADAPTER, lambda path: path.unlink(), "lacks adapter_model.safetensors"),
        ("fusehub_report.json", lambda path: private(path), "ann/base"),
    ):
        copy = shutil.copytree(small, work / "changed")
        change(copy / name)
        what, _ = bob.fails("publish", copy, "changed", "--no-private")
        assert said in what, what
        shutil.rmtree(copy)
    assert (
        bob.python("from huggingface_hub import HfApi; print(HfApi().repo_exists('bob/changed'))").strip() == "False"
    )


def private(path: Path) -> None:
    report = json.loads(path.read_text())
    for source in report["sources"]:
        source["adapter_base"]["private"] = True
    path.write_text(json.dumps(report))


def test_a_whole_merge_of_adapters_is_under_the_terms_of_their_base(published, bob, work):
    if not (work / "whole").exists():
        bob("merge", *published, "--method", "mean", "--out", work / "whole")
    bob("publish", work / "whole", "whole")
    library, _, tags, files, card, _ = told(bob, "bob/whole")
    assert library == "transformers" and WEIGHTS in files and "adapter_config.json" not in files
    assert card["license"] == "cc-by-nc-4.0" and set(card["base_model"]) == {"ann/adapter-0", "ann/adapter-1"}
    assert "base_model:merge:ann/adapter-0" in tags
    found = bob.json("check", *published)["findings"]
    assert any("License of the result: cc-by-nc-4.0 (ann/base" in finding["what"] for finding in found)


def test_an_adapter_on_another_base_than_it_names_is_told(published, bob, ann, work):
    other = shutil.copytree(work / "base", work / "elsewhere")
    ann("publish", other, "elsewhere", "--no-private")
    found = bob.json("check", "ann/elsewhere+ann/adapter-0", "ann/adapter-1")["findings"]
    said = [finding["what"] for finding in found if finding["level"] == "warning"]
    assert "ann/adapter-0 says that it was trained on ann/base, and is put on ann/elsewhere." in said
    assert not any("adapter-1 says" in text for text in said)


def test_adapters_at_the_hub_that_name_each_other_are_not_followed_round(published, ann, bob, work, tmp_path):
    for number in range(2):
        folder = shutil.copytree(work / f"adapter-{number}", tmp_path / f"round-{number}")
        edit_json(folder / "adapter_config.json", base_model_name_or_path=f"ann/round-{1 - number}")
        ann.python(
            f"from huggingface_hub import HfApi; HfApi().create_repo('ann/round-{number}'); "
            f"HfApi().upload_folder(repo_id='ann/round-{number}', folder_path={str(folder)!r})"
        )
    what, _ = bob.fails("check", "ann/round-0", *published)
    assert "ann/round-0: an adapter on an adapter" in what

"""Every task the whole way, by commands: published, collected, merged, compared, scored, published, loaded again."""

import json
import random
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from PIL import Image

from tests.unit.at_hub import session
from tests.unit.experts import relatives
from tests.unit.test_merge_tasks import tasks
from tests.unit.tiny import tiny_images, tiny_texts

CLASSES, TOKENS = "text-classification", "token-classification"
TAGS = ("O", "B-PER", "I-PER")
# name -> (architecture, task, labels, what else the config says, metrics of `evaluate`)
KINDS = {
    "one-label": ("distilbert", CLASSES, ("bad", "good"), {}, ["accuracy", "f1_macro"]),
    "many-labels": (
        "bert",
        CLASSES,
        ("joy", "fear", "anger"),
        {"problem_type": "multi_label_classification"},
        ["f1_micro", "f1_macro", "accuracy"],
    ),
    "number": ("bert", CLASSES, ("score",), {"problem_type": "regression"}, ["pearson", "spearman", "mse"]),
    "entities": ("bert", TOKENS, TAGS, {}, ["f1", "precision", "recall", "accuracy"]),
    "answers": ("bert", "question-answering", ("a", "b"), {}, ["f1", "exact_match"]),
    "masks": ("bert", "fill-mask", ("a", "b"), {}, ["perplexity"]),
    "gpt2": ("gpt2", "text-generation", ("a", "b"), {}, ["perplexity"]),
    "llama": ("llama", "text-generation", ("a", "b"), {}, ["perplexity"]),
    "t5": ("t5", "text2text-generation", ("a", "b"), {}, ["chrf", "bleu", "exact_match"]),
    "bart": ("bart", "text2text-generation", ("a", "b"), {}, ["chrf", "bleu", "exact_match"]),
    "images": ("vit", "image-classification", ("cat", "dog"), {}, ["accuracy", "f1_macro"]),
}


@pytest.fixture(scope="module")
def fusehub(hub, tmp_path_factory):
    home = tmp_path_factory.mktemp("ann")
    Image.new("RGB", (20, 20), (200, 120, 40)).save(home / "photo.jpg")
    with session(hub, "ann", home) as run:
        yield run


def row_of(kind: str, text: str, draw: random.Random) -> dict:
    """One labelled example."""
    words = text.split()
    return {
        "one-label": {"text": text, "label": draw.choice(["bad", "good"])},
        "many-labels": {"text": text, "labels": draw.sample(["joy", "fear", "anger"], draw.randint(0, 3))},
        "number": {"text": text, "label": draw.random()},
        "entities": {"tokens": words, "ner_tags": [draw.choice(["O", "B-PER"]) for _ in words]},
        "answers": {"question": "Who?", "context": text, "answers": {"text": [words[0]], "answer_start": [0]}},
        "t5": {"source": text, "target": words[0]},
        "bart": {"source": text, "target": words[0]},
    }.get(kind, {"text": text})


def data_of(kind: str, folder: Path, seed: int) -> str:
    """Enough examples for statistics that everybody may have."""
    if kind == "images":
        return str(tiny_images(folder / f"photos-{seed}", count=52, seed=seed))
    draw = random.Random(seed)
    rows = [row_of(kind, text, draw) for text in tiny_texts(110, seed=seed, longest=8 + 6 * seed)]
    path = folder / f"data-{seed}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def text_of(kind: str, home: Path) -> str:
    asked = {"answers": "Who lives in Paris? | Anna lives in Paris.", "masks": "Anna visited [MASK] ."}
    return {**asked, "images": str(home / "photo.jpg")}.get(kind, "Anna visited Paris .")


def said(comparison: dict, model: str) -> tuple:
    [text] = comparison["texts"]
    own = next(answer for answer in text["answers"] if answer["model"] == model)
    return own["label"], own["marked"], own["probabilities"]


def assert_nothing_of_the_texts_is_told(hub, name: str, kind: str, data: str) -> None:
    """The file beside the grams names layers and counts, and of the examples not a word: no target and no answer."""
    api = HfApi(hub.url, token=hub.token("ann"))
    told = json.loads(Path(api.hf_hub_download(name, "fusehub/statistics.json")).read_text())
    labels = {"one-label": ["bad", "good"], "many-labels": ["anger", "fear", "joy"], "entities": ["B-PER", "O"]}
    assert list(told["labels"] or ()) == {**labels, "images": ["cat", "dog"]}.get(kind, [])
    if kind != "images":
        words = [word for word in ("masterpiece", "extraordinary", "Anna") if word in Path(data).read_text()]
        assert len(words) == 3 and not any(word in json.dumps(told) for word in words)


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_goes_the_whole_way(kind: str, fusehub, hub, tmp_path: Path) -> None:
    arch, task, labels, config, metrics = KINDS[kind]
    names = [f"ann/{kind}-{number}" for number in range(2)]
    for number, folder in enumerate(relatives(tmp_path, arch, task=task, labels=[labels, labels], **config)):
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# An expert\n")
        fusehub("publish", folder, names[number], "--no-private")
        data = data_of(kind, tmp_path, number)
        fusehub("collect", names[number], "--data", data, "--publish")
        assert_nothing_of_the_texts_is_told(hub, names[number], kind, data)
    assert fusehub.json("check", *names)["ok"]
    merged = tmp_path / f"{kind}-merged"
    fusehub("merge", *names, "--method", "regmean", "--out", merged)
    report = json.loads((merged / "fusehub_report.json").read_text())
    assert sum(tensor["action"] == "solve" for tensor in report["tensors"]) >= 7, "by statistics found on the Hub"
    text = text_of(kind, tmp_path.parent)
    if kind == "images":
        Image.new("RGB", (20, 20), (20, 20, 240)).save(text)
    here = fusehub.json("compare", *names, merged, "--text", text)
    scores = tmp_path / "scores.json"
    found = fusehub.json(
        "evaluate", *names, merged, "--data", f"mine={data_of(kind, tmp_path, 2)}", "--limit", 20, "--out", scores
    )
    assert [list(score["metrics"]) for score in found["scores"]] == [metrics] * 3
    published = fusehub.json("publish", merged, f"ann/{kind}", "--results", scores, "--no-private")
    assert published["repo_id"] == f"ann/{kind}"
    there = fusehub.json("compare", f"ann/{kind}", "--text", text)
    assert said(there, kind) == said(here, f"{kind}-merged")
    told = json.loads(
        fusehub.python(
            "import json; from huggingface_hub import HfApi, ModelCard\n"
            f"info = HfApi().model_info('ann/{kind}')\n"
            f"print(json.dumps([info.pipeline_tag, info.tags, ModelCard.load('ann/{kind}').text]))"
        )
    )
    assert told[0] == task and {f"base_model:merge:{name}" for name in names} <= set(told[1])
    code = told[2].partition("```python\n")[2].partition("\n```")[0]
    assert "from_pretrained" in code or "pipeline(" in code
    assert fusehub.python(code).strip(), "the code in its card answers"


def test_heads_of_different_tasks_on_one_body_load_from_the_hub(fusehub, tmp_path: Path) -> None:
    """A repo with one subfolder a task, read by transformers alone and by our commands."""
    folders = tasks(tmp_path, "bert", TOKENS, "question-answering")
    kinds = ["one-label", "entities", "answers"]
    for number, (folder, kind) in enumerate(zip(folders, kinds, strict=True)):
        data = tmp_path / f"{kind}.jsonl"
        rows = [row_of(kind, text, random.Random(number)) for text in tiny_texts(30, seed=number)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        fusehub("collect", folder, "--data", data, "--out", folder / "fusehub")
    merged = tmp_path / "merged"
    fusehub("merge", *folders, "--method", "regmean", "--out", merged)
    here = [said(fusehub.json("compare", merged / f.name, "--text", "Anna | lives"), f.name) for f in folders]
    fusehub("publish", merged, "ann/three-tasks", "--no-private")
    # Each has headers of its own, and its body and head are still to download.
    report = fusehub.json("check", *(f"ann/three-tasks/{folder.name}" for folder in folders))
    sizes = [sum(path.stat().st_size for path in (merged / f.name).glob("*.safetensors")) for f in folders]
    assert report["ok"] and report["download_bytes"] == sum(sizes)
    assert [model["size"] for model in report["models"]] == sizes
    for folder, answer in zip(folders, here, strict=True):
        name = f"ann/three-tasks/{folder.name}"
        [text] = fusehub.json("compare", name, "--text", "Anna | lives")["texts"]
        [own] = text["answers"]
        assert (own["label"], own["marked"], own["probabilities"]) == answer
    classes = [(f.name, json.loads((f / "config.json").read_text())["architectures"][0]) for f in folders]
    loaded = fusehub.python(
        f"import torch, transformers\nfolders, bodies = {classes}, []\n"
        "for name, kind in folders:\n"
        "    model, info = getattr(transformers, kind).from_pretrained(\n"
        "        'ann/three-tasks', subfolder=name, output_loading_info=True)\n"
        "    assert not any(info.values()), info\n"
        "    transformers.AutoTokenizer.from_pretrained('ann/three-tasks', subfolder=name)\n"
        "    bodies.append({n: v for n, v in model.state_dict().items() if n.startswith('bert.enc')})\n"
        "assert all(torch.equal(v, other[n]) for other in bodies for n, v in bodies[0].items())\n"
        "print(len(bodies))"
    )
    assert loaded.strip() == "3"
    told = json.loads(
        fusehub.python(
            "import json; from huggingface_hub import HfApi, ModelCard\n"
            "info = HfApi().model_info('ann/three-tasks')\n"
            "print(json.dumps([info.pipeline_tag, info.tags, ModelCard.load('ann/three-tasks').text]))"
        )
    )
    assert told[0] is None and {CLASSES, TOKENS, "question-answering"} <= set(told[1])
    code = told[2].partition("```python\n")[2].partition("\n```")[0]
    assert len(fusehub.python(code).splitlines()) == 3

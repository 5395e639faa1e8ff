"""Sound repos of every kind, tiny and made once, with what is asked of a changed copy of each.

A `Repo` is a folder with the kinds of its files, by their names, and the kind of questions that are asked of it. What
came of it when nothing was changed is kept beside (`usual`), to hold the answers of a changed copy against.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fusehub.collecting.collect import collect
from fusehub.merging.merge import merge
from tests.unit.experts import WEIGHTS, edit_json, relatives
from tests.unit.lora_cases import adapter
from tests.unit.tiny import tiny_images

TEXTS = ("a good film", "the plot is bad and very slow", "fine")
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}\n{{ message['role'] + ': ' + message['content'] }}\n{% endfor %}\n"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}\n"
)
_CARD = """---
license: mit
language:
- en
datasets:
- stanfordnlp/imdb
base_model: ann/base
tags: [films, merge]
model-index:
- name: expert
  results: []
---
# Films

Tells good films from bad ones.
"""
_ROWS = (
    ("a good film", "positive"), ("the plot is bad and very slow", "negative"), ("fine, really", "positive"),
    ("it was not for me", "negative"), ("wonderful music", "positive"), ("awful", "negative"),
)  # fmt: skip
_CONLL = "-DOCSTART- O\n\nAnna B-PER\nlives O\nin O\nParis B-LOC\n\nBruno B-PER\nvisited O\nLondon B-LOC\n. O\n\n"


@dataclass
class Repo:
    """One sound repo: `files` has the kind of each file that may be changed, `ask` the kind of its questions."""

    name: str
    folder: Path
    files: dict[str, str]
    ask: str
    partner: str = ""
    """The model that it is merged with; for an adapter, `base+adapter`."""
    base: Path | None = None
    task: str = ""
    usual: dict[str, Any] = field(default_factory=dict)


class World:
    """All repos, in one folder, and the texts and pictures that their models are asked about."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.texts = folder / "texts.txt"
        self.texts.write_text("\n".join(TEXTS) + "\n")
        self.repos: dict[str, Repo] = {}
        for make in (self._models, self._weights, self._adapters, self._tokenizers, self._writers, self._pictures):
            make()
        self._merges()
        self._recipes()
        self._data()
        self.spares = [repo.folder / name for repo in self.repos.values() for name in repo.files]

    def _add(self, name: str, folder: Path, ask: str, only: Sequence[str] = (), **facts: Any) -> Repo:
        names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
        files = {own: kind_of(own) for own in names if not only or own in only}
        self.repos[name] = Repo(name, folder, files, ask, **facts)
        return self.repos[name]

    def _models(self) -> None:
        self.experts = relatives(self.folder / "models", layers=1, hidden=8)
        for expert in self.experts:
            (expert / "README.md").write_text(_CARD)
            (expert / "generation_config.json").write_text('{"max_length": 20, "transformers_version": "5.0.0"}')
            collect(str(expert), str(self.texts), expert / "fusehub").close()
        self.partner = str(self.experts[1])
        self._add("model", self.experts[0], "model", partner=self.partner, task="text-classification")

    def _weights(self) -> None:
        """The same model in shards, as .bin, and as .bin in shards."""
        import transformers

        plain = self._copy(self.experts[0], "plain", without=("fusehub", "README.md"))
        sharded = self._copy(plain, "sharded", without=(WEIGHTS,))
        model = transformers.AutoModelForSequenceClassification.from_pretrained(plain)
        model.save_pretrained(sharded, max_shard_size="6KB")
        tensors = load_file(plain / WEIGHTS)
        pickled = self._copy(plain, "bin", without=(WEIGHTS,))
        torch.save(tensors, pickled / "pytorch_model.bin")
        parts = self._copy(plain, "bins", without=(WEIGHTS,))
        names = sorted(tensors)
        files = {name: f"pytorch_model-0000{1 + (number % 2)}-of-00002.bin" for number, name in enumerate(names)}
        for file in set(files.values()):
            torch.save({name: tensors[name] for name in names if files[name] == file}, parts / file)
        (parts / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
        for name in ("sharded", "bin", "bins"):
            folder = self.folder / name
            own = [
                path.name for path in folder.iterdir() if kind_of(path.name) in ("weights", "weights (.bin)", "index")
            ]
            self._add(name, folder, "model", own, partner=self.partner, task="text-classification")

    def _adapters(self) -> None:
        base = self.folder / "models" / "base"
        wanted = {"target_modules": ["query", "value"], "rank_pattern": {"value": 2}}
        one, other = (adapter(self.folder / f"adapter-{seed}", base, seed=seed, **wanted)[0] for seed in (1, 2))
        self._add("adapter", one, "model", partner=f"{base}+{other}", base=base, task="text-classification")

    def _tokenizers(self) -> None:
        """Models whose tokenizers come in the files of earlier years."""
        plain = self.folder / "plain"
        words = self._copy(plain, "vocab.txt", without=("tokenizer.json",))
        vocabulary = json.loads((plain / "tokenizer.json").read_text())["model"]["vocab"]
        (words / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n")
        (words / "added_tokens.json").write_text("{}")
        (words / "special_tokens_map.json").write_text('{"unk_token": "[UNK]", "pad_token": "[PAD]"}')
        names = ("vocab.txt", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
        self._add("words", words, "model", names, partner=self.partner, task="text-classification")
        one, other = relatives(self.folder / "pairs", "roberta", layers=1, hidden=8)
        said = json.loads((one / "tokenizer.json").read_text())["model"]
        pairs = self._copy(one, "merges.txt", without=("tokenizer.json",))
        (pairs / "vocab.json").write_text(json.dumps(said["vocab"]))
        merges = [own if isinstance(own, str) else " ".join(own) for own in said["merges"]]
        (pairs / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        names = ("vocab.json", "merges.txt", "tokenizer_config.json", "config.json")
        self._add("pairs", pairs, "model", names, partner=str(other), task="text-classification")
        one, other = relatives(self.folder / "pieces", "albert", layers=1, hidden=8)
        (one / "spiece.model").write_bytes(_sentencepiece(one))
        names = ("tokenizer.json", "tokenizer_config.json", "spiece.model")
        self._add("pieces", one, "model", names, partner=str(other), task="text-classification")

    def _writers(self) -> None:
        """Models that write, with chat templates and a config for writing."""
        for arch, task in (("gpt2", "text-generation"), ("llama", "text-generation"), ("t5", "text2text-generation")):
            one, other = relatives(self.folder / arch, arch, layers=1, hidden=8, task=task)
            for expert in (one, other):
                edit_json(expert / "generation_config.json", max_new_tokens=5)
                if arch == "llama":
                    (expert / "chat_template.jinja").write_text(_TEMPLATE)
                elif arch == "gpt2":
                    edit_json(expert / "tokenizer_config.json", chat_template=_TEMPLATE)
            names = ("config.json", "generation_config.json", "chat_template.jinja", "tokenizer_config.json")
            own = [*names, "tokenizer.json"] if arch == "t5" else names
            self._add(arch, one, "model", own, partner=str(other), task=task)

    def _pictures(self) -> None:
        tiny_images(self.folder / "images", count=1)
        one, other = relatives(
            self.folder / "vit", "vit", layers=1, hidden=8, task="image-classification", labels=[("cat", "dog")] * 2
        )
        self._add("pictures", one, "model", partner=str(other), task="image-classification")

    def _merges(self) -> None:
        """A finished merge, of which a card is made and which is pushed; one with kept heads, and as an adapter."""
        models = [str(expert) for expert in self.experts]
        merge(models, self.folder / "merged", method="regmean")
        self._add("merged", self.folder / "merged", "merged")
        merge(models, self.folder / "kept", method="mean", heads="keep")
        self._add("kept", self.folder / "kept", "merged")

    def _recipes(self) -> None:
        folder = self.folder / "recipe"
        folder.mkdir()
        models = [{"model": str(own), "parameters": {"weight": 0.5, "density": 0.5}} for own in self.experts]
        content = {
            "merge_method": "ties", "models": models, "base_model": str(self.folder / "models" / "base"),
            "parameters": {"normalize": True, "lambda": [0.5, 1]}, "dtype": "float32", "heads": "merge", "seed": 1,
        }  # fmt: skip
        import yaml

        (folder / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        self._add("recipe", folder, "recipe")
        again = self.folder / "again"
        again.mkdir()
        shutil.copyfile(self.folder / "merged" / "fusehub_recipe.yaml", again / "recipe.yaml")
        self._add("again", again, "recipe").files["recipe.yaml"] = "recipe of a merge made"

    def _data(self) -> None:
        """The same rows in every format, one file a folder."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{"text": text, "label": label} for text, label in _ROWS]
        lines = [f"{text}\t{label}" for text, label in _ROWS]
        quoted = ["text,label", *(f'"{text}",{label}' for text, label in _ROWS)]
        questions = [{"title": "x", "paragraphs": [{"context": TEXTS[1], "qas": [
            {"id": "1", "question": "what?", "answers": [{"text": "plot", "answer_start": 4}]}]}]}]  # fmt: skip
        chats = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": label}]}
                 for text, label in _ROWS]  # fmt: skip
        made: Mapping[str, tuple[str, str]] = {
            "data.csv": ("\n".join(quoted), "text-classification"),
            "data.tsv": ("\n".join(["text\tlabel", *lines]), "text-classification"),
            "data.jsonl": ("\n".join(map(json.dumps, rows)), "text-classification"),
            "data.json": (json.dumps(rows), "text-classification"),
            "data.txt": ("\n".join(text for text, _ in _ROWS), "text-classification"),
            "words.txt": (_CONLL, "token-classification"),
            "squad.json": (json.dumps({"version": "2", "data": questions}), "question-answering"),
            "chats.jsonl": ("\n".join(map(json.dumps, chats)), "text-generation"),
            "data.parquet": ("", "text-classification"),
        }
        for name, (text, task) in made.items():
            folder = self.folder / f"rows-{name}"
            folder.mkdir()
            if text:
                (folder / name).write_text(text + "\n")
            else:
                pq.write_table(pa.Table.from_pylist(rows), folder / name)
            self._add(folder.name, folder, "data", task=task).files[name] = f"rows ({Path(name).suffix})"

    def _copy(self, folder: Path, name: str, without: Sequence[str] = ()) -> Path:
        return Path(
            shutil.copytree(folder, self.folder / name, ignore=lambda _, names: [n for n in names if n in without])
        )


def kind_of(name: str) -> str:
    """What kind of file has this name in a repo."""
    last = name.rpartition("/")[2]
    kinds = {
        "config.json": "config", "adapter_config.json": "adapter config",
        "generation_config.json": "generation config",
        "preprocessor_config.json": "image processor", "chat_template.jinja": "chat template", "README.md": "card",
        "adapter_model.safetensors": "adapter weights", "statistics.json": "statistics",
        "statistics.safetensors": "statistics", "fusehub_report.json": "report of a merge",
        "fusehub_recipe.yaml": "recipe of a merge made", "recipe.yaml": "recipe",
    }  # fmt: skip
    if last in kinds:
        return kinds[last]
    if last.endswith(".index.json"):
        return "index"
    return {".safetensors": "weights", ".bin": "weights (.bin)"}.get(Path(last).suffix, "tokenizer")


def _sentencepiece(folder: Path) -> bytes:
    """The pieces of a tokenizer as SentencePiece's own file has them: protobuf, each piece field 1 (text, score)."""
    import struct

    pieces = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]

    def field_of(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    made = (field_of(1, piece.encode()) + b"\x15" + struct.pack("<f", score) for piece, score in pieces)
    return b"".join(field_of(1, own) for own in made)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a merge."""
    return {name: value for path in sorted(folder.rglob("*.safetensors")) for name, value in load_file(path).items()}

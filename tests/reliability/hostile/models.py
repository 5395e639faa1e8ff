"""Models and adapters that state too much: their tensors, configs, tokenizers, and recipes of them."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.reliability.hostile.inputs import Command, Hostile, listed

HOSTILE: list[Hostile] = []
hostile = listed(HOSTILE)


def _spoilt(folder: Path, sound: Path, filename: str, change: Callable[[dict[str, Any]], None]) -> Command:
    """Checking a copy of the sound model with another JSON file."""
    model = _copied(folder, sound)
    content = json.loads((model / filename).read_text())
    change(content)
    (model / filename).write_text(json.dumps(content))
    return ["check", model]


def _copied(folder: Path, sound: Path) -> Path:
    return Path(shutil.copytree(sound, folder / "model"))


def _with_header(folder: Path, sound: Path, entries: dict[str, Any]) -> Command:
    """Checking a copy whose weights have this header, and no numbers."""
    model = _copied(folder, sound)
    text = json.dumps(entries).encode()
    (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    return ["check", model]


def _no_tensor(name: str) -> dict[str, Any]:
    return {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}


# --- Files of tensors ---


@hostile("a safetensors header with 200,000 tensors", "TENSORS", "tensors or more", "12 s")
def _tensors(folder: Path, sound: Path) -> Command:
    entries: dict[str, Any] = {}
    for number in range(200_000):
        entries |= _no_tensor(f"bert.layer.{number}.weight")
    return _with_header(folder, sound, entries)


@hostile("a safetensors header of 30 MB", "HEADER_BYTES", "no more than 25,000,000 are read")
def _header(folder: Path, sound: Path) -> Command:
    return _with_header(folder, sound, {"__metadata__": {"told": "x" * 30_000_000}})


@hostile("a tensor of [1000000000, 0]: no numbers, a row for each of so many labels", "SHARED", "is said to be")
def _empty_rows(folder: Path, sound: Path) -> Command:
    entry = {"dtype": "F32", "shape": [10**9, 0], "data_offsets": [0, 0]}
    return _with_header(folder, sound, {"classifier.weight": entry})


@hostile("an index that names 3,000 files", "SHARDS", "names 3,000 files")
def _shards(folder: Path, sound: Path) -> Command:
    model = _copied(folder, sound)
    (model / "model.safetensors").unlink()
    names = {f"t{number}": f"model-{number}.safetensors" for number in range(3000)}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return ["check", model]


def _bin(folder: Path, sound: Path) -> Path:
    model = _copied(folder, sound)
    (model / "model.safetensors").unlink()
    return model / "pytorch_model.bin"


@hostile("a .bin of 1 MB that unzips to 400 MB", "SHARED", "unpacks to", "as much as it says: 3.3 GB of 14 MB")
def _bomb(folder: Path, sound: Path) -> Command:
    path = _bin(folder, sound)
    plain = folder / "plain.bin"
    torch.save({"bert.embeddings.word_embeddings.weight": torch.zeros(100_000_000)}, plain)
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as write:
        for entry in read.infolist():
            write.writestr(entry.filename, read.read(entry))
    plain.unlink()
    return ["check", path.parent]


@hostile("a .bin with one row that is said to be 10,000,000,000", "SHARED", "is said to be")
def _expanded(folder: Path, sound: Path) -> Command:
    path = _bin(folder, sound)
    torch.save({"classifier.weight": torch.zeros(1, 32).expand(10**10, 32)}, path)
    return ["check", path.parent]


@hostile("a .bin whose pickle has 5 MB", "PICKLE_BYTES", "the names in pytorch_model.bin take")
def _pickle(folder: Path, sound: Path) -> Command:
    path = _bin(folder, sound)
    torch.save({f"a long name of a tensor that is not there {number}": None for number in range(100_000)}, path)
    return ["check", path.parent]


@hostile(
    "a .bin of before PyTorch 1.6 with 5 MB of empty lists", "PICKLE_BYTES", "the names in pytorch_model.bin take"
)
def _old_pickle(folder: Path, sound: Path) -> Command:
    path = _bin(folder, sound)
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(head) + b"\x80\x02(" + b"]" * 5_000_000 + b"l.")
    return ["check", path.parent]


# --- Configs and recipes ---


@hostile("num_labels: 1000000000", "LABELS", "num_labels in config.json counts 1,000,000,000", "4.4 GB, MemoryError")
def _labels(folder: Path, sound: Path) -> Command:
    def change(config: dict[str, Any]) -> None:
        del config["id2label"], config["label2id"]
        config["num_labels"] = 10**9

    return _spoilt(folder, sound, "config.json", change)


@hostile("a table of 200,000 labels", "LABELS", "counts 200,000 labels")
def _label_table(folder: Path, sound: Path) -> Command:
    names = {str(number): f"label {number}" for number in range(200_000)}
    return _spoilt(folder, sound, "config.json", lambda config: config.update(id2label=names, label2id={}))


@hostile("num_hidden_layers: 4000", "LAYERS", "num_hidden_layers in config.json counts 4,000", "42 s, 555 MB")
def _layers(folder: Path, sound: Path) -> Command:
    return _spoilt(folder, sound, "config.json", lambda config: config.update(num_hidden_layers=4000))


@hostile(
    "num_local_experts: 1000000 in a config within", "EXPERTS", "num_local_experts in config.json counts 1,000,000"
)
def _experts(folder: Path, sound: Path) -> Command:
    within = {"num_local_experts": 10**6}
    return _spoilt(folder, sound, "config.json", lambda config: config.update(text_config=within))


@hostile("30 stages of 500 layers each", "LAYERS", "depths in config.json counts")
def _stages(folder: Path, sound: Path) -> Command:
    return _spoilt(folder, sound, "config.json", lambda config: config.update(depths=[500] * 30))


@hostile("a mixture of 8,000 experts in each of 500 layers", "MODULES", "of more than 50,000 modules")
def _modules(folder: Path, sound: Path) -> Command:
    def change(config: dict[str, Any]) -> None:
        config.clear()
        config |= {"model_type": "nllb-moe", "architectures": ["NllbMoeForConditionalGeneration"], "d_model": 16}
        config |= {"num_experts": 8000, "encoder_layers": 500, "encoder_sparse_step": 1, "encoder_ffn_dim": 4}

    return _spoilt(folder, sound, "config.json", change)


@hostile("GPT-J for texts of 100,000,000 tokens", "BUFFER_BYTES", "bytes of masks and positions")
def _positions(folder: Path, sound: Path) -> Command:
    def change(config: dict[str, Any]) -> None:
        config.clear()
        config |= {"model_type": "gptj", "architectures": ["GPTJForCausalLM"], "n_positions": 10**8}
        config |= {"n_embd": 32, "n_layer": 1, "n_head": 4, "rotary_dim": 4}

    return _spoilt(folder, sound, "config.json", change)


@hostile("vocab_size, hidden_size of 10^12", "BUFFER_BYTES", "cannot make a BertForSequenceClassification")
def _sizes(folder: Path, sound: Path) -> Command:
    return _spoilt(folder, sound, "config.json", lambda config: config.update(vocab_size=10**12, hidden_size=10**12))


@hostile("a config.json of 40 MB", "JSON_BYTES", "no more than 33,554,432 are read")
def _json(folder: Path, sound: Path) -> Command:
    model = _copied(folder, sound)
    (model / "config.json").write_text('{"a": [' + "[]," * 13_400_000 + "[]]}")
    return ["check", model]


@hostile("a config.json with 150 lists in each other", "NESTED", "is nested too deeply to be read")
def _nested(folder: Path, sound: Path) -> Command:
    model = _copied(folder, sound)
    (model / "config.json").write_text('{"a": ' + "[" * 150 + "]" * 150 + "}")
    return ["check", model]


@hostile("a recipe of 2 MB", "YAML_BYTES", "no more than 1,048,576 are read")
def _recipe(folder: Path, sound: Path) -> Command:
    (folder / "recipe.yaml").write_text("models:\n" + "- a\n" * 500_000)
    return ["merge", folder / "recipe.yaml", "--out", folder / "out"]


@hostile("a recipe of 200,000 models", "YAML_VALUES", "has more than 100,000 values")
def _models(folder: Path, sound: Path) -> Command:
    (folder / "recipe.yaml").write_text("models:\n" + "- a\n" * 200_000)
    return ["merge", folder / "recipe.yaml", "--out", folder / "out"]


@hostile(
    "a recipe of 600 bytes whose aliases stand for 10^9 values", "YAML_VALUES", "stand for more than", "75 s, 1 GB"
)
def _aliases(folder: Path, sound: Path) -> Command:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (folder / "recipe.yaml").write_text("\n".join(lines))
    return ["merge", folder / "recipe.yaml", "--out", folder / "out"]


# --- Tokenizers ---


@hostile("a tokenizer.json of 140 MB", "TOKENIZER_BYTES", "no more than 134,217,728 are read")
def _tokenizer(folder: Path, sound: Path) -> Command:
    model = _copied(folder, sound)
    (model / "tokenizer.json").write_bytes(b" " * 140_000_000)
    return ["check", model]


@hostile("a tokenizer.json with 120,000 added tokens", "ADDED_TOKENS", "added tokens or more", "255 s for 1,000,000")
def _added_tokens(folder: Path, sound: Path) -> Command:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    added = [{"id": 1000 + number, "content": f"<{number}>", **flags} for number in range(120_000)]
    return _spoilt(folder, sound, "tokenizer.json", lambda content: content["added_tokens"].extend(added))


@hostile("a tokenizer that is told to add 2^31 tokens", "ADDED_TOKENS", "tokens are added", "35 s, MemoryError")
def _counted_tokens(folder: Path, sound: Path) -> Command:
    from tests.unit.tiny import tiny_model

    model = tiny_model(folder / "t5", "t5", task="text2text-generation")
    said = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(said | {"extra_ids": 2**31}))
    return ["check", model]


@hostile("a chat template that loops 10^10 times", "TEMPLATE_SECONDS", "takes more than 5 seconds", "no end")
def _loops(folder: Path, sound: Path) -> Command:
    return _chat(folder, "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")


@hostile("a chat template that makes a text of 10^11 characters", "TEMPLATE_BYTES", "chat template does not take it")
def _long_words(folder: Path, sound: Path) -> Command:
    return _chat(folder, "{{ 'a' * 10**11 }}")


def _chat(folder: Path, template: str) -> Command:
    """Collecting statistics with one conversation."""
    from tests.unit.tiny import tiny_model

    model = tiny_model(folder / "llama", "llama", task="text-generation")
    (model / "chat_template.jinja").write_text(template)
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    (folder / "chats.jsonl").write_text(json.dumps({"messages": messages}))
    return ["collect", model, "--data", folder / "chats.jsonl", "--out", folder / "out"]


# --- Adapters ---


def _adapter(folder: Path, sound: Path, **said: Any) -> Command:
    """Checking an adapter on the sound model whose config says this."""
    from safetensors.torch import save_file

    adapter = folder / "adapter"
    adapter.mkdir()
    layer = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_"
    save_file({f"{layer}A.weight": torch.ones(4, 32), f"{layer}B.weight": torch.ones(32, 4)}, adapter / _WEIGHTS)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query"], **said}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return ["check", f"{sound}+{adapter}"]


_WEIGHTS = "adapter_model.safetensors"
_BACKTRACKING = r"(\w|\.|[a-z])+\d"


@hostile("an expression that backtracks in alpha_pattern", "PATTERN_SECONDS", "may take 5 seconds", "minutes")
def _alpha(folder: Path, sound: Path) -> Command:
    return _adapter(folder, sound, alpha_pattern={_BACKTRACKING: 8})


@hostile("20 such expressions in rank_pattern, and one in target_modules", "PATTERN_SECONDS", "may take 5 seconds")
def _ranks(folder: Path, sound: Path) -> Command:
    ranks = {f"{_BACKTRACKING}{number}": 8 for number in range(20)}
    return _adapter(folder, sound, rank_pattern=ranks, target_modules=f"({_BACKTRACKING}|.*)query")


@hostile("an expression of 40 bytes that repeats 10^12 times", "PATTERN_REPEATS", "more than 100,000 times")
def _repeats(folder: Path, sound: Path) -> Command:
    return _adapter(folder, sound, target_modules=".*query|((((a{1000}){1000}){1000}){1000})")


@hostile("an expression of 200,000 characters", "PATTERN_CHARACTERS", "more than 100,000 characters")
def _long_expression(folder: Path, sound: Path) -> Command:
    return _adapter(folder, sound, target_modules="query|" * 33_000 + ".*query")


@hostile("an adapter that saves 20,000 modules", "SAVED_MODULES", "modules_to_save in adapter_config.json")
def _saved(folder: Path, sound: Path) -> Command:
    return _adapter(folder, sound, modules_to_save=[f"module{number}" for number in range(20_000)])

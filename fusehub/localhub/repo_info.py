"""What the Hub tells about a repository: the JSON behind `model_info`, `dataset_info`, `space_info`.

What follows from the files of one commit (card, config, tags, parameter counts) never changes and is kept in
memory; what moves (likes, visibility, downloads) is read each time.
"""

import json
import re
from pathlib import Path
from typing import Any

from .cards import card_tags, read_metadata, relation, strings
from .store import Repo, Store, lfs_pointer

MAX_HEADER = 100_000_000
MAX_FACTS = 2000

# How the Hub guesses a task from the class of the model.
TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "ForImageClassification": "image-classification",
    "ForMultipleChoice": "multiple-choice",
}
FORMATS = {"bin": "pytorch", "safetensors": "safetensors", "gguf": "gguf", "onnx": "onnx"}
PAPER = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})")


def facts(store: Store, repo: Repo, sha: str) -> dict:
    """What the files of a commit say, computed once."""
    key = (repo.state["_id"], sha)
    found = store.facts.get(key)
    if found is None:
        found = store.facts[key] = _read_facts(repo, sha)
        while len(store.facts) > MAX_FACTS:
            store.facts.popitem(last=False)
    return found


def _read_facts(repo: Repo, sha: str) -> dict:
    files = repo.files(sha)
    text = (repo.read(sha, "README.md") or b"").decode("utf-8", "replace")
    card = _card(text)
    result = {"cardData": card, "usedStorage": sum(entry["size"] for entry in files.values())}
    if repo.kind == "model":
        config = _read_json(repo, sha, "config.json")
        result["config"] = _short_config(repo, sha, config)
        result["library_name"] = _library(card, config, files)
        result["pipeline_tag"] = _task(card, config, result["library_name"])
        result["safetensors"] = _count_parameters(repo, sha)
        result["model-index"] = card.get("model-index")
        result["baseModels"] = _base_models(card, files)
    if repo.kind == "space":
        result["sdk"] = card.get("sdk") or repo.state.get("sdk")
    result["tags"] = _tags(repo, card, files, result, text)
    return result


def _card(text: str) -> dict:
    """Metadata of README.md; a card that cannot be read says nothing."""
    try:
        return read_metadata(text)
    except ValueError:
        return {}


def _read_json(repo: Repo, sha: str, path: str) -> dict:
    try:
        value = json.loads(repo.read(sha, path) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _short_config(repo: Repo, sha: str, config: dict) -> dict | None:
    kept = {
        key: config[key] for key in ("architectures", "model_type", "auto_map", "quantization_config") if key in config
    }
    tokens = _read_json(repo, sha, "tokenizer_config.json")
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    special = {name: tokens[name] for name in names if isinstance(tokens.get(name), str)}
    if special:
        kept["tokenizer_config"] = special
    return kept or None


def _library(card: dict, config: dict, files: dict) -> str | None:
    if isinstance(card.get("library_name"), str):
        return card["library_name"]
    if "adapter_config.json" in files:
        return "peft"
    if "modules.json" in files:
        return "sentence-transformers"
    return "transformers" if config.get("model_type") else None


def _task(card: dict, config: dict, library: str | None) -> str | None:
    if isinstance(card.get("pipeline_tag"), str):
        return card["pipeline_tag"]
    if library == "sentence-transformers":
        return "sentence-similarity"
    for architecture in strings(config, "architectures"):
        for ending, task in TASKS.items():
            if architecture.endswith(ending):
                return task
    return None


def _base_models(card: dict, files: dict) -> dict | None:
    bases = strings(card, "base_model")
    return {"relation": relation(card, files), "models": [{"id": base} for base in bases]} if bases else None


def _tags(repo: Repo, card: dict, files: dict, known: dict, text: str) -> list[str]:
    tags = [known["library_name"]] if known.get("library_name") else []
    if repo.kind == "model":
        endings = {path.rsplit(".", 1)[-1] for path in files}
        tags += [name for ending, name in FORMATS.items() if ending in endings]
        tags += strings(known["config"] or {}, "model_type")
        tags += [known["pipeline_tag"]] if known["pipeline_tag"] else []
    if repo.kind == "space" and known.get("sdk"):
        tags.append(str(known["sdk"]))
    tags += card_tags(card, repo.kind, files)
    tags += [f"arxiv:{number}" for number in PAPER.findall(text)]
    return list(dict.fromkeys([*tags, "region:us"]))


def read_header(path: Path) -> dict | None:
    """The JSON header of a safetensors file, None when it is not one."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= MAX_HEADER else None
    except (OSError, ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def shards(repo: Repo, sha: str, index: str = "model.safetensors.index.json") -> list[str]:
    """The weight files the index names, as far as they are there."""
    weight_map = _read_json(repo, sha, index).get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else []
    return sorted({name for name in names if isinstance(name, str) and name in repo.files(sha)})


def _count_parameters(repo: Repo, sha: str) -> dict | None:
    files = repo.files(sha)
    weights = ["model.safetensors"] if "model.safetensors" in files else shards(repo, sha)
    weights = weights or [path for path in files if "/" not in path and path.endswith(".safetensors")][:1]
    counts: dict[str, int] = {}
    for path in weights:
        header = read_header(repo.blob(files[path])) or {}
        for name, tensor in header.items():
            if name == "__metadata__" or not isinstance(tensor, dict):
                continue
            shape, dtype = tensor.get("shape"), tensor.get("dtype")
            if isinstance(shape, list) and all(isinstance(n, int) for n in shape) and isinstance(dtype, str):
                size = 1
                for n in shape:
                    size *= n
                counts[dtype] = counts.get(dtype, 0) + size
    return {"parameters": counts, "total": sum(counts.values())} if counts else None


def siblings(repo: Repo, sha: str, blobs: bool) -> list[dict]:
    """The flat list of files of `model_info`; with `blobs`, their sizes and hashes."""
    result = []
    for path, entry in repo.files(sha).items():
        item: dict[str, Any] = {"rfilename": path}
        if blobs:
            item |= {"size": entry["size"], "blobId": entry["oid"]}
            if "lfs" in entry:
                pointer = len(lfs_pointer(entry["lfs"], entry["size"]))
                item["lfs"] = {"sha256": entry["lfs"], "size": entry["size"], "pointerSize": pointer}
        result.append(item)
    return result


def describe(store: Store, repo: Repo, sha: str, blobs: bool = False) -> dict:
    """Everything known about a repository at a commit."""
    state, known = repo.state, facts(store, repo, sha)
    result = {
        "_id": state["_id"],
        "id": repo.id,
        "author": repo.namespace,
        "sha": sha,
        "lastModified": repo.commit(state["heads"]["main"])["date"],
        "createdAt": state["createdAt"],
        "private": state["private"],
        "gated": state["gated"],
        "disabled": False,
        "downloads": downloads(repo),
        "downloadsAllTime": downloads(repo),
        "likes": len(state["likes"]),
        "trendingScore": 0,
        "tags": known["tags"],
        "cardData": known["cardData"] or None,
        "usedStorage": known["usedStorage"],
        "siblings": siblings(repo, sha, blobs),
    }
    if repo.kind == "model":
        result |= {"modelId": repo.id, "spaces": [], "inference": None, "widgetData": None, "mask_token": None}
        for key in ("config", "library_name", "pipeline_tag", "safetensors", "model-index", "baseModels"):
            result[key] = known[key]
        tokenizer = (known["config"] or {}).get("tokenizer_config", {})
        result["mask_token"] = tokenizer.get("mask_token")
    if repo.kind == "space":
        result |= {"sdk": known["sdk"], "subdomain": repo.id.replace("/", "-").lower(), "models": [], "datasets": []}
        result["runtime"] = space_runtime()
    return result


def space_runtime() -> dict:
    """This hub keeps Spaces but does not run them, and says so."""
    hardware = {"current": None, "requested": None}
    return {"stage": "STOPPED", "hardware": hardware, "storage": None, "gcTimeout": None, "replicas": {"requested": 0}}


def downloads(repo: Repo) -> int:
    try:
        return int((repo.folder / "downloads").read_text())
    except (FileNotFoundError, ValueError):
        return 0


def count_download(repo: Repo) -> None:
    """One more. Not fsynced: a count is not worth a disk flush on every download."""
    with repo.lock:
        (repo.folder / "downloads").write_text(str(downloads(repo) + 1))

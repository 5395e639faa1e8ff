"""Reading a card: the YAML between the `---` lines of README.md, what is wrong with it, and the tags it gives.

base_model: [a/b, a/c]            ->  base_model:a/b  base_model:merge:a/b  base_model:a/c  base_model:merge:a/c
base_model_relation: merge
"""

import math
import re
from collections.abc import Collection, Iterator
from typing import Any

import yaml

from .names import SPACE_SDKS, is_repo_id

RELATIONS = ("adapter", "merge", "quantized", "finetune")
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
MAX_NODES = 50_000

_FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def split_card(text: str) -> tuple[str | None, str]:
    """(metadata as YAML or None, the rest)."""
    found = _FRONT_MATTER.match(text)
    return (found[1], text[found.end() :]) if found else (None, text)


def _plain(value: object, left: list[int]) -> Any:
    """YAML's values as JSON knows them. Counted, because YAML aliases make gigabytes out of a few lines."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError("the metadata is too large")
    if isinstance(value, dict):
        return {str(key): _plain(item, left) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, left) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def read_metadata(text: str) -> dict:
    """The card's metadata; raises ValueError with a sentence when it is not a YAML mapping."""
    block, _ = split_card(text)
    if block is None:
        return {}
    try:
        data = yaml.safe_load(block)
        data = {} if data is None else data
        if not isinstance(data, dict):
            raise ValueError(f"the metadata must be a YAML mapping, not a {type(data).__name__}")
        return _plain(data, [MAX_NODES])
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("the metadata refers to itself or is nested too deeply") from None


def _as_list(value: object) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]


def strings(data: dict, key: str) -> list[str]:
    return [str(item) for item in _as_list(data.get(key)) if isinstance(item, str | int | float)]


def check_card(text: str, kind: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) of a card, in the words the client shows."""
    try:
        data = read_metadata(text)
    except ValueError as error:
        return [f"Invalid YAML in the metadata: {error}"], []
    warnings = [] if data else ["empty or missing yaml metadata in repo card"]
    errors = list(_type_errors(data)) + list(_relation_errors(data)) + list(_index_errors(data.get("model-index")))
    if kind == "space" and data:
        errors += list(_space_errors(data))
    return errors, warnings


def _type_errors(data: dict) -> Iterator[str]:
    for key in ("tags", "datasets", "base_model", "license", "language", "metrics", "task_categories", "new_version"):
        for item in _as_list(data.get(key)):
            if not isinstance(item, str):
                hint = " (quote it)" if isinstance(item, bool | int | float) else ""
                yield f'"{key}" must be a string or a list of strings, but holds {item!r}{hint}'
    for key in ("pipeline_tag", "library_name", "base_model_relation", "thumbnail", "license_name"):
        if not isinstance(data.get(key), str | None):
            yield f'"{key}" must be a string, but is {data[key]!r}'


def _relation_errors(data: dict) -> Iterator[str]:
    for base in strings(data, "base_model"):
        if not is_repo_id(base):
            yield f'"base_model" must name models on the Hub, but holds {base!r}'
    relation = data.get("base_model_relation")
    if isinstance(relation, str) and relation not in RELATIONS:
        yield f'"base_model_relation" must be one of {", ".join(RELATIONS)}, but is {relation!r}'


def _index_errors(index: object) -> Iterator[str]:
    if index is None:
        return
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for number, model in enumerate(index):
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            yield f'"model-index[{number}].name" is required'
            continue
        if not isinstance(model.get("results"), list):
            yield f'"model-index[{number}].results" must be an array'
            continue
        for place, result in enumerate(model["results"]):
            for key, kinds in (("task", dict), ("dataset", dict), ("metrics", list)):
                if not isinstance(result, dict) or not isinstance(result.get(key), kinds):
                    yield f'"model-index[{number}].results[{place}].{key}" is required'


def _space_errors(data: dict) -> Iterator[str]:
    if data.get("sdk") not in SPACE_SDKS:
        yield f'"sdk" must be one of {", ".join(SPACE_SDKS)}'
    for key in ("colorFrom", "colorTo"):
        if data.get(key) is not None and data[key] not in COLORS:
            yield f'"{key}" must be one of {", ".join(COLORS)}'
    description = data.get("short_description")
    if isinstance(description, str) and len(description) > 60:
        yield '"short_description" length must be less than or equal to 60 characters long'


def relation(data: dict, paths: Collection[str]) -> str | None:
    """How the model comes from its base models: as the card says, else guessed the way the Hub does."""
    bases = strings(data, "base_model")
    if not bases:
        return None
    if data.get("base_model_relation") in RELATIONS:
        return data["base_model_relation"]
    if "adapter_config.json" in paths:
        return "adapter"
    if any(path.endswith(".gguf") for path in paths):
        return "quantized"
    return "merge" if len(bases) > 1 else "finetune"


def card_tags(data: dict, kind: str, paths: Collection[str]) -> list[str]:
    """The tags that the metadata gives a repository, in the Hub's spelling."""
    tags = strings(data, "tags")
    if kind == "model":
        tags += strings(data, "language")
        how = relation(data, paths)
        for base in strings(data, "base_model"):
            tags += [f"base_model:{base}", f"base_model:{how}:{base}"]
    else:
        tags += [f"language:{item}" for item in strings(data, "language")]
        for key in ("task_categories", "task_ids", "size_categories", "annotations_creators", "language_creators"):
            tags += [f"{key}:{item}" for item in strings(data, key)]
    tags += [f"dataset:{item}" for item in strings(data, "datasets")]
    tags += [f"license:{item}" for item in strings(data, "license")]
    return tags

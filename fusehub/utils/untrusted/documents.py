"""JSON that others wrote: what is no object, too deep, or of the wrong kind is refused in words, and by name.

read_object(path, "user/expert")                       # a dict, or `BadFile`
check_config({"architectures": "BertModel"}, ...)      # `BadFile`: config.json: architectures is no list of texts
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fusehub.errors import BadFile
from fusehub.utils.folders.places import special
from fusehub.utils.untrusted.limits import EXPERTS, JSON_BYTES, LABELS, LAYERS, NESTED, SAVED_MODULES, require_bytes

_AGAIN = "Download or write the file again."
# More than any number in a config: parameters are counted in 64 bits.
_LARGEST = 2**63
# What a config counts by keys whose last word is this: as many are built before anything else is known of a model.
_COUNTED = {
    **dict.fromkeys(("layer", "layers", "block", "blocks", "stage", "stages", "depth", "depths"), LAYERS),
    **dict.fromkeys(("expert", "experts"), EXPERTS),
    **dict.fromkeys(("label", "labels"), LABELS),
}

# Hashes of the configs that were found sound: a model's is asked for dozens of times in one merge.
_SOUND: set[bytes] = set()
_MOST_SOUND = 10_000


# As much as the integers of tensors hold.
_TokenId = Annotated[int, Field(ge=-(2**63), lt=2**63)]
TokenIds = _TokenId | list[_TokenId] | None


class _SpecialTokens(BaseModel):
    """The numbers of tokens that a config, and one for writing, may say."""

    model_config = ConfigDict(extra="ignore", strict=True)

    bos_token_id: TokenIds = None
    eos_token_id: TokenIds = None
    pad_token_id: TokenIds = None
    # One for all texts: of a list, transformers wants as many as there are texts in a batch.
    decoder_start_token_id: _TokenId | None = None
    forced_bos_token_id: TokenIds = None
    forced_eos_token_id: TokenIds = None


class _Config(_SpecialTokens):
    """The keys of config.json that are read here; what others mean is transformers' to say."""

    architectures: list[str] | None = None
    model_type: str | None = None
    auto_map: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    dtype: str | None = None
    torch_dtype: str | None = None
    problem_type: str | None = None
    tie_word_embeddings: bool | None = None
    vocab_size: int | None = None
    text_config: dict[str, Any] | None = None


class _Generation(_SpecialTokens):
    """The keys of generation_config.json that a model that writes looks up, or compares with numbers."""

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


Alpha = Annotated[float, Field(gt=-1e9, lt=1e9)]
Rank = Annotated[int, Field(ge=1, le=2**20)]


class _Adapter(BaseModel):
    """The keys of adapter_config.json that decide what a LoRA adapter changes, or where its base is."""

    model_config = ConfigDict(extra="ignore", strict=True)

    peft_type: str | None = None
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    auto_mapping: dict[str, Any] | None = None
    r: Rank = 8
    lora_alpha: Alpha = 8
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    lora_bias: bool | None = None
    fan_in_fan_out: bool | None = None
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    modules_to_save: Annotated[list[str], Field(max_length=SAVED_MODULES)] | None = None
    layers_to_transform: int | Annotated[list[int], Field(max_length=LAYERS)] | None = None
    layers_pattern: str | list[str] | None = None
    # How its numbers began; but peft makes an object of each, and loads no adapter where one is no table.
    loftq_config: dict[str, Any] | None = None
    eva_config: dict[str, Any] | None = None
    corda_config: dict[str, Any] | None = None
    arrow_config: dict[str, Any] | None = None


def read_text(path: Path, owner: str) -> str:
    """The text in a file of `owner`. Raises `BadFile` where it is none, or cannot be read."""
    try:
        return _text_of(path)
    except (UnicodeDecodeError, OSError) as error:
        raise BadFile(f"{owner}: {path.name} is not UTF-8 text ({error}).", _AGAIN) from error


def read_object(path: Path, owner: str) -> dict[str, Any]:
    """The JSON object in a file of `owner`. Raises `BadFile` where it holds something else or cannot be read."""
    try:
        require_bytes(path.stat().st_size, JSON_BYTES, f"{owner}: {path.name}")
        text = _text_of(path)
        content = json.loads(text)
        if re.search(r"\\u[dD][89A-Fa-f]", text):
            # Half of a character can be written as an escape, and as nothing else.
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, OSError) as error:
        raise BadFile(f"{owner}: {path.name} is not JSON ({error}).", _AGAIN) from error
    except RecursionError as error:
        raise BadFile(f"{owner}: {path.name} is nested too deeply to be read.", _AGAIN) from error
    if is_deep(content):
        raise BadFile(f"{owner}: {path.name} is nested too deeply to be read.", _AGAIN)
    if not isinstance(content, dict):
        raise BadFile(f"{owner}: {path.name} holds {_kind(content)}, and no JSON object.", _AGAIN)
    return content


def _text_of(path: Path) -> str:
    """All of a file; raises OSError for a pipe, for which whoever opens it would wait for ever, and the like."""
    if kind := special(path):
        raise OSError(f"it is {kind}")
    return path.read_text(encoding="utf-8")


def is_deep(content: Any) -> bool:
    """Whether there are more lists and objects in each other than `NESTED`: more than who goes into it can follow."""
    level = [content]
    for _ in range(NESTED):
        if not level:
            break
        held = [own.values() if isinstance(own, dict) else own for own in level if isinstance(own, dict | list)]
        level = [own for values in held for own in values]
    return bool(level)


def check_config(config: dict[str, Any], owner: str) -> dict[str, Any]:
    """`config` as it is. Raises `BadFile` naming a key whose value is of a kind, or a size, that it cannot have."""
    digest = hashlib.sha256(json.dumps(config).encode()).digest()
    if digest in _SOUND:
        return config
    _check(_Config, config, owner, "config.json")
    for key, number in _numbers(config):
        if number != number:
            raise BadFile(f"{owner}: {key} in config.json is no number (NaN).", _AGAIN)
    stages = 0  # The layers of all of them together.
    for key, number in whole_numbers(config):
        if abs(number) > _LARGEST:
            raise BadFile(f"{owner}: {key} in config.json is a number of more than 18 digits.", _AGAIN)
        stages += number if key == "depths" else 0
        most = _COUNTED.get(key.rpartition("_")[2], _LARGEST)
        if (counted := stages if key == "depths" else number) > most:
            raise BadFile(
                f"{owner}: {key} in config.json counts {counted:,}, and no model has more than {most:,}.", _AGAIN
            )
    if len(_SOUND) < _MOST_SOUND:
        _SOUND.add(digest)
    return config


def check_generation_config(config: dict[str, Any], owner: str) -> dict[str, Any]:
    """The same for generation_config.json."""
    _check(_Generation, config, owner, "generation_config.json")
    return config


def check_adapter_config(config: dict[str, Any], owner: str) -> dict[str, Any]:
    """The same for the config of a LoRA adapter."""
    if config.get("peft_type") == "LORA":
        _check(_Adapter, config, owner, "adapter_config.json")
    return config


def _check(kind: type[BaseModel], content: dict[str, Any], owner: str, file: str) -> None:
    try:
        kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(_inside(content, first["loc"]))
        raise BadFile(f"{owner}: {key} in {file} is {_shown(first['input'])}: {first['msg']}.", _AGAIN) from error


def _inside(content: Any, place: Iterable[Any]) -> Iterator[str]:
    """The keys and numbers of `place` that lead into `content`: between them pydantic names what a value may be."""
    for part in place:
        if isinstance(content, list | dict) and (isinstance(part, int) or part in content):
            content = content[part]
            yield str(part)


def whole_numbers(content: Any) -> Iterator[tuple[str, int]]:
    """All whole numbers in JSON content, each with the key that it, or the list that it is in, stands under."""
    return ((key, value) for key, value in _numbers(content) if isinstance(value, int))


def _numbers(content: Any) -> Iterator[tuple[str, int | float]]:
    """The same with those that are not whole."""
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(str(inner), own) for inner, own in value.items()]
        elif isinstance(value, list):
            waiting += [(key, own) for own in value]
        elif isinstance(value, int | float):
            yield key, value


def _kind(content: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    return kinds.get(type(content), "nothing" if content is None else "something else")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}..."

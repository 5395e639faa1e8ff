"""Changes of JSON: values of any kind in the place of any other, and text that Python's JSON would never write."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

# Values of every kind that JSON has, in the place of any other.
ODD = (
    None, True, False, 0, -1, 1, 2, 3, 7, 64, 2**31, 2**63, 10**9, 10**400, 0.5, -1e300, 1e308, float("nan"),
    float("inf"), "", "x", "0", "a/b", "../../x", "/etc/passwd", "\x00", "\ud800", "é\u202e", "x" * 5000, "[PAD]",
    [], [None], ["x"], [[]], [0, 1], [0] * 3000, {}, {"": None}, {"a": {"b": [{}]}}, {"0": "x"}, {"x": 0},
    {"0": "positive", "1": "negative"}, {"type": "x"}, {"content": "x", "lstrip": True},
)  # fmt: skip
# Keys that strangers' files have, or that decide something where they are read.
KEYS = (
    "architectures", "id2label", "label2id", "num_labels", "problem_type", "quantization_config", "auto_map",
    "tie_word_embeddings", "rope_scaling", "rope_parameters", "torch_dtype", "dtype", "text_config", "model_type",
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "pad_token_id", "eos_token_id",
    "max_position_embeddings", "use_cache", "is_decoder", "tokenizer_class", "do_lower_case", "added_tokens_decoder",
    "model_max_length", "chat_template", "added_tokens", "model", "special_tokens_map", "extra_special_tokens",
    "padding_side", "truncation", "padding", "lora_alpha", "rank_pattern", "alpha_pattern", "modules_to_save",
    "target_modules", "layers_to_transform", "use_dora", "task_type", "metadata", "weight_map", "layers", "aliases",
    "rows", "size", "noise", "fisher", "version", "format", "parts", "images", "image_size", "resample", "image_mean",
    "do_resize", "image_processor_type", "__class__", "transformers_version", "is_encoder_decoder",
    "return_dict", "pruned_heads", "chunk_size_feed_forward", "hidden_act", "attn_implementation", "head_dim",
)  # fmt: skip
_MARK = "\ue000 here \ue000"
# Text in the place of one value.
_RAW = (
    "[" * 100_000 + "]" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000, "NaN", "-Infinity", "1e999", "9" * 5000,
    '{"a": 1, "a": 2}', "[1, 1,]", "'x'", '"\\ud83d"', '"\\u0000"', "01", "0x10", "1.5e", "truth", '"unended', "// c",
    '{"a": 1, "a": {"a": []}}', "-", "[" * 900 + "]" * 900,
)  # fmt: skip


def change_json(random: Random, path: Path) -> str:
    """Another value in one place, or in a place that was not there."""
    content = json.loads(path.read_text(encoding="utf-8"))
    said = change_content(random, content)
    path.write_text(json.dumps(content, ensure_ascii=random.random() < 0.9), encoding="utf-8", errors="surrogatepass")
    return said


def change_json_text(random: Random, path: Path) -> str:
    """The same with what only text can hold: keys said twice, a depth without end, numbers that are none."""
    content = json.loads(path.read_text(encoding="utf-8"))
    place = random.choice(places(content) or [()])
    if not place:
        path.write_text(random.choice(_RAW), encoding="utf-8")
        return "all is junk"
    holder, key = inside(content, place)
    raw = random.choice(_RAW)
    what = "key said twice" if isinstance(holder, dict) and random.random() < 0.3 else "junk"
    if what == "key said twice":
        value = json.dumps(random.choice((*ODD, holder[key])))
        holder[_MARK] = 0
        raw = f"{json.dumps(key)}: {value}"
        path.write_text(json.dumps(content).replace(f"{json.dumps(_MARK)}: 0", raw), encoding="utf-8")
    else:
        holder[key] = _MARK
        path.write_text(json.dumps(content).replace(json.dumps(_MARK), raw), encoding="utf-8")
    return f"{what} at {shown(place)}: {raw[:30]}"


def change_content(random: Random, content: Any) -> str:
    """Changes JSON content in its place; what was done."""
    known = places(content)
    # Beginnings are more often read than the ten-thousandth piece of a vocabulary.
    known = random.choice((known[:40] or known, known))
    what = random.choices(("odd", "gone", "key", "swap", "copy", "rename", "near"), (40, 15, 15, 8, 7, 7, 8))[0]
    if what == "key" and isinstance(content, dict):
        key, value = random.choice(KEYS), copy.deepcopy(random.choice(ODD))
        content[key] = value
        return f"{key} = {shown(value)}"
    if not known:
        return "nothing to change"
    place = random.choice(known)
    holder, key = inside(content, place)
    if what == "gone":
        del holder[key]
        return f"{shown(place)} taken away"
    if what == "rename" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
        return f"{shown(place)} renamed"
    if what in ("swap", "copy"):
        other = random.choice(known)
        there, name = inside(content, other)
        one, two = copy.deepcopy(holder[key]), copy.deepcopy(there[name])
        holder[key] = two
        if what == "swap" and not _overlap(place, other):
            there[name] = one
        return f"{shown(place)} = that of {shown(other)}"
    value = _near(random, holder[key]) if what == "near" else copy.deepcopy(random.choice(ODD))
    holder[key] = value
    return f"{shown(place)} = {shown(value)}"


def places(content: Any, depth: int = 6, most: int = 4000) -> list[tuple[str | int, ...]]:
    """Where values are in JSON content, the outer ones first; of long lists and tables the first and the last."""
    found: list[tuple[str | int, ...]] = []
    level: list[tuple[tuple[str | int, ...], Any]] = [((), content)]
    for _ in range(depth):
        below = []
        for place, value in level:
            items = list(value.items() if isinstance(value, dict) else enumerate(value))
            for key, own in items if len(items) <= 60 else items[:40] + items[-20:]:
                found.append((*place, key))
                if isinstance(own, dict | list):
                    below.append(((*place, key), own))
        level = below
        if len(found) > most:
            break
    return found


def inside(content: Any, place: tuple[str | int, ...]) -> tuple[Any, str | int]:
    """What holds the value at `place`, and by which key."""
    for key in place[:-1]:
        content = content[key]
    return content, place[-1]


def shown(value: Any) -> str:
    """Short, for a person."""
    text = ".".join(map(str, value)) if isinstance(value, tuple) else repr(value)
    return text.encode("utf-8", "backslashreplace").decode()[:60]


def _near(random: Random, value: Any) -> Any:
    """A value of the same kind, or of the next one."""
    if isinstance(value, bool):
        return random.choice((not value, int(value), str(value).lower()))
    if isinstance(value, int):
        return random.choice((value + 1, value - 1, -value, value * 2, float(value), str(value), [value]))
    if isinstance(value, float):
        return random.choice((-value, value * 2, value + 1e-6, str(value), int(value) if abs(value) < 1e9 else 0))
    if isinstance(value, str):
        return random.choice((value.upper(), f"{value} ", value[:-1], [value], value + value, value.swapcase()))
    if isinstance(value, list):
        return random.choice((value[::-1], value + value, value[:-1], {str(i): own for i, own in enumerate(value)}))
    if isinstance(value, dict):
        return random.choice((list(value.items()), list(value), dict.fromkeys(value), [value]))
    return random.choice((0, "", False))


def _overlap(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]

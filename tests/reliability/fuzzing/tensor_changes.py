"""Changes of files of tensors: names, dtypes, shapes and numbers; headers; and what else a pickle can hold."""

from __future__ import annotations

import collections
import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.reliability.fuzzing.json_changes import change_content

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8),
    *(torch.bool, torch.float8_e4m3fn, torch.complex64, torch.uint16),
)
_NUMBERS = (float("nan"), float("inf"), -float("inf"), 1e38, -1.0, 0.0, 1e-40)


def change_tensors(random: Random, path: Path) -> str:
    """Writes the file again with one tensor changed, renamed, taken away or added."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    said = _change(random, tensors)
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path, metadata=metadata)
    return said


def change_header(random: Random, path: Path) -> str:
    """Another value in the header, its length, or in the JSON that the header holds; the numbers stay as they are."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    what = random.choice(("value", "value", "length", "metadata", "metadata"))
    said = header.get("__metadata__", {}).get("fusehub")
    if what == "length":
        length = random.choice((0, 1, 2**31, 2**63, 2**64 - 1, length - 1, length + 1, 10**8 + 1))
        path.write_bytes(struct.pack("<Q", length) + content[8:])
        return f"header of {length} bytes"
    if what == "metadata" and said is not None:
        own = json.loads(said)
        described = change_content(random, own)
        header["__metadata__"]["fusehub"] = json.dumps(own)
        beside = path.with_suffix(".json")
        if random.random() < 0.6 and beside.is_file():
            beside.write_text(json.dumps(own), encoding="utf-8")
    else:
        described = change_content(random, header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)
    return f"header: {described}"


def change_pickle(random: Random, path: Path) -> str:
    """Writes a .bin again with one tensor changed, with an odd one, or with what is no dictionary of tensors."""
    tensors: Any = dict(torch.load(path, weights_only=True))
    what = random.choice(
        ("tensor", "tensor", "tensor", "odd key", "odd value", "odd tensor", "nested", "other", "old")
    )
    old = what == "old"
    if what in ("tensor", "old"):
        what = _change(random, tensors)
    elif what == "odd key":
        key = random.choice((1, None, ("a",), b"x", 0.5, "\ud800", "", True))
        tensors[key] = tensors.pop(random.choice(list(tensors))) if random.random() < 0.5 else torch.ones(2)
        what = f"a key {key!r}"
    elif what == "odd value":
        value = random.choice((1, "x", None, [], {}, b"x", torch.Size([1]), torch.float32, collections.OrderedDict()))
        tensors[random.choice((*tensors, "x"))] = value
        what = f"a value {value!r}"
    elif what == "odd tensor":
        name = random.choice(list(tensors))
        made = {
            "sparse": lambda: torch.eye(3).to_sparse(), "complex": lambda: torch.ones(2, dtype=torch.complex64),
            "meta": lambda: torch.ones(2, device="meta"), "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
            "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            "expanded": lambda: torch.ones(1).expand(1000, 1000), "transposed": lambda: torch.ones(2, 3).T,
            "nested": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        }  # fmt: skip
        what = random.choice(list(made))
        tensors[name] = made[what]()
        what = f"{name} {what}"
    elif what == "nested":
        key = random.choice(("state_dict", "model", "module", "x"))
        tensors = {key: tensors, "epoch": 3} if random.random() < 0.5 else {key: tensors}
        what = f"all in {key}"
    else:
        tensors = random.choice((None, [], 7, "x", {}, list(tensors.values()), torch.ones(3)))
        what = f"a {type(tensors).__name__}"
    torch.save(tensors, path, _use_new_zipfile_serialization=not old)
    return what


def _change(random: Random, tensors: dict[str, torch.Tensor]) -> str:
    name = random.choice(list(tensors))
    value = tensors[name]
    what = random.choice(
        (
            "rename",
            "gone",
            "more",
            "dtype",
            "dtype",
            "shape",
            "cut",
            "number",
            "number",
            "zeros",
            "swap",
            "all",
            "prefix",
        )
    )
    if what == "rename":
        new = random.choice(
            (f"{name}x", f"module.{name}", "x", "é", name.upper(), name.partition(".")[2] or "y", "a/b")
        )
        tensors[new] = tensors.pop(name)
        return f"{name} called {new}"
    if what == "gone":
        del tensors[name]
    elif what == "more":
        new = random.choice(("extra", f"{name}.1", "bert.pooler.x", "lora_A.weight", "", "x" * 300))
        tensors[new] = value.clone()
        what = "once more as " + (new[:40] or '""')
    elif what == "dtype":
        dtype = random.choice(DTYPES[:-2])
        tensors[name] = value.to(dtype)
        what = str(dtype)
    elif what == "shape":
        new = random.choice((value[None], value.reshape(-1), value.sum(), value.flatten()[:0], torch.cat([value] * 2)
                             if value.ndim else value, value.T if value.ndim == 2 else value[..., None]))  # fmt: skip
        tensors[name] = new
        what = f"{list(value.shape)} -> {list(new.shape)}"
    elif what == "cut":
        tensors[name] = value[:-1] if value.ndim else value
    elif what == "number":
        number, own = random.choice(_NUMBERS), value.clone()
        if own.numel() and own.is_floating_point():
            own.view(-1)[random.randrange(own.numel())] = number
        tensors[name] = own
        what = f"a number {number}"
    elif what == "zeros":
        tensors[name] = torch.zeros_like(value)
    elif what == "swap":
        same = [other for other, own in tensors.items() if own.shape == value.shape]
        other = random.choice(same)
        tensors[name], tensors[other] = tensors[other], value
        what = f"swapped with {other}"
    elif what == "prefix":
        prefix = random.choice(("module.", "model.", "_orig_mod.", "x.", "base_model.model."))
        for own in list(tensors):
            tensors[prefix + own] = tensors.pop(own)
        return f"all called {prefix}..."
    else:
        dtype = random.choice(DTYPES[:4])
        for own, number in tensors.items():
            tensors[own] = number.to(dtype) if number.is_floating_point() else number
        return f"all {dtype}"
    return f"{name} {what}"

"""A reader of statistics that knows nothing of FuseHub: numpy and the standard library, written from the document.

`docs/statistics-format.md` must be enough for it; a test compares it with the reader of the package.
"""

import json
from pathlib import Path

import numpy as np

DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I8": np.dtype("i1"), "I64": np.dtype("<i8")}


def read(folder: Path) -> dict[str, dict]:
    """All layers of the statistics in `folder`: `S`, `s`, `n`, and the shift `e`, by the weight's name."""
    index = folder / "statistics.safetensors.index.json"
    names = ["statistics.safetensors"]
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        found, metadata = tensors_of(folder / name)
        tensors |= found
    if metadata["format"] != "fusehub-statistics" or metadata["version"] != 1:
        raise ValueError("not statistics of version 1")
    layers = {name: layer(name, told, tensors) for name, told in metadata["layers"].items()}
    return layers | {name: layers[target] for name, target in metadata["aliases"].items()}


def tensors_of(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Tensors and metadata of one safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = json.loads(header.pop("__metadata__")["fusehub"])
    tensors = {}
    for name, told in header.items():
        start, stop = told["data_offsets"]
        piece = data[8 + length + start : 8 + length + stop]
        tensors[name] = np.frombuffer(piece, DTYPES[told["dtype"]]).reshape(told["shape"])
    return tensors, metadata


def layer(name: str, told: dict, tensors: dict[str, np.ndarray]) -> dict:
    """One stored layer."""
    size = told["size"]

    def tensor(part: str) -> np.ndarray:
        return tensors[f"{name}.{part}"].astype(np.float64)

    def square(triangle: np.ndarray) -> np.ndarray:
        full = np.zeros((size, size))
        full[np.triu_indices(size)] = triangle
        return np.triu(full) + np.triu(full, 1).T

    shift = 0.0
    if told["encoding"] == "triangle":
        gram = square(tensor("S"))
    elif told["encoding"] == "diagonal":
        gram = np.diag(tensor("d"))
    else:
        if told["encoding"] == "correlations":
            stored = tensor("C")
            if told["bits"] == 8:
                stored = np.sign(stored) * (stored / 127) ** 2
            gram = square(stored)
            np.fill_diagonal(gram, 1.0)
            shift = float(tensor("e"))
        elif told["encoding"] == "factor":
            factor = tensor("U") * tensor("u")
            gram = factor @ factor.T
            np.fill_diagonal(gram, np.maximum(gram.diagonal(), 1.0))
        else:
            raise ValueError(told["encoding"])
        root = np.sqrt(tensor("d"))
        gram = gram * root[:, None] * root[None, :]
    return {"S": gram, "s": tensor("s"), "n": int(tensors[f"{name}.n"]), "e": shift}

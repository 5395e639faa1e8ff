"""Per-layer Hessians as QuIP# and projects after it save them: one file for each input of each block.

    12_qkv.pt   12_o.pt   12_up.pt   12_down.pt

Each is a dict: `flatH`, the lower triangle row after row of the mean of x xᵀ over `ct` rows (what they call the
Hessian of the layer's squared error), `n` its size. Some also have `mu`, the mean of x: then `flatH` is centred,
`mean(x xᵀ) − mu muᵀ`, and what was taken off is added again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import BadFile, BadStatistics, UnsafeFile
from fusehub.models.layout import Linear
from fusehub.models.tensor_files import require_small_pickle, would_run_code
from fusehub.statistics.importers.found import Imported

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

_FILE = re.compile(r"(\d+)_(\w+)\.pt")
# What each of the files is the input of, by the last part of the modules' names.
_MODULES = {
    "qkv": ("q_proj", "k_proj", "v_proj", "qkv_proj"),
    "o": ("o_proj",),
    "up": ("up_proj", "gate_proj", "gate_up_proj"),
    "upgate": ("up_proj", "gate_proj", "gate_up_proj"),
    "down": ("down_proj",),
}
_BROKEN = "Download the file again, or take it out of the folder: its layers are then averaged."


@dataclass(frozen=True)
class HessianFile:
    """The sums that one file tells; the matrix is read when it is asked for."""

    path: Path
    size: int
    rows: int
    total: Tensor
    centred: bool

    @classmethod
    def of(cls, path: Path) -> HessianFile:
        """Reads the file and checks it."""
        import torch

        content = _load(path)
        try:
            flat, size, rows = content["flatH"], int(content["n"]), int(content["ct"])
            mean = content.get("mu")
            shapes = [tuple(flat.shape), tuple(mean.shape) if mean is not None else (size,)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadFile(f"{path} is not a Hessian: it lacks {error}.", _BROKEN) from error
        if shapes != [(size * (size + 1) // 2,), (size,)] or rows < 1:
            raise BadFile(
                f"{path}: flatH {list(shapes[0])} and mu {list(shapes[1])} do not fit n = {size}, ct = {rows}.",
                _BROKEN,
            )
        for name, value in (("flatH", flat), ("mu", mean)):
            if value is not None and not bool(torch.isfinite(value).all()):
                raise BadStatistics(f"{path}: {name} holds NaN or infinity.", _BROKEN)
        total = torch.zeros(size, dtype=torch.float64) if mean is None else mean.double() * rows
        return cls(path, size, rows, total, mean is not None)

    def packed(self) -> Tensor:
        """The upper triangle of `S`, row after row: [in * (in + 1) / 2], float32."""
        import torch

        from fusehub.statistics.grams import pack

        rows, columns = torch.tril_indices(self.size, self.size)
        gram = torch.empty(self.size, self.size, dtype=torch.float64)
        # The upper triangle is all that is packed.
        gram[columns, rows] = _load(self.path)["flatH"].double() * self.rows
        if self.centred:
            gram.addr_(self.total, self.total, alpha=1 / self.rows)
        return pack(gram.float())


def read_hessians(folder: Path, linears: Mapping[str, Linear], config: PretrainedConfig) -> Imported:
    """The sums in the files of `folder`, for the model with these linear layers."""
    sums: dict[str, HessianFile] = {}
    aliases: dict[str, str] = {}
    ignored = []
    for path in sorted(folder.glob("*.pt")):
        named = _FILE.fullmatch(path.name)
        modules = _MODULES.get(named[2], ()) if named else ()
        layers = [name for name in sorted(linears) if named and _is_of(linears[name].module, int(named[1]), modules)]
        layers = [name for name in layers if name not in sums and name not in aliases]
        if not layers:
            ignored.append(path.name)
            continue
        sums[layers[0]] = HessianFile.of(path)
        aliases |= dict.fromkeys(layers[1:], layers[0])
    means = bool(sums) and all(own.centred for own in sums.values())
    rows = max((own.rows for own in sums.values()), default=None)
    return Imported("Hessians of a quantisation (flatH)", sums, aliases, means, ignored, tokens=rows)


def _is_of(module: str, block: int, names: tuple[str, ...]) -> bool:
    """`model.layers.12.self_attn.q_proj` is of block 12 and `q_proj`."""
    parts = module.split(".")
    return parts[-1] in names and [part for part in parts if part.isdigit()] == [str(block)]


def _load(path: Path) -> dict[str, Any]:
    import torch

    try:
        require_small_pickle(path, "Hessian")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except BadFile:
        raise
    except Exception as error:  # A damaged pickle raises whatever its bytes happen to lead to.
        if would_run_code(error):
            raise UnsafeFile(
                f"{path} is a pickle with more than tensors in it; reading it would run code.", "Do not use it."
            ) from error
        raise BadFile(f"{path} is truncated or corrupt ({type(error).__name__}).", _BROKEN) from error
    if not isinstance(content, dict):
        raise BadFile(f"{path} is not a Hessian, but a {type(content).__name__}.", _BROKEN)
    return content

"""Fisher diagonals as a file beside an expert's statistics: `fisher.safetensors`.

One tensor for each of the checkpoint, of its name and shape: the mean over the examples. `full` stores it in float32.
All other sizes store float16 square roots, times 2^k with k of the tensor's own, such that the largest is just below
2^15: F = (root · 2^-k)². Values are right to 1e-3 down to 3e-18 of the tensor's largest, where those that a network
has (1e-12 to 1) lie; smaller ones lose digits, and what is below 3e-24 of it becomes zero.

The header's metadata, under `fusehub`, is JSON; its `fisher` also stands in the metadata of the statistics:

    {"kind": "exact", "samples": null, "seed": null, "examples": 1000, "encoding": "roots", "rms": 2.1e-5,
     "exponents": {"classifier.weight": 14, ...}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import Action, BadFile, BadStatistics, NonFinite
from fusehub.models.checkpoints.checkpoint import write_tensors
from fusehub.models.tensor_files import SafetensorsFile, TensorInfo
from fusehub.utils.devices import wide
from fusehub.utils.frozen import frozen

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "fusehub-fisher"
VERSION = 1
FISHER_FILENAME = "fisher.safetensors"
REMAKE = "Make it again with `fusehub collect --fisher`."
_LARGEST = 15
# Numbers that are in float64 at a time.
_PIECE = 2**20


class EncodedFisher(Mapping[str, "Tensor"]):
    """The tensors that are stored, each made of its mean when it is asked for."""

    def __init__(self, means: Mapping[str, Tensor], exponents: Mapping[str, int] | None) -> None:
        self._means, self._exponents = means, exponents
        self.infos: dict[str, TensorInfo] = {}

    def __getitem__(self, name: str) -> Tensor:
        import torch

        mean = self._means[name]
        if self._exponents is None:
            return mean.float().cpu().contiguous()
        scale = 2.0 ** self._exponents[name]
        return torch.cat([(own.sqrt() * scale).half().cpu() for own in _pieces(mean)]).reshape(mean.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._means)

    def __len__(self) -> int:
        return len(self._means)


def encode_fisher(
    means: Mapping[str, Tensor], description: Mapping[str, Any], size: str
) -> tuple[EncodedFisher, dict[str, Any]]:
    """The tensors that are stored, and all that is said of them. Raises `NonFinite` naming a tensor with NaN.

    Each mean is asked for twice, here and when it is written, so that not all need be in memory.
    """
    import torch

    exponents: dict[str, int] = {}
    stored = EncodedFisher(means, None if size == "full" else exponents)
    squares, count = 0.0, 0
    for name, mean in means.items():
        if not bool(torch.isfinite(mean).all()):
            raise NonFinite(
                f"The Fisher diagonal of {name} holds NaN or infinity.",
                "The model gives such gradients for some example: is its checkpoint broken, or its data?",
            )
        squares += sum(float(own.square().sum()) for own in _pieces(mean))
        count += mean.numel()
        stored.infos[name] = TensorInfo("F32" if size == "full" else "F16", tuple(mean.shape))
        if size != "full":
            largest = math.sqrt(float(mean.max())) if mean.numel() else 0.0
            exponents[name] = _LARGEST - math.frexp(largest)[1] if largest else 0
    encoding = "values" if size == "full" else "roots"
    rms = math.sqrt(squares / count) if count else 0.0
    names = dict.fromkeys(means, 0) if size == "full" else exponents
    return stored, {**description, "encoding": encoding, "rms": rms, "exponents": dict(sorted(names.items()))}


def _pieces(value: Tensor) -> Iterator[Tensor]:
    """All its numbers in float64, a few at a time: the largest table has half a gigabyte of them."""
    return (wide(piece) for piece in value.reshape(-1).split(_PIECE))


def write_fisher(folder: Path, stored: EncodedFisher, described: Mapping[str, Any], model: Mapping[str, Any]) -> Path:
    """Writes what `encode_fisher` gave into `folder`, which is not finished yet; `model` is that of the statistics."""
    text = json.dumps({"format": FORMAT, "version": VERSION, "model": dict(model), "fisher": dict(described)})
    write_tensors(folder / FISHER_FILENAME, stored, {"fusehub": text}, stored.infos)
    return folder / FISHER_FILENAME


def _broken(what: str) -> BadStatistics:
    return BadStatistics(what, REMAKE, actions=[Action("collect-fisher")])


class FisherFile:
    """Fisher diagonals, open for reading in pieces.

    Raises `BadStatistics` for a file that is truncated, of an unknown version, or not the one that `described` (the
    `fisher` of the statistics' metadata) tells of.
    """

    def __init__(self, path: Path, origin: str, described: Mapping[str, Any]) -> None:
        self._origin = f"{origin} ({FISHER_FILENAME})"
        try:
            self._file = SafetensorsFile(path, "Fisher diagonals")
        except BadFile as error:
            raise _broken(error.what) from error
        try:
            self._check(described)
        except BadStatistics:
            self.close()
            raise

    def _check(self, described: Mapping[str, Any]) -> None:
        try:
            said = json.loads(self._file.metadata["fusehub"])
            known = said["format"], said["version"], said["fisher"]
        except (KeyError, TypeError, ValueError) as error:
            raise _broken(f"{self._origin} holds no Fisher diagonals.") from error
        if known[:2] != (FORMAT, VERSION):
            raise BadStatistics(
                f"{self._origin} is {known[0]} of version {known[1]}; this FuseHub reads {FORMAT} {VERSION}.",
                "Update FuseHub.",
            )
        if frozen(known[2]) != frozen(described):
            raise _broken(f"{self._origin} does not belong to the statistics beside it.")
        self._exponents: dict[str, int] = known[2]["exponents"]
        self._roots = known[2]["encoding"] == "roots"

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows of the diagonal of a tensor, in float64. Raises `BadStatistics` naming one that cannot be."""
        if name not in self._file.tensors:
            raise _broken(f"{self._origin}: {name} is missing.")
        value = self._file.read(name, start, stop).double()
        if not math.isfinite(float(value.sum())) or bool((value < 0).any()):
            raise _broken(f"{self._origin}: {name} holds NaN, infinity or a negative number.")
        return value.mul_(2.0 ** -self._exponents.get(name, 0)).square_() if self._roots else value

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

"""Float8 with scales: what such numbers mean, and numbers written as such.

    weight[i, j] = value[i, j] * scale[i // 128, j // 128]            # float8_e4m3fn * float32

Reading goes by rows, so that no weight need be whole in memory. Writing takes for each block the scale at which its
largest number is float8's largest, 448, as DeepSeek-V3 does: a number is then off by at most a sixteenth of itself, or
by 2^-10 of the scale where that is more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.errors import BadFile
from fusehub.models.quantised.configs import Float8, float8_of
from fusehub.models.tensor_files import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

FLOAT8 = "F8_E4M3"
"""What is written. F8_E5M2, which has a bit less, is only read."""
REST = "BF16"
"""What such weights are read as, and what is stored beside them: both as transformers has it."""
BLOCK = 128
_LARGEST = 448.0
_WRITTEN = Float8("_scale_inv", (BLOCK, BLOCK))
_READ = (FLOAT8, "F8_E5M2")
# Of what layers are given, and no weight's.
_OF_INPUTS = (".activation_scale", ".input_scale", ".input_scale_ub", ".output_scale", ".k_scale", ".v_scale")


@dataclass(frozen=True)
class Scaled:
    """The scales of one weight, by their name in the file; each multiplies a block of so many rows and columns."""

    scales: str
    block: tuple[int, int]
    grid: tuple[int, int]
    """How many blocks there are."""
    is_grid: bool
    """Whether the scales are stored in this shape, and not as a number or a list."""

    def read(
        self, name: str, start: int, stop: int | None, rows_of: Callable[[str, int, int | None], Tensor]
    ) -> Tensor:
        """The rows `start:stop` of the weight, whose numbers are called `name`, in float32; `rows_of` reads rows of
        what the file has."""
        values = rows_of(name, start, stop)
        first, last = start // self.block[0], -(-(start + len(values)) // self.block[0])
        if self.is_grid:
            scales = rows_of(self.scales, first, last)
        else:
            scales = rows_of(self.scales, 0, None).reshape(self.grid)[first:last]
        return meant(values, scales, self.block, start % self.block[0])


def scaled_in(
    config: Callable[[], Mapping[str, Any]], name: str, stored: Mapping[str, TensorInfo]
) -> dict[str, Scaled]:
    """The weights of the model called `name` that are float8 with scales, by their names in its files.

    `config` gives its config.json, and is asked only where there is float8. Raises `Incompatible` where it tells of
    something that is not read, and `BadFile` where scales do not fit their weights.
    """
    narrow = [own for own, info in stored.items() if info.dtype in _READ]
    kind = float8_of(config(), name) if narrow else None
    if kind is None:
        return {}
    return {own: _fitting(own, stored, kind, name) for own in narrow if own + kind.suffix in stored}


def plain(stored: Mapping[str, TensorInfo], scaled: Mapping[str, Scaled]) -> dict[str, TensorInfo]:
    """What can be read of a file with these tensors: the weights that are `scaled` as what they mean."""
    if not scaled:
        return dict(stored)
    beside = {own.scales for own in scaled.values()}
    return {
        name: TensorInfo(REST, info.shape) if name in scaled else info
        for name, info in stored.items()
        if name not in beside and not name.endswith(_OF_INPUTS)
    }


def _fitting(own: str, stored: Mapping[str, TensorInfo], kind: Float8, name: str) -> Scaled:
    weight, scales = stored[own], stored[own + kind.suffix]
    blocks = []
    if len(weight.shape) == 2 and scales.is_float:
        rows, columns = weight.shape
        # By blocks, or by rows, or one for all; the fewer there are, the later it is tried.
        blocks = [kind.block] if kind.block else [(1, max(1, columns)), (max(1, rows), max(1, columns))]
    for block in blocks:
        grid = _grid(weight.shape, block)
        flat = grid[1] == 1 and scales.shape in ((grid[0],), *([()] if grid[0] == 1 else []))
        if scales.shape == grid or flat:
            return Scaled(own + kind.suffix, block, grid, scales.shape == grid)
    raise BadFile(
        f"{name}: {own}{kind.suffix} is {list(scales.shape)} ({scales.dtype}), and {own} {list(weight.shape)} has, as "
        f"its config.json says, {kind}.",
        "Is this the config of these weights? Give the files that were saved together.",
    )


def _grid(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, int]:
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def meant(values: Tensor, scales: Tensor, block: tuple[int, int], skipped: int = 0) -> Tensor:
    """The weight [rows, columns] in float32 that float8 `values` with `scales` [blocks, blocks] are; the first block
    lacks the `skipped` rows before these."""
    rows, columns = values.shape
    by_row = scales.float().repeat_interleave(block[0], 0)[skipped : skipped + rows]
    weight = values.float()
    count = columns // block[1]
    whole = count * block[1]
    weight[:, :whole].unflatten(1, (count, block[1])).mul_(by_row[:, :count, None])
    if whole < columns:
        weight[:, whole:].mul_(by_row[:, -1:])
    return weight


def as_float8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [rows, columns], or rows of one from the start of a block on, in float8, and its scales in float32."""
    import torch
    from torch.nn.functional import pad

    rows, columns = weight.shape
    blocks = pad(weight.float(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    blocks = blocks.view(blocks.shape[0] // BLOCK, BLOCK, -1, BLOCK)
    largest = blocks.abs().amax((1, 3))
    # Of zeros any scale will do; below the least that float32 has in full, division is not exact.
    scales = torch.where(largest > 0, (largest / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny), 1.0)
    values = (blocks / scales[:, None, :, None]).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return values.reshape(blocks.shape[0] * BLOCK, -1)[:rows, :columns].contiguous(), scales


def as_stored(weight: Tensor) -> Tensor:
    """A whole weight, in float32, as it would be read again once it was written in float8."""
    return meant(*as_float8(weight), (BLOCK, BLOCK))


def can_be_float8(shape: tuple[int, ...]) -> bool:
    """Whether a matrix can be written in float8: transformers tells the size of a block by the number of scales, so
    none may be smaller than the others, but where there is one alone."""
    return len(shape) == 2 and all(0 < side <= BLOCK or side % BLOCK == 0 for side in shape)


def scales_of(name: str) -> str:
    """What the scales of a weight are called that is written in float8."""
    return name + _WRITTEN.suffix


def with_scales(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """What is written of `tensors`: those in float8 have scales beside them."""
    grids = {
        scales_of(name): TensorInfo("F32", _grid(info.shape, (BLOCK, BLOCK)))
        for name, info in tensors.items()
        if info.dtype == FLOAT8
    }
    return {**tensors, **grids}


def said_in_config(apart: Iterable[str]) -> dict[str, Any]:
    """The `quantization_config` of a model that is written in float8, but for the modules `apart`."""
    return {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": sorted(apart),
    }

"""Whether a model is counted as a whole or block by block, and whether there is room for it: told from its config and
the texts, before any weight is read.

What is refused is what cannot be: the weights that must be in memory at a time, with their grams, are more than there
is. What is chosen by itself leaves room for what is computed on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fusehub.errors import NoMemory
from fusehub.models.piecewise.blocks import block_of
from fusehub.statistics.encodings import SIZES
from fusehub.statistics.grams import sum_bytes, triangle_bytes
from fusehub.utils.folders.places import Room
from fusehub.utils.formats import size as words
from fusehub.utils.memory import available_memory

if TYPE_CHECKING:
    import torch

    from fusehub.data.inputs import Inputs
    from fusehub.models.layout import Layout, Linear

Stream = Literal["auto", "on", "off"]

# What a forward keeps of its widest layer at a time: a gated layer has two inputs to a product, the product, a copy.
_WIDE = 4
# What layers are called that are given what the others of their module make, and so never what these are given.
_CLOSING = frozenset({"o", "o_proj", "out_proj", "out_lin", "c_proj", "dense", "wo", "Wo"})
# Bytes of statistics for each byte of grams in float32.
_STORED = {"full": 1.0, "half": 0.5, "compact": 0.25, "tiny": 0.05}


@dataclass(frozen=True)
class Needs:
    """Bytes, at least: of a whole model and of its parts."""

    weights: int
    grams: int
    """The triangles alone, in float32."""
    sums: int
    """What grams are summed up in (`sum_bytes`)."""
    block: int
    """The largest block, with the sums of it."""
    outside: int
    """The largest tensor outside of the blocks."""
    width: int
    """Of what goes from block to block, for a token."""
    forward: int
    """What is computed on the way, for a token."""
    numbers: int
    """How many it has, and not bytes."""
    gradients: int
    """The weights of the largest part that gradients come back through at a time, with as many squares, and one
    gradient of its largest tensor."""
    blocks: int
    """How many there are."""
    table: int
    """The weight that looks tokens up and tells them, if one does both."""

    @classmethod
    def of(cls, layout: Layout, dtype: torch.dtype) -> Needs:
        """Those of the architecture, with its weights in `dtype`."""
        weights, largest = dict.fromkeys(layout.blocks, 0), dict.fromkeys(layout.blocks, 0)
        counted = [own for own in layout.linears.values() if own.weight not in layout.tied]
        inside: dict[str | None, list[Linear]] = {block: [] for block in weights}
        for linear in counted:
            inside.setdefault(block_of(linear.module, weights), []).append(linear)
        total = outside = 0
        for name, shape in layout.shapes.items():
            if name in layout.tied:
                continue
            nbytes = math.prod(shape) * dtype.itemsize
            total += nbytes
            block = block_of(name, weights)
            if block is None:
                outside = max(outside, nbytes)
            else:
                weights[block] += nbytes
                largest[block] = max(largest[block], nbytes)
        widest = max((own.in_features for own in layout.linears.values()), default=1)
        first = next((inside[block][0].in_features for block in weights), widest)
        # The first block comes with the embeddings.
        words = next((math.prod(layout.shapes[name]) for name in layout.embeddings), 0) * dtype.itemsize
        parts = {block: (nbytes, largest[block]) for block, nbytes in weights.items()}
        for block in list(parts)[:1]:
            parts[block] = weights[block] + words, max(largest[block], words)
        return cls(
            weights=total,
            grams=_all(triangle_bytes, counted),
            sums=_all(sum_bytes, counted),
            block=max((nbytes + _all(sum_bytes, inside[block]) for block, nbytes in weights.items()), default=total),
            outside=outside,
            width=first * dtype.itemsize,
            forward=_WIDE * widest * dtype.itemsize,
            numbers=total // dtype.itemsize,
            gradients=max((2 * nbytes + one for nbytes, one in parts.values()), default=0),
            blocks=len(weights),
            table=words if set(layout.output) & set(layout.embeddings) else 0,
        )

    @property
    def whole(self) -> int:
        """Of a model that is counted as a whole."""
        return self.weights + self.sums

    @property
    def by_blocks(self) -> int:
        """Of one that is counted block by block."""
        return max(self.block, self.outside)


def is_better_by_blocks(needs: Needs, batch_tokens: int, device: str, *, fisher: bool = False) -> bool:
    """Whether the whole model would not fit into what memory of the device is left, with what is computed on the way,
    and the sums of its Fisher diagonals where these are asked for.

    A model that is spread over devices is read anew for each batch.
    """
    import torch

    there = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else available_memory()
    return needs.whole + fisher * needs.weights + batch_tokens * needs.forward > there


def require_memory(name: str, needs: Needs, *, fisher: bool = False) -> None:
    """Raises `NoMemory` where the model called `name` does not fit into what memory is left, block by block,
    whichever texts there are; with the sums of its Fisher diagonals or without."""
    needed, there, what = needs.by_blocks, available_memory(swap=True), "its largest block, with the grams of it"
    if fisher and needs.gradients > needed:
        needed, what = needs.gradients, "the largest part that gradients are taken of, with its Fisher diagonals"
    if needed > there:
        raise NoMemory(
            f"Counting {name} block by block takes {words(needed)} of memory at the least ({what}), and "
            f"{words(there)} are left.",
            "Give it more memory, or end what else takes it.",
        )


def require_memory_for_all(name: str, needs: Needs, fix: str, *, fisher: bool = False) -> None:
    """The same of the whole model, with the sums of its Fisher diagonals or without; `fix` is what to do then."""
    weights, squares = needs.weights, 0
    if fisher:  # Both are in float32.
        weights = squares = needs.numbers * 4
    needed, there = weights + needs.sums + squares, available_memory(swap=True)
    if needed > there:
        more = f", {words(squares)} of Fisher diagonals" if fisher else ""
        raise NoMemory(
            f"Counting {name} as a whole takes {words(needed)} of memory at the least: {words(weights)} of weights, "
            f"{words(needs.sums)} of grams{more}; and {words(there)} are left.",
            fix,
        )


def room_of_result(out: Path, needs: Needs, size: str, *, fisher: bool = False) -> Room:
    """What the statistics take in the folder `out`."""
    nbytes = int(needs.grams * _STORED[size])
    if fisher:
        nbytes += needs.numbers * (4 if size == "full" else 2)
    smaller = f", or have statistics that take less: --size {SIZES[-1]}" if size != SIZES[-1] else ""
    return Room("The file of statistics", nbytes, out, f"Make room there, or write to another disk{smaller}.")


def room_of_work(work: Path, needs: Needs, inputs: Inputs, passes: int = 0) -> Room:
    """What a run block by block keeps in the folder `work`: what one block gave, and what the next gives; and all sums
    in float32. With `passes` backward for Fisher diagonals it is what all blocks gave, two times the gradients of one
    block, and their sums, too; of a table that looks tokens up and tells them, the gradients of the rows of the texts'
    words, and the sums of both ends."""
    kept, sums = (needs.blocks + 2 * passes, needs.weights) if passes else (2, 0)
    if passes and needs.table:
        kept, sums = kept + passes, sums + needs.table
    nbytes = kept * inputs.tokens * needs.width + needs.sums + sums
    fix = "Make room there, or write to another disk (of HF_HOME without --out); fewer texts (--limit) take less."
    return Room("What goes from block to block, with all sums,", nbytes, work, fix)


def _all(each: Callable[[int], int], linears: Iterable[Linear]) -> int:
    """Bytes of what each gram of them takes, where layers of one module and one width share theirs, but for those that
    close the module; of mixtures, as if each expert were given some token. Models that give attention and MLP one
    input (Falcon, Phi) take a gram a block less."""
    shared = set()
    for own in linears:
        module, _, name = own.weight.rpartition(".")[0].rpartition(".")
        shared.add((module or name, own.in_features, name if name in _CLOSING else None))
    return sum(each(size) for _, size, _ in shared)

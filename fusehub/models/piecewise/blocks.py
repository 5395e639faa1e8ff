"""The repeated blocks that a model is made of, found in its tree of modules and not by names.

blocks_of(model)     # ["bert.encoder.layer.0", "bert.encoder.layer.1", ...]
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def blocks_of(model: nn.Module, holding: Sequence[str]) -> list[str]:
    """Names of the repeated blocks that hold the modules `holding`: the children of the outermost lists of modules."""
    from torch import nn

    lists: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in lists):
            lists[name] = len(module)
    blocks = [f"{name}.{number}" for name, length in lists.items() for number in range(length)]
    known = set(blocks)
    held = {block_of(name, known) for name in holding}
    return [block for block in blocks if block in held]


def block_of(name: str, blocks: Container[str]) -> str | None:
    """The one of `blocks` that a module or a parameter is in, or is; None where it is in none."""
    while name and name not in blocks:
        name = name.rpartition(".")[0]
    return name or None


def list_of(block: str) -> str:
    """The name of the list that a block is in."""
    return block.rpartition(".")[0]

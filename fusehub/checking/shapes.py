"""Do the tensors of two models have the same shapes, and kinds of numbers?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fusehub.errors import Action
from fusehub.models.completeness import some
from fusehub.models.layout import Layout
from fusehub.models.resolve import ModelRef
from fusehub.models.tensor_files import TensorInfo
from fusehub.utils.findings import Finding

Named = tuple[ModelRef, Mapping[str, TensorInfo]]
"""A model, and its tensors by the names of their parameters."""


def shape_findings(first: Named, other: Named, layout: Layout, *, same_tokens: bool) -> Iterator[Finding]:
    """What differs between two models' tensors of one name: shapes, and then dtypes.

    `same_tokens`: their numbers mean the same tokens, so that one may have more of them than the other.
    """
    (one, mine), (two, theirs) = first, other
    same_class = one.config["architectures"] == two.config["architectures"]
    differing = [
        f"{name} {list(mine[name].shape)} against {list(theirs[name].shape)}"
        for name in mine
        if name in theirs and mine[name].shape != theirs[name].shape and name not in layout.label_axes
        if not (same_tokens and _same_but_for_tokens(mine[name].shape, theirs[name].shape, layout, name))
        if same_class or layout.in_body(name)
    ]
    if differing:
        vocabulary = one.config.get("vocab_size") != two.config.get("vocab_size")
        yield Finding(
            "shapes-differ",
            "error",
            f"{one.name} and {two.name} have tensors of different shapes: {some(differing)}.",
            "Their vocabularies differ: merge models that use the same tokenizer."
            if vocabulary
            else "Merge models of one base.",
        )
    whole = [name for name in mine if name in theirs and mine[name].is_float != theirs[name].is_float]
    if whole:
        told = f"{mine[whole[0]].dtype} in {one.name} and {theirs[whole[0]].dtype} in {two.name}"
        yield Finding(
            "dtype-differs",
            "error",
            f"{some(whole)}: stored as {told}.",
            "Save them in one dtype: real numbers are not averaged with whole ones.",
        )
        return
    kinds = [{info.dtype for info in infos.values() if info.is_float} for infos in (mine, theirs)]
    if kinds[0] != kinds[1]:
        yield Finding(
            "dtype-differs",
            "note",
            f"{one.name} is stored in {'/'.join(sorted(kinds[0]))}, {two.name} in "
            f"{'/'.join(sorted(kinds[1]))}: the result is stored like {one.name}.",
            "Say --dtype for another.",
            actions=(Action("choose-dtype"),),
        )


def _same_but_for_tokens(mine: Sequence[int], theirs: Sequence[int], layout: Layout, name: str) -> bool:
    """Whether two shapes differ only in their number of tokens."""
    axis = layout.token_axes.get(name)
    return axis is not None and [*mine[:axis], *mine[axis + 1 :]] == [*theirs[:axis], *theirs[axis + 1 :]]

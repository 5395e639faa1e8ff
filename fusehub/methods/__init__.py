"""Ways to make one tensor out of several, each a small file, all in one registry.

A method gets one layer: the experts' tensors, their statistics, their coefficients, the base's tensor where
there is one, and its own typed options. It returns one tensor. No method reads files or knows models.

    method = find_method("regmean")
    merged = method.merge(layer, method.parse({"alpha": 0.9}))
"""

from fusehub.methods.base import Layer, LayerStatistics, Merged, Method, NoShare, Note, Options, Share
from fusehub.methods.cost import Cost
from fusehub.methods.registry import METHODS, find_method, merge_method

# Importing a method's file registers it; the order is that of lists.
from fusehub.methods import mean, regmean, regmean_plus_plus, fisher  # noqa: F401  # isort: skip
from fusehub.methods import regmean_data_free  # noqa: F401  # isort: skip
from fusehub.methods.task_vectors import task_arithmetic, ties, dare, breadcrumbs  # noqa: F401  # isort: skip
from fusehub.methods.task_vectors import della, sce, model_stock  # noqa: F401  # isort: skip
from fusehub.methods import slerp  # noqa: F401  # isort: skip

__all__ = [
    "METHODS",
    "Cost",
    "Layer",
    "LayerStatistics",
    "Merged",
    "Method",
    "NoShare",
    "Note",
    "Options",
    "Share",
    "find_method",
    "merge_method",
]

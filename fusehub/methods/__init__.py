"""Ways to make one tensor out of several, each a small file, all in one registry.

A method gets one layer: the experts' tensors, their statistics, their coefficients, the base's tensor where
there is one, and its own typed options. It returns one tensor. No method reads files or knows models.

    method = find_method("regmean")
    merged = method.merge(layer, method.parse({"alpha": 0.9}))
"""

from fusehub.methods.registry import METHODS, Layer, LayerStatistics, Merged, Method, find_method

from fusehub.methods import mean, regmean  # isort: skip  # importing a method's file registers it

__all__ = ["METHODS", "Layer", "LayerStatistics", "Merged", "Method", "find_method", "mean", "regmean"]

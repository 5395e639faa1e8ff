"""Methods of the user's own: a decorated function in a file on this machine, named on the command line.

    # median.py                                  fusehub merge ... --plugin median.py --method median
    import torch
    from fusehub.methods import merge_method

    @merge_method("median", title="Median", summary="The median of every element.", when="Many experts.")
    def median(layer, options):
        return torch.stack(list(layer.tensors)).median(dim=0).values

A file is run only when it is named in this call: a recipe records its name and sha256, and never loads it.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from fusehub.errors import BadRecipe, FuseHubError, NotFound
from fusehub.methods.registry import ALIASES, METHODS, Layer, Merged, Method


def load_plugins(paths: Sequence[str | Path]) -> list[dict[str, str]]:
    """Runs the files, which register their methods; for each its name and sha256, as a recipe records them.

    A file that is loaded again takes the place of what it registered before. Raises `NotFound`, or `BadRecipe` for a
    file that does not run, registers nothing, or takes a name that another method has.
    """
    return [_load(Path(path).expanduser()) for path in paths]


def require_plugins(method: str, recorded: Sequence[Mapping[str, str]], loaded: Sequence[Mapping[str, str]]) -> None:
    """Raises `BadRecipe` unless the plugins that a recipe records are those that were loaded."""
    hashes = {plugin["file"]: plugin["sha256"] for plugin in loaded}
    for plugin in recorded:
        name = plugin["file"]
        if name not in hashes:
            raise BadRecipe(
                f"The recipe uses the method {method} of a plugin, {name}, and no recipe runs code by itself.",
                f"Say --plugin {name}, if you have it and trust it.",
            )
        if hashes[name] != plugin["sha256"]:
            raise BadRecipe(
                f"{name} is not what it was when this recipe was written: its sha256 is {hashes[name][:12]}..., "
                f"and was {plugin['sha256'][:12]}...",
                "Give the file as it was, or delete `plugins` from the recipe to use it as it is now.",
            )


def _load(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise NotFound(f"There is no plugin {path}.", "Give a Python file on this machine.")
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    before = dict(METHODS), dict(ALIASES)
    for name in [name for name, method in METHODS.items() if method.plugin == str(path.resolve())]:
        del METHODS[name]
        for alias in [alias for alias, target in ALIASES.items() if target == name]:
            del ALIASES[alias]
    kept = set(METHODS)
    try:
        _run(path, source)
        added = [name for name in METHODS if name not in kept]
        if not added:
            raise BadRecipe(
                f"{path} registers no method.", "Decorate a function with fusehub.methods.merge_method(NAME, ...)."
            )
        for name in added:
            METHODS[name] = replace(
                METHODS[name], plugin=str(path.resolve()), merge=_guarded(METHODS[name], path.name)
            )
    except FuseHubError:
        for registry, was in zip((METHODS, ALIASES), before, strict=True):
            registry.clear()
            registry.update(was)
        raise
    return {"file": path.name, "sha256": digest}


def _run(path: Path, source: bytes) -> None:
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise BadRecipe(f"{path}, line {error.lineno}: {error.msg}.", "Correct the file.") from error
    except Exception as error:  # Whatever the user's own code raises is theirs to see, with its line.
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise BadRecipe(
            f"{path} fails when it is loaded: {type(error).__name__}: {error} ({Path(line.filename).name}, "
            f"line {line.lineno}).",
            "Choose another name for the method." if "merge methods are called" in str(error) else "Correct the file.",
        ) from error


def _guarded(method: Method, filename: str) -> Any:
    """The method's function, whose faults are told as the plugin's."""

    def merge(layer: Layer, options: Any) -> Merged:
        import torch

        try:
            merged = method.merge(layer, options)
        except FuseHubError:
            raise
        except Exception as error:  # As above.
            line = traceback.extract_tb(error.__traceback__)[-1]
            raise BadRecipe(
                f"{filename}: {method.name} fails on {layer.name}: {type(error).__name__}: {error} "
                f"({Path(line.filename).name}, line {line.lineno}).",
                "Correct the plugin.",
            ) from error
        merged = Merged(merged) if isinstance(merged, torch.Tensor) else merged
        if not isinstance(merged, Merged) or merged.tensor.shape != layer.tensors[0].shape:
            made = list(merged.tensor.shape) if isinstance(merged, Merged) else type(merged).__name__
            raise BadRecipe(
                f"{filename}: {method.name} makes {made} of {layer.name}, not {list(layer.tensors[0].shape)}.",
                "Return a tensor of the shape of layer.tensors[0].",
            )
        return merged

    return merge

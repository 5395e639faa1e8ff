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

import contextlib
import hashlib
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from fusehub.errors import BadRecipe, FuseHubError, NotFound
from fusehub.methods.base import Layer, Merged, Method, Note
from fusehub.methods.cost import Cost
from fusehub.methods.registry import ALIASES, METHODS, NameTaken
from fusehub.utils.folders.places import require_ordinary


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
    require_ordinary(path)
    if not path.is_file():
        raise NotFound(f"There is no plugin {path}.", "Give a Python file on this machine.")
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    methods, aliases = dict(METHODS), dict(ALIASES)
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
            METHODS[name] = _guarded(METHODS[name], path)
    except FuseHubError:
        METHODS.clear()
        METHODS.update(methods)
        ALIASES.clear()
        ALIASES.update(aliases)
        raise
    return {"file": path.name, "sha256": digest}


def _run(path: Path, source: bytes) -> None:
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise BadRecipe(f"{path}, line {error.lineno}: {error.msg}.", "Correct the file.") from error
    except NameTaken as error:
        raise BadRecipe(f"{path} cannot be loaded, as {error}.", "Choose another name for the method.") from error
    except Exception as error:  # Whatever the user's own code raises is theirs to see, with its line.
        raise BadRecipe(f"{path} fails when it is loaded: {_with_line(error)}", "Correct the file.") from error


def _guarded(method: Method, path: Path) -> Method:
    """The method, whose functions' faults are told as the plugin's."""

    def merge(layer: Layer, options: Any) -> Merged:
        import torch

        with _told(method, path, f"on {layer.name}"):
            merged = method.merge(layer, options)
        merged = Merged(merged) if isinstance(merged, torch.Tensor) else merged
        if not isinstance(merged, Merged) or merged.tensor.shape != layer.tensors[0].shape:
            made = list(merged.tensor.shape) if isinstance(merged, Merged) else type(merged).__name__
            raise BadRecipe(
                f"{path.name}: {method.name} makes {made} of {layer.name}, not {list(layer.tensors[0].shape)}.",
                "Return a tensor of the shape of layer.tensors[0].",
            )
        if odd := [note for note in merged.notes if not isinstance(note, Note)]:
            raise BadRecipe(
                f"{path.name}: {method.name} notes {odd[0]!r} of {layer.name}, which is no Note.",
                "Give notes as fusehub.methods.Note(KIND, TEXT).",
            )
        if layer.biases and (merged.bias is None or merged.bias.shape != layer.biases[0].shape):
            raise BadRecipe(
                f"{path.name}: {method.name} is to solve the bias of {layer.name} too, and returns none of its shape.",
                "Return Merged(tensor, bias), or correct what biases_with says.",
            )
        return merged

    def factors(layer: Layer, options: Any) -> list[float]:
        assert method.factors is not None
        with _told(method, path, f"to give its factors of {layer.name}"):
            found = [float(factor) for factor in method.factors(layer, options)]
        if len(found) != len(layer.coefficients) or not all(map(math.isfinite, found)):
            raise BadRecipe(
                f"{path.name}: {method.name} gives the factors {found} of {layer.name}, whose models are "
                f"{len(layer.coefficients)}.",
                "Return one finite number for each of layer.coefficients.",
            )
        return found

    def cost(models: int, numel: int, inputs: int) -> Cost:
        assert method.cost is not None
        with _told(method, path, "to tell its cost"):
            found = method.cost(models, numel, inputs)
            return Cost(int(found.memory), int(found.multiplications))

    return replace(
        method,
        plugin=str(path.resolve()),
        merge=merge,
        factors=factors if method.factors else None,
        cost=cost if method.cost else None,
    )


@contextlib.contextmanager
def _told(method: Method, path: Path, when: str) -> Iterator[None]:
    """Has whatever a plugin's function raises told as the plugin's fault, with its line."""
    try:
        yield
    except FuseHubError:
        raise
    except Exception as error:  # As above.
        raise BadRecipe(
            f"{path.name}: {method.name} fails {when}: {_with_line(error)}", "Correct the plugin."
        ) from error


def _with_line(error: Exception) -> str:
    line = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(line.filename).name}, line {line.lineno})."

"""All that FuseHub needs of transformers and transformers does not promise: how names in files become parameters.

transformers 5 renames, fuses and takes apart tensors when it loads a file, by tables that are its own business. A
merge must know them, as it works on the files. They are asked for here and nowhere else; `KNOWN` are the versions
whose answers are held to this by tests/unit/test_transformers_internals.py. Where another version has changed one of
them, an `Incompatible` says which, and which versions work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from fusehub.errors import Incompatible, first_line
from fusehub.hub.remembered import keep, recall, versions

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

KNOWN = ("5.21", "5.23")
"""The oldest and the newest version that this was tried with."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class StoredName(NamedTuple):
    """Where a tensor of a file goes: the name that it has as it is merged, and the parameters made of it."""

    merged_as: str
    parameters: tuple[str, ...]


class Fused(NamedTuple):
    """A parameter [experts, rows, in] that is stacked from matrices: the ends of their names, "*" for the expert."""

    ending: str
    sources: tuple[str, ...]


def _internal(what: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Says what is no longer as it was, where a function meets a version that has changed it."""

    def mark(function: Callable[_P, _T]) -> Callable[_P, _T]:
        @wraps(function)
        def asked(*args: _P.args, **options: _P.kwargs) -> _T:
            try:
                return function(*args, **options)
            except (ImportError, AttributeError, TypeError, LookupError) as error:
                import transformers

                raise Incompatible(
                    f"transformers {transformers.__version__} does not tell {what} as FuseHub asks for it "
                    f"({first_line(error)}).",
                    f'Use a version that works: pip install "transformers>={KNOWN[0]},<={KNOWN[1]}.99"',
                ) from error

        return asked

    return mark


@_internal("which class a config is made into")
def model_class(architecture: str) -> Callable[..., PreTrainedModel] | None:
    """What makes a model of random numbers from a config, and in the dtype that is said; None for a class that
    transformers does not have."""
    import transformers

    return getattr(getattr(transformers, architecture, None), "_from_config", None)


def is_its_own(config: PretrainedConfig) -> bool:
    """Whether the config's class and that of its model are of transformers itself, and not put into it by others."""
    import transformers

    kinds = (type(config), getattr(transformers, (config.architectures or [""])[0], None))
    return all(getattr(kind, "__module__", "").partition(".")[0] == "transformers" for kind in kinds)


@_internal("which parameters it keeps in float32 whatever the model is loaded in")
def kept_wide(model: PreTrainedModel, dtype: torch.dtype) -> list[str]:
    """The names of those parameters, where the model is loaded in `dtype`."""
    patterns = [pattern.replace("*", ".*") for pattern in model._get_dtype_plan(dtype)]
    return [name for name, _ in model.named_parameters() if any(re.search(pattern, name) for pattern in patterns)]


@_internal("how the names in a file become parameters")
def stored_names(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, StoredName]:
    """Each name in a file that the model has a use for -> where transformers loads it.

    A tensor that is fused with others, or taken apart, is merged under a name of its own: the one in the file, with
    what transformers renames in it.
    """
    from transformers.core_model_loading import apply_renamings, rename_source_key

    renamings, converters = _conversions(model)
    by_source = {source: own for own in converters for source in own.source_patterns}
    known = model.state_dict()
    prefix = model.base_model_prefix
    result: dict[str, StoredName] = {}
    for name in stored:
        target, converter = rename_source_key(name, renamings, converters, prefix, known)
        if target not in known and name in known:
            target, converter = name, None
        if target not in known:
            continue
        if converter is None:
            result[name] = StoredName(target, (target,))
            continue
        first, *others = map(_plain, by_source[converter].target_patterns)
        made = (target, *(target.replace(first, other) for other in others))
        result[name] = StoredName(_prefixed(apply_renamings(name, renamings), target, prefix), made)
    return result


@_internal("which tensors it fuses")
def fused(model: PreTrainedModel) -> list[Fused]:
    """The weights that transformers makes of several: stacked, after being put one below the other.

    Weights that are made in any other way are not among them.
    """
    from transformers.core_model_loading import Concatenate, MergeModulelist

    found = []
    for converter in _conversions(model)[1]:
        stacked = [type(operation) for operation in converter.operations]
        sources, targets = converter.source_patterns, converter.target_patterns
        joined = stacked == [MergeModulelist, Concatenate] and converter.operations[1].dim == 1
        if len(targets) == 1 and (joined or (stacked == [MergeModulelist] and len(sources) == 1)):
            found.append(Fused(_plain(targets[0]), tuple(map(_plain, sources))))
    return found


@_internal("which parameters share their numbers")
def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """A parameter's name -> the one whose storage it shares."""
    return dict(model.all_tied_weights_keys or {})


@_internal("which tensors of a file it has no use for")
def left_over(model: PreTrainedModel) -> tuple[str, ...]:
    """Expressions for names that files have and the model computes by now, or has no use for."""
    return tuple(model._keys_to_ignore_on_load_unexpected or ())


@_internal("which tensors a file may lack")
def may_be_missing(model: PreTrainedModel) -> tuple[str, ...]:
    """Expressions for names that a file need not have."""
    return tuple(model._keys_to_ignore_on_load_missing or ())


@_internal("which classes of models there are for a task")
def classes_of(mapping: str) -> Mapping[str, Any]:
    """Model type -> class name, as in the table `mapping` of `transformers.models.auto.modeling_auto`."""
    question = [mapping, versions("transformers")]
    if (told := recall("classes", question)) is None:
        from transformers.models.auto import modeling_auto

        keep("classes", question, told := dict(getattr(modeling_auto, mapping)))
    table: Mapping[str, Any] = told
    return table


def _conversions(model: PreTrainedModel) -> tuple[list[Any], list[Any]]:
    """What transformers does to the tensors of a file when it loads this model: renamings, and all else."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    return renamings, [rule for rule in rules if isinstance(rule, WeightConverter)]


def _plain(pattern: str) -> str:
    """The end of a name that transformers writes as a regular expression."""
    return pattern.replace("\\", "").strip("^$")


def _prefixed(name: str, target: str, prefix: str) -> str:
    """`name` with or without the base model's prefix, as its `target` has it."""
    prefix = f"{prefix}."
    if target.startswith(prefix) == name.startswith(prefix):
        return name
    return f"{prefix}{name}" if target.startswith(prefix) else name.removeprefix(prefix)

"""Would transformers load this whole? A checkpoint's tensors held against the class that its config names.

Every parameter of the class must be there in its shape: with a row for each label and each token that the config
counts. What is missing would be random numbers, in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from fusehub.models.checkpoints.wrappers import wrappers_in
from fusehub.models.known.layouts import layout_for
from fusehub.models.layout import Layout
from fusehub.models.ref import ModelRef
from fusehub.models.side_files import tokenizer_files
from fusehub.models.tensor_files import TensorInfo
from fusehub.models.vocabularies import is_free
from fusehub.utils.findings import Finding, incompatible

# What quantisation stores beside or instead of a weight: GPTQ and AWQ, bitsandbytes, fp8.
_QUANTISED = re.compile(r"\.(qweight|qzeros|absmax|quant_map|quant_state\S*|SCB|weight_format|weight_scale(_inv)?)$")


def require_complete(ref: ModelRef, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises `Incompatible` where the model cannot be loaded whole from these `tensors`, with the cause."""
    found = [f for f in shortcomings(ref.name, layout_for(ref), tensors) if f.level == "error"]
    if found:
        raise incompatible(found)


def shortcomings(name: str, layout: Layout, tensors: Mapping[str, TensorInfo]) -> list[Finding]:
    """What keeps the model called `name` from being loaded whole: errors; and a note of what would be left over."""
    if empty := _empty(layout, tensors):
        return [_emptied(name, empty)]
    unknown, missing = layout.unknown(tensors), layout.missing(tensors)
    found = list(_odd_shapes(name, layout, tensors))
    if missing:
        found.append(_incomplete(name, layout, unknown, missing))
    elif unknown:
        found.append(
            Finding(
                "tensors-left-over",
                "note",
                f"{name} has {some(unknown)}, which {layout.architecture} has no use for: left out.",
            )
        )
    return found


def base_shortcomings(name: str, layout: Layout, tensors: Mapping[str, TensorInfo]) -> list[Finding]:
    """The same of a base that experts with this `layout` are compared with: it may have another head, or none."""
    if empty := _empty(layout, tensors):
        return [_emptied(name, empty)]
    if any(layout.in_body(parameter) for parameter in layout.names(tensors).values()):
        return []
    return [_incomplete(name, layout, layout.unknown(tensors), layout.missing(tensors))]


def stored_by_some(
    layout: Layout, names: Sequence[str], tensors: Sequence[Mapping[str, TensorInfo]]
) -> Iterator[Finding]:
    """An error for every tensor of numbers that a checkpoint may lack, and that only some of the models have.

    What the others begin with instead is in the code of their class, and no file tells it. `tensors` are
    those of each of the models called `names`, which have one `layout`.
    """
    stored = [{parameter for name, parameter in layout.optional(own).items() if own[name].is_float} for own in tensors]
    for parameter in sorted(set().union(*stored)):
        lacking = [name for name, own in zip(names, stored, strict=True) if parameter not in own]
        if lacking and not layout.tied_with(parameter):
            having = next(name for name, own in zip(names, stored, strict=True) if parameter in own)
            yield Finding(
                "tensors-in-some",
                "error",
                f"{having} has {parameter}, and {', '.join(lacking)} has not: transformers gives it the numbers that "
                "a new model begins with.",
                f"Load {lacking[0]} with transformers and save it again (save_pretrained): then the file has it.",
            )


def some(items: Sequence[str], most: int = 4) -> str:
    """The first few of `items`, and how many more there are."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def _empty(layout: Layout, tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Tensors without any numbers, of parameters that have some."""
    names = layout.names(own for own, info in tensors.items() if not info.numel)
    return [own for own, parameter in names.items() if 0 not in (layout.shape_of(parameter) or ())]


def _emptied(name: str, empty: Sequence[str]) -> Finding:
    return Finding(
        "tensors-empty",
        "error",
        f"{name} has tensors without any numbers ({some(empty)}): so DeepSpeed (ZeRO-3) saves a model whose weights "
        "are spread over processes.",
        "Gather them first: zero_to_fp32.py, which lies beside such checkpoints, or stage3_gather_16bit_weights_on_"
        "model_save.",
    )


def _incomplete(name: str, layout: Layout, unknown: Sequence[str], missing: Sequence[str]) -> Finding:
    """Parameters are missing; the names that the class does not know tell why."""
    kind = layout.architecture
    if any(_QUANTISED.search(own) for own in unknown):
        return Finding(
            "quantised",
            "error",
            f"{name} has {some(unknown)}: it is quantised.",
            "Use the repo with the original float weights.",
        )
    if any(".lora_" in own or ".base_layer." in own for own in unknown):
        return Finding(
            "names-unknown",
            "error",
            f"{name} has {some(unknown)}: it was saved with an adapter in it that was not merged.",
            "Merge it with peft's merge_and_unload() and save again, or give BASE+ADAPTER.",
        )
    if cause := wrappers_in(unknown):
        return Finding(
            "names-unknown",
            "error",
            f"{name} lacks {some(missing)}: {cause}; without that they are still not those of {kind}.",
            "Save the model that is inside the wrapper, and not the wrapper's state_dict.",
        )
    if unknown:
        return Finding(
            "names-unknown",
            "error",
            f"{name}: the names of its tensors are not those of {kind}, which config.json names: it has "
            f"{some(unknown)}, and lacks {some(missing)}.",
            "Is this the config of these weights? Give the files that were saved together.",
        )
    if set(missing) == set(layout.output) - {*layout.embeddings}:
        return Finding(
            "tensors-missing",
            "error",
            f"{name} lacks {some(missing)}, and its config says that it does not share the embeddings "
            "(tie_word_embeddings false): transformers would fill it with random numbers.",
            "If it was trained with shared embeddings, say so in config.json: tie_word_embeddings true.",
        )
    head = not any(layout.in_body(parameter) for parameter in missing)
    return Finding(
        "tensors-missing",
        "error",
        f"{name} lacks {some(missing)}: transformers would fill {'it' if len(missing) == 1 else 'them'} with random "
        "numbers.",
        "Use a checkpoint that was fine-tuned for the task, head included."
        if head
        else "Is the upload or the download complete? Save the whole model once more.",
    )


def _odd_shapes(name: str, layout: Layout, tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    """Tensors of other shapes than the config gives them, told by what the axis that differs counts."""
    rest = []
    kinds: dict[str, Finding] = {}
    for stored, parameter in layout.names(tensors).items():
        shape, wanted = tensors[stored].shape, layout.shape_of(parameter)
        if wanted is None or shape == wanted:
            continue
        if _differ_only(shape, wanted, layout.label_axes.get(parameter)):
            axis = layout.label_axes[parameter]
            kinds.setdefault("head-differs", _head(name, stored, shape[axis], wanted[axis]))
        elif _differ_only(shape, wanted, layout.token_axes.get(parameter)):
            axis = layout.token_axes[parameter]
            kinds.setdefault("vocab-size-differs", _tokens(name, stored, shape[axis], wanted[axis]))
        else:
            rest.append(f"{stored} {list(shape)} instead of {list(wanted)}")
    yield from kinds.values()
    if rest:
        yield Finding(
            "config-does-not-fit",
            "error",
            f"{name} has tensors of other shapes than its config gives them: {some(rest)}.",
            "Is this the config of these weights? Give the files that were saved together.",
        )


def _head(name: str, stored: str, rows: int, labels: int) -> Finding:
    return Finding(
        "head-differs",
        "error",
        f"{name}: its head has {rows} rows ({stored}), and its config counts {labels} label{'s' * (labels != 1)}.",
        f"Put the names of all {rows} into id2label in config.json, numbered from 0 in the order of the rows.",
    )


def _tokens(name: str, stored: str, rows: int, counted: int) -> Finding:
    return Finding(
        "vocab-size-differs",
        "error",
        f"{name} has rows for {rows} tokens ({stored}), and its config says vocab_size {counted}.",
        f"Write vocab_size {rows} into config.json if its tokenizer is the one of these weights.",
    )


def _differ_only(one: Sequence[int], other: Sequence[int], axis: int | None) -> bool:
    """Whether two shapes differ along `axis` alone."""
    if axis is None or len(one) != len(other):
        return False
    return all(a == b for at, (a, b) in enumerate(zip(one, other, strict=True)) if at != axis)


def without_rows(
    ref: ModelRef, layout: Layout, tensors: Mapping[str, TensorInfo], tokens: Mapping[str, int] | None
) -> list[str]:
    """The `tokens` (token -> id) that have no row among the embeddings.

    But for those that stand for an image or a sound, as a model of texts alone is never given them, and for those that
    none of its files has: transformers' class of the tokenizer adds its own special tokens to any vocabulary.
    """
    rows = rows_of(layout, tensors)
    if rows is None or tokens is None:
        return []
    beyond = sorted((number, token) for token, number in tokens.items() if number >= rows and not is_free(token))
    if not beyond:
        return []
    placeholders, told = _placeholders(ref), _tokenizer_text(ref)
    return [token for _, token in beyond if token not in placeholders and (not told or _is_in(token, told))]


def beyond_rows(name: str, tokens: Sequence[str]) -> Finding:
    """The tokenizer of the model called `name` knows these `tokens`, which its weights have no row for."""
    return Finding(
        "tokens-without-rows",
        "error",
        f"The tokenizer of {name} knows tokens that its embeddings have no row for: {some(tokens)}.",
        "Use the tokenizer of these weights, or call resize_token_embeddings(len(tokenizer)) before training.",
    )


def rows_of(layout: Layout, tensors: Mapping[str, TensorInfo]) -> int | None:
    """How many tokens the stored embeddings have a row for; None for models that take no tokens."""
    for stored, parameter in layout.names(tensors).items():
        if parameter in layout.embeddings:
            return tensors[stored].shape[0]
    return None


def _tokenizer_text(ref: ModelRef) -> str:
    """What the tokenizer's files say, one after the other; "" where one of them is no text."""
    own = ref.tokenizer_ref
    try:
        return "\n".join(own.path(name).read_text(encoding="utf-8") for name in tokenizer_files(own.files))
    except UnicodeDecodeError:
        return ""


def _is_in(token: str, text: str) -> bool:
    """Whether a file names a token, as JSON or as it is."""
    return token in text or any(json.dumps(token, ensure_ascii=ascii)[1:-1] in text for ascii in (True, False))


def _placeholders(ref: ModelRef) -> set[str]:
    """Tokens in whose place a larger model of the family puts what is no text, by the tokenizer's config."""
    if "tokenizer_config.json" not in ref.files:
        return set()
    said = ref.owner("tokenizer_config.json").json("tokenizer_config.json")
    named = [said, said.get("extra_special_tokens")] if isinstance(said, dict) else []
    return {
        value
        for own in named
        if isinstance(own, dict)
        for key, value in own.items()
        if re.fullmatch(r"(image|audio|video)_token", key) and isinstance(value, str)
    }

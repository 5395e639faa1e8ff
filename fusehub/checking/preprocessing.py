"""Whether models prepare their inputs alike: a text becomes the same numbers, and they mean the same tokens, in all;
images are scaled one way."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fusehub.checking.tokenizers import differences
from fusehub.errors import FuseHubError, Incompatible
from fusehub.hub.remembered import code_of, keep, recall, versions
from fusehub.models.layout import meta_model
from fusehub.models.loading import (
    load_processor,
    load_tokenizer,
    no_tokenizer,
    quiet_transformers,
    strange_files,
    tokenizer_or_reason,
)
from fusehub.models.resolve import ModelRef
from fusehub.models.side_files import VOCABULARIES, has_vocabulary, tokenizer_files
from fusehub.models.tasks import find_task, load_config
from fusehub.models.tensor_files import sha256_of
from fusehub.models.vocabularies import clash, is_free, known_to
from fusehub.utils.findings import Finding, Level

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase


# What turns files into a tokenizer.
_MAKERS = ("transformers", "tokenizers", "sentencepiece", "tiktoken", "protobuf", "mistral-common")
_CODE = (
    "fusehub.checking.preprocessing",
    "fusehub.checking.tokenizers",
    "fusehub.models.vocabularies",
    "fusehub.models.loading",
    "fusehub.models.side_files",
    "fusehub.utils.untrusted.limits",
)


class Vocabularies:
    """The tokenizers of models, each loaded once; models whose files are the same have one.

    Which tokens one has is remembered from run to run, so that it is loaded only where more is asked of it.
    """

    def __init__(self) -> None:
        self._files: dict[str, dict[str, str]] = {}
        self._keys: dict[str, tuple[str, ...]] = {}
        self._loaded: dict[tuple[str, ...], PreTrainedTokenizerBase] = {}
        self._failed: dict[tuple[str, ...], FuseHubError] = {}
        self._tokens: dict[tuple[str, ...], dict[str, int]] = {}

    def read(self, ref: ModelRef) -> list[Finding]:
        """Reads the model's; what went wrong with its files is a finding, and the model then has none."""
        if _takes_images(ref):
            return []
        owner = ref.tokenizer_ref
        try:
            hashes = {
                name: owner.files[name].sha256 or sha256_of(owner.path(name)) for name in tokenizer_files(owner.files)
            }
        except FuseHubError as error:
            return [Finding("unreadable", "error", error.what, error.fix)]
        # Where the files do not say what kind it is, the config does.
        kind = (str(ref.config.get("model_type")), str(ref.config.get("tokenizer_class")))
        key = self._keys[ref.id] = (*kind, *(f"{name} {sha256}" for name, sha256 in hashes.items()))
        self._files[ref.id] = hashes
        if key not in self._tokens and key not in self._failed:
            try:
                self._tokens[key] = self._vocabulary(ref, key)
            except FuseHubError as error:
                self._failed[key] = error
        return []

    def _vocabulary(self, ref: ModelRef, key: tuple[str, ...]) -> dict[str, int]:
        """Token -> id. Raises what `load_tokenizer` raises."""
        question = self.question(ref)
        told = recall("tokens", question)
        if told is None:
            found = tokenizer_or_reason(ref)
            if not isinstance(found, str):
                self._loaded[key] = found
            told = {"lacks": found} if isinstance(found, str) else {"tokens": dict(found.get_vocab())}
            keep("tokens", question, told)
        if "lacks" in told:
            raise no_tokenizer(ref, told["lacks"])
        tokens: dict[str, int] = told["tokens"]
        return tokens

    def question(self, *refs: ModelRef) -> list[Any]:
        """All that decides what the tokenizers of these models are, and do."""
        return [[self._keys[ref.id] for ref in refs], versions(*_MAKERS), code_of(*_CODE)]

    def loaded(self, ref: ModelRef) -> PreTrainedTokenizerBase | None:
        """The model's tokenizer; None where there is none that can be loaded."""
        key = self._keys.get(ref.id, ())
        if key in self._tokens and key not in self._loaded:
            self._loaded[key] = load_tokenizer(ref)
        return self._loaded.get(key)

    def failure(self, ref: ModelRef) -> FuseHubError | None:
        """Why the model's tokenizer cannot be loaded; None where it can, or nothing was read."""
        return self._failed.get(self._keys.get(ref.id, ()))

    def of(self, ref: ModelRef) -> dict[str, int] | None:
        """Token -> id, added tokens included; None where there is no tokenizer that can be loaded."""
        return self._tokens.get(self._keys.get(ref.id, ()))

    def same_files(self, one: ModelRef, other: ModelRef) -> bool:
        """Whether both have all their files alike."""
        return self._keys.get(one.id) == self._keys.get(other.id)

    def clash(self, one: ModelRef, other: ModelRef) -> str | None:
        """What number means different tokens in both, for a person; None where none does, or it is not known.

        Of tokenizers that cannot be loaded the files of the vocabulary must be the same.
        """
        mine, theirs = self.of(one), self.of(other)
        if mine is not None and theirs is not None:
            return None if mine is theirs else clash(mine, theirs)
        files = [self._files.get(ref.id, {}) for ref in (one, other)]
        differing = [n for n in files[0] if n in VOCABULARIES and n in files[1] and files[0][n] != files[1][n]]
        return f"the files differ ({', '.join(differing)})" if differing else None

    def fit(self, one: ModelRef, other: ModelRef) -> bool:
        """Whether a number means the same token in both, or nothing in one of them."""
        known = self.of(one) is not None and self.of(other) is not None
        return self.same_files(one, other) or (known and self.clash(one, other) is None)

    def largest(self, refs: Sequence[ModelRef], unfit: Container[str] = ()) -> int:
        """Which model knows the most tokens; of several the one with the most rows, then the first.

        `unfit` are the ids of those whose tokenizer does not fit their weights: taken only where there is no other.
        """
        sizes = [len(known_to(self.of(ref) or {})) for ref in refs]
        rows = [ref.config.get("vocab_size") or 0 for ref in refs]
        fits = [ref.id not in unfit for ref in refs]
        return max(range(len(sizes)), key=lambda index: (fits[index], sizes[index], rows[index], -index))


def tokenizer_for(ref: ModelRef, others: Sequence[ModelRef]) -> ModelRef:
    """Whose tokenizer a result has that is otherwise like `ref`: the first of `others` where `ref` has none."""
    have = (other for other in (ref, *others) if has_vocabulary(other.tokenizer_ref.files))
    return next(have, ref)


def input_findings(refs: Sequence[ModelRef], base: ModelRef | None, vocabularies: Vocabularies) -> Iterator[Finding]:
    """What differs between the inputs that the models and their base are made for."""
    if all(map(_takes_images, refs)):
        yield from _image_processors(refs)
        return
    everyone = [*refs, *([base] if base else [])]
    for ref in refs:
        if (error := vocabularies.failure(ref)) is not None:
            other = tokenizer_for(ref, everyone)
            fix = f"The result has that of {other.name}: was {ref.name} trained with it?"
            fix = error.fix if other is ref else fix
            yield Finding("no-tokenizer", "warning", error.what, fix)
    for other in everyone[1:]:
        yield from _tokenizers(refs[0], other, vocabularies, is_base=other is base)
    yield from _padding(refs, vocabularies)


def _tokenizers(first: ModelRef, other: ModelRef, vocabularies: Vocabularies, *, is_base: bool) -> Iterator[Finding]:
    if difference := vocabularies.clash(first, other):
        yield Finding(
            "vocabulary-differs",
            "error",
            f"{first.name} and {other.name} have different vocabularies: {difference}.",
            "The same number must mean the same token in all models: merge models of one tokenizer.",
        )
        return
    if vocabularies.same_files(first, other) or vocabularies.of(first) is None or vocabularies.of(other) is None:
        return
    question = vocabularies.question(first, other)
    if recall("tokenizers", question) is not None:
        return
    found = list(_differing(first, other, vocabularies, is_base=is_base))
    if not found:
        keep("tokenizers", question, "alike")
    yield from found


def _differing(first: ModelRef, other: ModelRef, vocabularies: Vocabularies, *, is_base: bool) -> Iterator[Finding]:
    """What tokenizers do otherwise whose vocabularies fit, when they are run."""
    mine, theirs = vocabularies.loaded(first), vocabularies.loaded(other)
    assert mine is not None and theirs is not None  # Their tokens are known.
    yield from _added(first, other, vocabularies)
    for found in differences(mine, theirs, (first.name, other.name)):
        # A chat template has the special tokens in it, so that what is put around other texts matters less.
        grave = not is_base and (found.grave or (found.is_around and not _generates(first)))
        level: Level = "error" if grave else "warning"
        fix = "Merge models of one tokenizer." if grave else "The result does it as the model whose tokenizer it has."
        yield Finding("tokenizer-differs", level, f"{found.what}.", fix)
    settings = [("chat template", "chat_template"), ("side on which texts are padded", "padding_side")]
    if differing := [words for words, name in settings if getattr(mine, name, None) != getattr(theirs, name, None)]:
        yield Finding(
            "tokenizer-settings",
            "note",
            f"{first.name} and {other.name} have another {' and another '.join(differing)}; the same text becomes the "
            "same numbers.",
        )


def _added(first: ModelRef, other: ModelRef, vocabularies: Vocabularies) -> Iterator[Finding]:
    """The tokens that only one of both has."""
    known = {ref.name: vocabularies.of(ref) or {} for ref in (first, other)}
    for mine, theirs in ((first, other), (other, first)):
        only = [token for token in known_to(known[mine.name]) if token not in known[theirs.name]]
        if only:
            shown = ", ".join(only[:4]) + (", ..." if only[4:] else "")
            free = {number for token, number in known[theirs.name].items() if is_free(token)}
            kept = any(known[mine.name][token] in free for token in only)
            yield Finding(
                "tokens-added",
                "note",
                f"{mine.name} knows {len(only)} token{'s' * (len(only) > 1)} more than {theirs.name} ({shown})"
                + ("; their numbers are free there." if kept else "."),
            )


def _padding(refs: Sequence[ModelRef], vocabularies: Vocabularies) -> Iterator[Finding]:
    """Embeddings that are filled up with rows of no token, to another number in some models than in others."""
    rows = {ref.name: (ref.config.get("vocab_size"), vocabularies.of(ref)) for ref in refs}
    padded = {name: (count, len(known)) for name, (count, known) in rows.items() if known and isinstance(count, int)}
    if len({count for count, _ in padded.values()}) > 1 and any(count > known for count, known in padded.values()):
        told = ", ".join(f"{name} has {count} rows for {known} tokens" for name, (count, known) in padded.items())
        yield Finding("embeddings-padded", "note", f"{told}: the rows beyond the tokens mean nothing.")


def _takes_images(ref: ModelRef) -> bool:
    return "image_size" in ref.config and "vocab_size" not in ref.config


def _generates(ref: ModelRef) -> bool:
    architectures = ref.config.get("architectures") or [""]
    task = find_task(str(architectures[0]), str(ref.config.get("model_type")))
    return task is not None and task.continues


def _image_processors(refs: Sequence[ModelRef]) -> Iterator[Finding]:
    """Images that are scaled in another way are other inputs to the same weights."""
    name = "preprocessor_config.json"
    said = [ref.json(name) if name in ref.files else None for ref in refs]
    first = said[0]
    for ref, own in zip(refs, said, strict=True):
        if own is not None and find_spec("PIL") is not None:
            question = [own, ref.config, versions("transformers", "torch", "pillow"), code_of(*_CODE)]
            try:
                if recall("processors", question) is None:
                    _require_own_size(ref, load_processor(ref))
                    keep("processors", question, "sound")
            except FuseHubError as error:
                yield Finding("unreadable", "error", error.what, error.fix)
                continue
        differing = [key for key, value in own.items() if value != first.get(key)] if own and first else []
        if own is None:
            yield Finding(
                "image-processor-missing",
                "warning",
                f"{ref.name} has no {name}.",
                "Copy it from its base: it says how images are scaled.",
            )
        elif differing:
            yield Finding(
                "image-processor-differs",
                "warning",
                f"{refs[0].name} and {ref.name} prepare images differently ({', '.join(differing)}).",
                "The result does it as the first one.",
            )


def _require_own_size(ref: ModelRef, processor: BaseImageProcessor) -> None:
    """Raises `Incompatible` where images of all sizes become those of one that the model cannot take, while it takes
    the one that its config says; many take any."""
    from PIL import Image

    with quiet_transformers(), strange_files(ref.name, "its preprocessor_config.json"):
        made = [processor(images=[Image.new("RGB", size)], return_tensors="pt") for size in ((32, 32), (48, 40))]
    shapes = {tuple(own["pixel_values"].shape) for own in made}
    said = ref.config["image_size"]
    sides = [said, said] if isinstance(said, int) else said
    if len(shapes) > 1 or not isinstance(sides, list) or len(sides) != 2:
        return
    [shape] = shapes
    own = (*shape[:-2], *sides)
    if shape == own:
        return
    model = meta_model(load_config(ref))
    if _takes(model, own) and not _takes(model, shape):
        raise Incompatible(
            f"{ref.name}: its preprocessor_config.json makes images of {shape[-1]} by {shape[-2]} pixels, and by its "
            f"config.json it takes those of {sides[1]} by {sides[0]}.",
            "Copy preprocessor_config.json from the model's base into its repo.",
        )


def _takes(model: PreTrainedModel, shape: tuple[int, ...]) -> bool:
    """Whether a model without numbers can be run on pixels of this shape, (1, channels, height, width)."""
    import torch

    try:
        with torch.inference_mode():
            model(pixel_values=torch.empty(shape, device="meta"))
    except Exception:  # What a shape that does not fit leads to is the model's own.
        return False
    return True

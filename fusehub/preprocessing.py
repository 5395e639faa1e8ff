"""Whether models prepare their inputs alike: a number is the same token in all, and images are scaled one way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fusehub.errors import FuseHubError
from fusehub.findings import Finding
from fusehub.refs import ModelRef
from fusehub.vocabularies import is_beginning, lower_cases, vocabulary_difference, vocabulary_of


class Vocabularies:
    """The vocabularies of models, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, int] | str | None] = {}

    def read(self, ref: ModelRef) -> list[Finding]:
        """Reads the model's; what went wrong is a finding, and the model then has none."""
        try:
            self._known[ref.id] = vocabulary_of(ref)
        except FuseHubError as error:
            return [Finding("unreadable", "error", error.what, error.fix)]
        return []

    def of(self, ref: ModelRef) -> dict[str, int] | str | None:
        """Token -> id, or a hash of the whole (see `vocabulary_of`); None where there is none that can be read."""
        return self._known.get(ref.id)

    def fit(self, one: ModelRef, other: ModelRef) -> bool:
        """Whether a number means the same token in both, or nothing in one of them."""
        mine, theirs = self.of(one), self.of(other)
        return mine is not None and (is_beginning(mine, theirs) or is_beginning(theirs, mine))

    def largest(self, refs: Sequence[ModelRef]) -> int:
        """Which model knows the most tokens; of several the one with the most rows, then the first."""
        sizes = [len(known) if isinstance(known := self.of(ref), dict) else 0 for ref in refs]
        rows = [ref.config.get("vocab_size") or 0 for ref in refs]
        return max(range(len(sizes)), key=lambda index: (sizes[index], rows[index], -index))


def input_findings(refs: Sequence[ModelRef], base: ModelRef | None, vocabularies: Vocabularies) -> Iterator[Finding]:
    """What differs between the inputs that the models and their base are made for."""
    if all("image_size" in ref.config and "vocab_size" not in ref.config for ref in refs):
        yield from _image_processors(refs)
        return
    for ref in refs:
        if vocabularies.of(ref) is None:
            yield Finding(
                "no-tokenizer",
                "warning",
                f"{ref.name} has no tokenizer that can be compared.",
                "Check that it is the same.",
            )
    for other in [*refs[1:], *([base] if base else [])]:
        if found := _tokenizers(refs[0], other, vocabularies):
            yield found


def _tokenizers(first: ModelRef, other: ModelRef, vocabularies: Vocabularies) -> Finding | None:
    mine, theirs = vocabularies.of(first), vocabularies.of(other)
    if mine is None or theirs is None:
        return None
    if mine != theirs and vocabularies.fit(first, other):
        small, large = sorted((first, other), key=lambda ref: len(vocabularies.of(ref)))
        return Finding(
            "tokens-added",
            "note",
            f"{large.name} knows {abs(len(mine) - len(theirs))} tokens more than {small.name}: their rows are merged"
            " over the models that have them.",
        )
    if mine != theirs:
        return Finding(
            "vocabulary-differs",
            "error",
            f"{first.name} and {other.name} have different vocabularies: {vocabulary_difference(mine, theirs)}.",
            "The same number must mean the same token in all models: merge models of one tokenizer.",
        )
    cases = [lower_cases(ref) for ref in (first, other)]
    if cases[0] != cases[1] and None not in cases:
        return Finding(
            "tokenizer-differs",
            "error",
            f"One of {first.name} and {other.name} lower-cases its input and the other does not.",
            "Merge models of one tokenizer.",
        )
    return None


def _image_processors(refs: Sequence[ModelRef]) -> Iterator[Finding]:
    """Images that are scaled in another way are other inputs to the same weights."""
    name = "preprocessor_config.json"
    said = [ref.json(name) if name in ref.files else None for ref in refs]
    for ref, own in zip(refs, said, strict=True):
        differing = [key for key in own or {} if said[0] and own[key] != said[0].get(key)]
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

"""What a model's tokenizer files say: which tokens there are, and whether text is lower-cased first."""

from __future__ import annotations

from fusehub.refs import ModelRef
from fusehub.tensor_files import sha256_of


def vocabulary_of(ref: ModelRef) -> dict[str, int] | str | None:
    """Token -> id, added tokens included; a hash for a sentencepiece model alone; None where there is no tokenizer."""
    if "tokenizer.json" in ref.files:
        stored = ref.json("tokenizer.json")
        tokens = stored.get("model", {}).get("vocab", {})
        if isinstance(tokens, list):  # Unigram models list (token, score) pairs.
            tokens = {token: index for index, (token, _) in enumerate(tokens)}
        added = {token["content"]: token["id"] for token in stored.get("added_tokens", [])}
        return {**tokens, **added}
    if "vocab.txt" in ref.files:
        lines = ref.path("vocab.txt").read_text(encoding="utf-8").splitlines()
        return {token: index for index, token in enumerate(lines)}
    if "vocab.json" in ref.files:
        return {
            **ref.json("vocab.json"),
            **(ref.json("added_tokens.json") if "added_tokens.json" in ref.files else {}),
        }
    for name in ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model"):
        if name in ref.files:
            return sha256_of(ref.path(name))
    return None


def lower_cases(ref: ModelRef) -> bool | None:
    """Whether the tokenizer lower-cases its input; None where its config does not say."""
    if "tokenizer_config.json" not in ref.files:
        return None
    said = ref.json("tokenizer_config.json").get("do_lower_case")
    return said if isinstance(said, bool) else None


def is_beginning(smaller: dict[str, int] | str | None, larger: dict[str, int] | str | None) -> bool:
    """Whether `larger` is `smaller` with tokens added at its end (or the same): no number means two things."""
    if not isinstance(smaller, dict) or not isinstance(larger, dict):
        return smaller == larger
    if not all(larger.get(token) == number for token, number in smaller.items()):
        return False
    last = max(smaller.values(), default=-1)
    return all(number > last for token, number in larger.items() if token not in smaller)


def vocabulary_difference(mine: dict[str, int] | str, theirs: dict[str, int] | str) -> str:
    """In what two vocabularies that are not the same differ, for a person."""
    if isinstance(mine, str) or isinstance(theirs, str):
        return "the files differ"
    if len(mine) != len(theirs):
        return f"{len(mine)} tokens against {len(theirs)}"
    token = next(token for token, index in mine.items() if theirs.get(token) != index)
    return f"'{token}' is {mine[token]} in one and {theirs.get(token, 'missing')} in the other"

"""Findings: kinds of them by their codes, one finding, and what a merge may go on with although it is dangerous."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fusehub.errors import Action, Incompatible, unknown

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Kind:
    """One kind of finding: what it is about, and whether a merge may go on although it is an error.

    `ignorable` are those where what is computed could be sensible all the same. A result that could not be loaded, or
    whose meaning is unknown, is not made whatever is said.
    """

    about: str
    ignorable: bool = False


CODES = {
    "unreadable": Kind("A file of the model cannot be read, or is not of a kind that can be merged."),
    "quantised": Kind("The weights are quantised, in a way that is not read."),
    "float8": Kind("The weights are stored in float8, and read as what they mean."),
    "no-header": Kind("Shapes are seen only once the model is downloaded."),
    "architecture-differs": Kind("The models are of different architectures."),
    "config-differs": Kind("A key of the configs that changes what is computed differs.", ignorable=True),
    "names-unknown": Kind("Names in the file are not those of the model's parameters."),
    "names-wrapped": Kind("What a wrapper (torch.compile, DDP, FSDP) put into the names is taken off."),
    "tensors-missing": Kind("Parameters are not in the file, and would be random numbers."),
    "tensors-in-some": Kind("A tensor that a file may lack is in some of the files only."),
    "tensors-empty": Kind("Tensors have no numbers."),
    "tensors-left-over": Kind("The file has tensors that the model has no use for."),
    "head-differs": Kind("The head has other rows than the config counts labels."),
    "vocab-size-differs": Kind("The embeddings have other rows than the config counts tokens."),
    "config-does-not-fit": Kind("Tensors have other shapes than the config gives them."),
    "tokens-without-rows": Kind("The tokenizer knows tokens that the embeddings have no row for.", ignorable=True),
    "shapes-differ": Kind("Tensors of the same name have different shapes."),
    "dtype-differs": Kind("The models are stored in different dtypes."),
    "labels": Kind("What the heads' rows mean: how they are matched, or why they cannot be."),
    "labels-alike": Kind("Labels of different models look like one, and become rows of their own."),
    "labels-by-position": Kind("No model names its labels: rows of the heads are matched by their position."),
    "heads-kept": Kind("Each expert keeps its own head."),
    "adapter-base-differs": Kind("An adapter is put on another base than it was trained on.", ignorable=True),
    "lineage-differs": Kind("The models say that they come from different bases.", ignorable=True),
    "card-unreadable": Kind("The front matter of a card is broken: license and base are not known from it."),
    "license-conflict": Kind("Two of the models' licenses do not allow to share what is made of both."),
    "license-unclear": Kind("A model's license is not stated or not known, or its terms hold beside another's."),
    "license-forbids": Kind("A license forbids publishing the result."),
    "license-result": Kind("The license of the result."),
    "restricted": Kind("A model is gated or private."),
    "same-model-twice": Kind("A model goes in more than once."),
    "no-tokenizer": Kind("A model has no tokenizer, or none that can be loaded."),
    "tokens-added": Kind("One model knows tokens more than another."),
    "embeddings-padded": Kind("Embeddings are filled up with rows that mean nothing."),
    "vocabulary-differs": Kind("The same number means different tokens.", ignorable=True),
    "tokenizer-differs": Kind("The same text becomes different numbers.", ignorable=True),
    "tokenizer-settings": Kind("Tokenizers differ in what does not change the numbers of a text."),
    "image-processor-missing": Kind("A model does not say how its images are prepared."),
    "few-texts": Kind("Statistics are of so few texts that a merge follows these texts, rather than their kind."),
    "image-processor-differs": Kind("The models prepare images differently."),
}
"""Every kind of finding by its code. Behaviour depends on codes and levels, never on the words of a message."""


def document() -> str:
    """All kinds of findings as Markdown, for docs/findings.md."""
    lines = ["| code | what was found | can be ignored |", "| --- | --- | --- |"]
    lines += [
        f"| `{code}` | {kind.about} | {f'`--ignore {code}`' if kind.ignorable else 'no'} |"
        for code, kind in CODES.items()
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Finding:
    """One thing that was found: its kind, how grave it is, what it is, and what to do about it, by codes too."""

    code: str
    level: Level
    what: str
    fix: str = ""
    actions: tuple[Action, ...] = ()

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"no kind of finding has the code {self.code}")


def incompatible(findings: Sequence[Finding], *fixes: str) -> Incompatible:
    """The error that tells these findings, each once, with what to do about them and `fixes` after that."""
    error = Incompatible(
        "\n".join(dict.fromkeys(finding.what for finding in findings)),
        "\n     ".join(dict.fromkeys([*(finding.fix for finding in findings if finding.fix), *fixes])),
        actions=dict.fromkeys(action for finding in findings for action in finding.actions),
    )
    error.codes = tuple(dict.fromkeys(finding.code for finding in findings))
    return error


@dataclass(frozen=True)
class Allowed:
    """What a merge may go on with although it is dangerous: each danger by itself, none switches off another.

    `unrelated`: models whose weights show that they were trained from different bases. `other_weights`: statistics
    that were made for other weights. `ignored`: codes of findings that are errors otherwise.
    """

    unrelated: bool = False
    other_weights: bool = False
    ignored: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *, unrelated: bool = False, other_weights: bool = False, ignore: Iterable[str] = ()) -> Allowed:
        """Raises `BadRecipe` for a code that there is not, or that cannot be ignored."""
        possible = [code for code, kind in CODES.items() if kind.ignorable]
        for code in ignore:
            if code not in possible:
                raise unknown("kind of finding that can be ignored", code, possible)
        return cls(unrelated, other_weights, frozenset(ignore))


NOTHING_ALLOWED = Allowed()

"""What a check finds: facts of each model, and findings, from notes to errors, in one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fusehub.checking.heads import LabelPlan
from fusehub.errors import Action
from fusehub.hub.origins import called
from fusehub.utils.findings import CODES, Finding, incompatible
from fusehub.utils.frozen import freeze

# Errors that models of one base do not have.
_OF_OTHERS = frozenset({"config-differs", "shapes-differ", "vocabulary-differs", "tokenizer-differs"})
_OF_KINDS = frozenset({"architecture-differs", "unreadable"})


@dataclass(frozen=True)
class ModelFacts:
    """What a person wants to know of one model before merging it."""

    name: str
    id: str
    task: str | None
    architecture: str | None
    parameters: int | None
    dtypes: tuple[str, ...]
    size: int
    labels: tuple[str, ...]
    license: str | None
    gated: bool
    base: str | None
    statistics: bool


@dataclass(frozen=True)
class Report:
    """All findings about a set of models, and the plan for their labels where there is one.

    Attributes:
        models: What is known of each model.
        findings: Errors, warnings and notes, each with its code.
        labels: How the rows of the heads are matched; None where they cannot be.
        largest: Which model's tokenizer knows the tokens of all others; the first where they are the same.
        knowing_all: The models, by id and the base among them, whose tokens are the same as the largest's.
        download: Bytes of weights that are not on this machine yet.

    Examples:
        >>> report = fusehub.check(["user/expert-1", "user/expert-2"])
        >>> report.labels.labels
        ('negative', 'positive')
        >>> report.require_ok()  # raises `Incompatible` with all errors where there are some
    """

    models: Sequence[ModelFacts]
    findings: Sequence[Finding] = ()
    labels: LabelPlan | None = None
    largest: int = 0
    knowing_all: frozenset[str] = frozenset()
    download: int = 0

    def __post_init__(self) -> None:
        freeze(self, "models", "findings")

    @property
    def ok(self) -> bool:
        """Whether nothing stands against a merge."""
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def ignorable(self) -> list[str]:
        """The codes of all errors, where a merge may go on with every one of them; none else."""
        codes = list(dict.fromkeys(finding.code for finding in self.findings if finding.level == "error"))
        return codes if all(CODES[code].ignorable for code in codes) else []

    def require_ok(self, ignored: Iterable[str] = ()) -> None:
        """Nothing where there are no errors.

        Args:
            ignored: Codes of errors that are passed over.

        Raises:
            Incompatible: All other errors at once, with their codes.

        Examples:
            >>> fusehub.check(["user/expert-1", "user/expert-2"]).require_ok()
        """
        errors = [f for f in self.findings if f.level == "error" and f.code not in ignored]
        if errors:
            can_be = all(CODES[f.code].ignorable for f in errors)
            raise incompatible(errors, *(f"If you know better: --ignore {f.code}" for f in errors if can_be))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, for `--json`.

        Returns:
            `ok`, `models`, `findings`, `labels` (None where they cannot be matched) and `download_bytes`.
        """
        return {
            "ok": self.ok,
            "models": [asdict(model) for model in self.models],
            "findings": [asdict(finding) for finding in self.findings],
            "labels": asdict(self.labels) if self.labels else None,
            "download_bytes": self.download,
        }


def with_ways_out(findings: Sequence[Finding], models: Sequence[ModelFacts]) -> list[Finding]:
    """The findings, of which every error says what can be done: where nothing else can, other models are taken, or
    those are left out that do not fit most of them."""
    codes = {finding.code for finding in findings if finding.level == "error"}
    apart: list[str] = []
    named = {model.name: model.base for model in models}
    if codes & _OF_KINDS:
        apart = _apart(models, [model.architecture or "" for model in models])
    elif codes & _OF_OTHERS:
        # A model that names no base may have that of the others.
        apart = [name for name in _apart(models, [called(model.base or "") for model in models]) if named[name]]
    ways = (Action("leave-out", tuple(apart)),) if apart else ()
    return [
        replace(finding, actions=(*ways, Action("choose-models")))
        if finding.level == "error" and not finding.actions
        else finding
        for finding in findings
    ]


def _apart(models: Sequence[ModelFacts], kinds: Sequence[str]) -> list[str]:
    """The models that are of another kind than most of them; none where most are of none that is known."""
    kind, count = Counter(kinds).most_common(1)[0]
    if not kind or 2 * count <= len(models):
        return []
    return [model.name for model, own in zip(models, kinds, strict=True) if own != kind]

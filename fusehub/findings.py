"""What a check finds: facts of each model, and findings, from notes to errors, in one report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fusehub.errors import Incompatible
from fusehub.labels import LabelPlan

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found: how grave it is, what it is, and what to do about it."""

    level: Level
    what: str
    fix: str = ""


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
    licence: str | None
    gated: bool
    base: str | None
    statistics: bool


@dataclass
class Report:
    """All findings about a set of models, and the plan for their labels where there is one."""

    models: list[ModelFacts]
    findings: list[Finding] = field(default_factory=list)
    labels: LabelPlan | None = None
    largest: int = 0
    """Which model's tokenizer knows the tokens of all others; the first where they are the same."""
    download: int = 0
    """Bytes of weights that are not on this machine yet."""

    @property
    def ok(self) -> bool:
        """Whether nothing stands against a merge."""
        return not any(finding.level == "error" for finding in self.findings)

    def require_ok(self) -> None:
        """Raises `Incompatible` with all errors at once."""
        errors = [finding for finding in self.findings if finding.level == "error"]
        if errors:
            raise Incompatible(
                "\n".join(finding.what for finding in errors),
                "\n     ".join(dict.fromkeys(finding.fix for finding in errors if finding.fix)),
            )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, for `--json`."""
        return {
            "ok": self.ok,
            "models": [asdict(model) for model in self.models],
            "findings": [asdict(finding) for finding in self.findings],
            "labels": asdict(self.labels) if self.labels else None,
            "download_bytes": self.download,
        }

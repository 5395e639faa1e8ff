"""Under what terms a merge of these models stands, and whether they let it be shared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fusehub.hub.licenses import license_of, reconcile
from fusehub.models.resolve import ModelRef
from fusehub.utils.findings import Finding


def terms_findings(refs: Sequence[ModelRef]) -> Iterator[Finding]:
    """What the licenses of the models and of their adapters' bases say of the result, and who may read them."""
    # What an adapter makes of its base is under the terms of both.
    everyone = [*refs, *(ref.parts.base for ref in refs if ref.parts)]
    verdict = reconcile({ref.name: license_of(ref.card) for ref in everyone}.items())
    for ref in everyone:
        if ref.card_trouble:
            yield Finding(
                "card-unreadable",
                "warning",
                f"{ref.card_trouble} What it says of license and base is not known.",
                "Mend the YAML between the lines of three dashes.",
            )
    for warning in verdict.warnings:
        yield Finding("license-unclear", "warning", warning)
    for conflict in verdict.conflicts:
        yield Finding(
            "license-conflict",
            "warning",
            f"The result may not be shared: {conflict}.",
            "Keep it to yourself, or leave one of them out.",
        )
    if verdict.forbids_publishing:
        yield Finding(
            "license-forbids", "warning", f"The result may not be published: {verdict.why}.", "Keep it to yourself."
        )
    elif verdict.license:
        yield Finding("license-result", "note", f"License of the result: {verdict.license} ({verdict.why}).")
    for ref in refs:
        if ref.gated or ref.private:
            kind = "gated" if ref.gated else "private"
            what = f"{ref.name} is {kind}: what is made of it is published as private by default."
            yield Finding("restricted", "note", what)

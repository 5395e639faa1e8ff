"""What data has for the models of a visit, which it knows by names of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fusehub


def preview(
    models: Mapping[str, fusehub.ModelRef],
    token: str | None,
    *,
    source: str,
    labelled: bool,
    text_column: str | None,
    label_column: str | None,
) -> dict[str, Any]:
    """The preview as plain data, but for its `problems`, which are errors as raised. Scores are of the split `test`,
    statistics of `train`."""
    seen = fusehub.preview_data(
        source, [*models.values()], labelled=labelled, default_split="test" if labelled else "train",
        text_column=text_column, label_column=label_column, token=token,
    )  # fmt: skip
    names = {ref.name: name for name, ref in models.items()}
    problems, warnings = list(seen.problems), list(seen.warnings)
    for ref, name in names.items():
        problems = [problem.retold(problem.what.replace(ref, name)) for problem in problems]
        warnings = [warning.replace(ref, name) for warning in warnings]
    labels = {names[ref]: own for ref, own in seen.labels.items()}
    return seen.to_dict() | {"labels": labels, "warnings": warnings, "problems": problems}

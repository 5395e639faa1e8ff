"""What a merge will be as a model: its config, and whether transformers would load it whole; told before it is made.

Models can be whole each by itself, and what is made of them not: this asks of the result what was asked of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fusehub.checking.heads import LabelPlan
from fusehub.checking.report import Report
from fusehub.merging.donors import Donors
from fusehub.merging.planner import Planned, TensorPlan
from fusehub.models.completeness import beyond_rows, shortcomings, without_rows
from fusehub.models.known.layouts import layout_for
from fusehub.models.loading import load_tokenizer
from fusehub.models.quantised.configs import KEY as QUANTISATION
from fusehub.models.quantised.float8 import FLOAT8, said_in_config
from fusehub.models.tensor_files import DTYPES, TensorInfo
from fusehub.models.ties import config_with_ties
from fusehub.utils.findings import Allowed, Finding, incompatible

_NOT_OF_THE_RESULT = (
    # How the donor's weights are stored is not how those of the result are.
    *("_name_or_path", "torch_dtype", QUANTISATION),
    # What computes on the machine of a model's author may not be there on another: the result does not load then.
    *("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"),
)


def config_of_result(
    donors: Donors, labels: LabelPlan, tensors: Mapping[str, TensorPlan], written: Iterable[str]
) -> dict[str, Any]:
    """The config.json of the merge: that of the `donors`, with the merged labels, rows of tokens and dtype, and with
    what it ties as it is in a file of the tensors `written`."""
    config = {key: value for key, value in donors.merged_config().items() if key not in _NOT_OF_THE_RESULT}
    if labels.policy == "merge" and labels.labels:
        config["id2label"] = {str(row): label for row, label in enumerate(labels.labels)}
        config["label2id"] = {label: row for row, label in enumerate(labels.labels)}
        for key in ("num_labels", "_num_labels"):
            if key in config:
                config[key] = len(labels.labels)
    # A base may have other rows than the experts, whose number the result has.
    size = vocabulary_size(tensors) or donors.tokenizer.config.get("vocab_size")
    if size is not None and "vocab_size" in config:
        config["vocab_size"] = size
    written = list(written)
    stored = {tensor.info.dtype for tensor in tensors.values() if tensor.info.is_float}
    if len(stored) == 1:
        config["dtype"] = DTYPES[stored.pop()][0]
    # What tells tokens from what was computed is in no file where it is the embeddings.
    if narrow := {name for name, tensor in tensors.items() if tensor.info.dtype == FLOAT8}:
        apart = _modules([*written, *layout_for(donors.config).output]) - _modules(narrow)
        config[QUANTISATION] = said_in_config(apart)
    return config_with_ties(donors.config, config, written)


def _modules(parameters: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[0] for name in parameters}


def vocabulary_size(tensors: Mapping[str, TensorPlan]) -> int | None:
    """Rows of the merged embeddings where models know different numbers of tokens; None where they do not."""
    return max((max(tensor.token_rows) for tensor in tensors.values() if tensor.token_rows), default=None)


def require_whole(donors: Sequence[Donors], decided: Planned, report: Report, allowed: Allowed) -> None:
    """Raises `Incompatible` where a model that the merge would write could not be loaded whole, with the cause.

    `donors` are those of each model that it writes: of one, or of every expert that keeps its head.
    """
    tensors = decided.tensors
    merged = {name: tensor.info for name, tensor in tensors.items() if not tensor.is_head}
    found = [
        finding
        for own, kept, infos in zip(donors, decided.kept, decided.headers, strict=False)
        for finding in _shortcomings(own, report, tensors, merged | {name: infos[name] for name in kept})
        if finding.level == "error" and finding.code not in allowed.ignored
    ]
    if found:
        raise incompatible(found)


def _shortcomings(
    donors: Donors, report: Report, tensors: Mapping[str, TensorPlan], infos: Mapping[str, TensorInfo]
) -> list[Finding]:
    """What is wrong with the model that has the tensors `infos`, and config and tokenizer of the `donors`."""
    assert report.labels is not None  # Without, nothing is planned.
    config = config_of_result(donors, report.labels, tensors, infos)
    layout = layout_for(donors.config, config)
    found = shortcomings(f"What would be made with the config of {donors.config.name}", layout, infos)
    if any(finding.code == "no-header" for finding in report.findings):
        # Weights that had no header are seen for the first time.
        beyond = without_rows(donors.tokenizer, layout, infos, load_tokenizer(donors.tokenizer).get_vocab())
        found += [beyond_rows(donors.tokenizer.name, beyond)] if beyond else []
    return found

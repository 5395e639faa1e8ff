"""Files beside config and weights that the result of a merge takes over: each must be what its name says.

A chat template is text, settings are JSON objects, and transformers must be able to use the config for writing: a
model that writes does not load with a broken one.
"""

from __future__ import annotations

from collections.abc import Iterator

from fusehub.errors import BadFile, FuseHubError, first_line
from fusehub.hub.remembered import code_of, keep, recall, versions
from fusehub.models.chat_templates import template_of
from fusehub.models.loading import quiet_transformers
from fusehub.models.ref import ModelRef
from fusehub.models.tasks import Task, find_task
from fusehub.utils.findings import Finding
from fusehub.utils.untrusted.documents import check_generation_config

GENERATION_CONFIG = "generation_config.json"


def side_findings(ref: ModelRef) -> Iterator[Finding]:
    """An error for each of these files of the model that cannot be read, or not be used."""
    for require in (_require_template, _require_generation):
        try:
            require(ref)
        except FuseHubError as error:
            yield Finding("unreadable", "error", error.what, error.fix, error.actions)
            return
    task = _writing(ref)
    if task is not None and task.decodes and GENERATION_CONFIG in ref.files:
        said = ref.json(GENERATION_CONFIG)
        if said.get("decoder_start_token_id") is None and said.get("bos_token_id") is None:
            yield Finding(
                "unreadable",
                "warning",
                f"{ref.name}: its {GENERATION_CONFIG} does not say with which token it begins to write.",
                "Write decoder_start_token_id into it: transformers' generate refuses to go on without.",
            )


def _require_template(ref: ModelRef) -> None:
    template_of(ref.tokenizer_ref)


def _require_generation(ref: ModelRef) -> None:
    if GENERATION_CONFIG not in ref.files:
        return
    said = ref.json(GENERATION_CONFIG)
    if _writing(ref) is None:
        return  # It is not read then.
    question = [
        said,
        versions("transformers"),
        code_of("fusehub.models.side_documents", "fusehub.utils.untrusted.documents"),
    ]
    if recall("generation", question) is not None:
        return
    from transformers import GenerationConfig

    try:
        with quiet_transformers():
            GenerationConfig.from_dict(check_generation_config(said, ref.name))
        keep("generation", question, "sound")
    except FuseHubError:
        raise
    except Exception as error:  # A value of a wrong kind raises whatever is done with it.
        raise BadFile(
            f"{ref.name}: transformers cannot use its {GENERATION_CONFIG} ({first_line(error)}).",
            "Correct it, or take it away: transformers then writes one itself.",
        ) from error


def _writing(ref: ModelRef) -> Task | None:
    """The task of a model that writes texts; None of one that does not."""
    architecture = str((ref.config.get("architectures") or [""])[0])
    task = find_task(architecture, str(ref.config.get("model_type")))
    return task if task is not None and task.writes else None

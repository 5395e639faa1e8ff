"""The ensemble of several models: which of them make it up, and the mean of what they predict.

    both = ensemble([predict("user/expert-1", texts), predict("user/expert-2", texts)])
    both.answers()     # [("positive", 0.93), ("negative", 0.71)]

It does the work of all its models for every prediction, and is what a merge is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusehub.comparing.prediction import Prediction
from fusehub.comparing.tasks import answers_of
from fusehub.errors import Incompatible, NotFound
from fusehub.models.resolve import ModelRef

ENSEMBLE = "ensemble"


def is_merge(ref: ModelRef) -> bool:
    """Whether the model says, by its files or its card, that it is a merge and so no expert of its own."""
    from fusehub.merging.provenance import REPORT_FILENAME

    if REPORT_FILENAME in ref.files or (ref.folder is not None and (ref.folder.parent / REPORT_FILENAME).is_file()):
        return True
    tags = ref.card.get("tags")
    tags = tags if isinstance(tags, list) else [tags]
    return ref.card.get("base_model_relation") == "merge" or "merge" in tags or "mergekit" in tags


def experts_among(refs: Sequence[ModelRef], names: Sequence[str], wanted: bool | Sequence[str]) -> list[int]:
    """Which models make up the ensemble: those `wanted` by name; with True, all that are no merges themselves."""
    if isinstance(wanted, bool):
        experts = [index for index, ref in enumerate(refs) if not is_merge(ref)] if wanted else []
        return experts if len(experts) > 1 else []
    indices = []
    for name in wanted:
        found = [i for i, ref in enumerate(refs) if name in (names[i], ref.name, ref.repo_id, ref.id)]
        if not found:
            raise NotFound(f"{name} is not among the models.", f"The models are {', '.join(names)}.")
        indices.append(found[0])
    return indices


def ensemble(predictions: Sequence[Prediction], *, name: str = ENSEMBLE) -> Prediction:
    """The mean of the predictions, label by label by name, whatever the order in which each model has them.

    A label that only some models know is averaged over those that do; each row is then scaled to sum to 1 again
    (multi-label and regression are not). Raises `Incompatible` where a model shares no label with the others, and
    where models write texts, which have no mean.
    """
    first = predictions[0]
    for other in predictions[1:]:
        if (other.task, other.problem) != (first.task, first.problem):
            raise Incompatible(
                f"{first.model} ({first.task}, {first.problem}) and {other.model} ({other.task}, {other.problem}) "
                "answer different questions, which have no mean.",
                "Ensemble models of one task.",
            )
        if len(other) != len(first):
            raise ValueError(f"{other.model} has {len(other)} texts, {first.model} has {len(first)}.")
    return answers_of(first.task).mean(predictions, name)

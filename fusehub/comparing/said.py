"""What one model says about some texts, as numbers, and a model that is being asked.

`fusehub.comparing.prediction` has what is public of it; how each task makes and reads these is in
`fusehub.comparing.tasks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.errors import NonFinite
from fusehub.utils.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fusehub.models.resolve import ModelRef

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


@dataclass(frozen=True)
class Said:
    """What one model says about some texts.

    `probabilities` is `[texts, labels]`; for token classification a list with `[words, labels]` for each text, taken
    from each word's first token, where a row of NaN is a word that the model did not see (its text was too long). Of a
    multi-label model every label has a probability of its own; of a regression model they are the predicted numbers.

    For question answering a dict for each text, of the likeliest answers; "" is that there is none, which is an answer
    where it `may_be_none`. For a masked language model [masks, tokens] for each text, whose `labels` are all tokens.
    Models that write texts have none, and what they wrote is in `written`.
    """

    model: str
    task: str
    problem: str
    labels: list[str]
    probabilities: Any
    seconds: float = 0.0
    written: list[str] | None = None
    may_be_none: bool = False

    def __len__(self) -> int:
        return len(self.probabilities if self.written is None else self.written)


@dataclass(frozen=True)
class Asked:
    """A model in memory, and how it is run over texts. `tokenizer` is None of a model of images."""

    ref: ModelRef
    name: str
    task: str
    problem: str
    labels: list[str]
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    max_length: int | None
    batch_size: int
    progress: Progress

    def said(self, probabilities: Any, written: list[str] | None = None) -> Said:
        """What it said, once it has."""
        return Said(self.name, self.task, self.problem, self.labels, probabilities, written=written)

    @property
    def of_texts(self) -> PreTrainedTokenizerBase:
        """The tokenizer of a model that is given texts."""
        assert self.tokenizer is not None
        return self.tokenizer


def embedded(network: PreTrainedModel) -> int:
    """How many tokens the model has a row for."""
    embeddings: Any = network.get_input_embeddings()  # Some classes of transformers' own are no nn.Embedding.
    return embeddings.num_embeddings


def on_device(network: PreTrainedModel, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch, where the model is."""
    return {name: value.to(network.device) for name, value in batch.items()}


def require_numbers(value: Any, name: str) -> Any:
    """`value`, a tensor. Raises `NonFinite` where it holds NaN or infinity."""
    import torch

    if not torch.isfinite(value).all():
        raise _no_numbers(name)
    return value


def require_choices(logits: Tensor, name: str) -> None:
    """Raises `NonFinite` where `logits` [texts, tokens] hold what no token can be chosen by. Minus infinity is how
    some models say that a token never comes, but not of all tokens."""
    import torch

    if (logits.isnan() | logits.isposinf()).any() or not torch.isfinite(logits).any(-1).all():
        raise _no_numbers(name)


def _no_numbers(name: str) -> NonFinite:
    return NonFinite(
        f"{name} predicts NaN or infinity.",
        "Its weights are broken, or its numbers grow too large on these texts: check how it was made.",
    )

"""What a model predicts, as the vectors whose gradients make its Fisher information.

With z the outputs for one example, the diagonal of the Fisher matrix is `Σ_k (∂(v_kᵀ z)/∂θ)²` for any vectors with
`Σ_k v_k v_kᵀ = Cov(∂ log p(y|x) / ∂z)`, y drawn by the model itself. Where labels are few, that covariance is split
exactly: a softmax over C labels needs C − 1 vectors (its Cholesky factor in closed form), one fewer than labels.
Where they are many, y is drawn: `v = ∂ log p(y|x) / ∂z`, so that its square is right on average.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.collecting.finite import require_finite_logits
from fusehub.data.tasks import data_of
from fusehub.utils.devices import fitted, wide

if TYPE_CHECKING:
    from torch import Tensor

# As many labels as this are summed over exactly; the cost is one backward pass a label.
EXACT_LABELS = 10


@dataclass(frozen=True)
class Asked:
    """What is asked of labels: how many are drawn for each example (None chooses), by which seed, and which token says
    what is predicted; and of which model, as errors call it."""

    samples: int | None = None
    seed: int = 0
    mask_token_id: int | None = None
    name: str = "The model"


@dataclass(frozen=True)
class Scores:
    """How the labels of one model are distributed, and how their expectation is taken.

    `draws` is 0 for the exact expectation, else the number of labels drawn for each example (or each of its tokens)
    by `seed` and the example's own number, so that batches do not matter. `family` is `softmax`, `bernoulli`
    (several labels at once) or `gaussian` (regression, variance 1).
    """

    task: str
    family: str
    draws: int
    seed: int
    mask_token_id: int | None = None
    name: str = "The model"
    """What errors call the model."""

    @classmethod
    def of(cls, config: Any, task: str, asked: Asked) -> Scores:
        """Those of a model with that config: the exact expectation where labels are few and nothing is asked for."""
        family, draws = "softmax", asked.samples or 1
        if data_of(task).chooses_label:
            labels = config.num_labels
            said = getattr(config, "problem_type", None)
            if said == "multi_label_classification":
                family = "bernoulli"
            elif said == "regression" or (said is None and labels == 1):
                family = "gaussian"
            if asked.samples is None and labels <= EXACT_LABELS:
                draws = 0
        return cls(task, family, draws, asked.seed, asked.mask_token_id, asked.name)

    @property
    def description(self) -> dict[str, Any]:
        """How the expectation is taken: `kind` (`exact`, over all labels, or `sampled`), draws an example, seed."""
        return {
            "kind": "sampled" if self.draws else "exact",
            "samples": self.draws or None,
            "seed": self.seed if self.draws else None,
        }

    def passes(self, labels: int) -> int:
        """How many backward passes a batch takes, of a model with so many labels."""
        return self.draws or labels - (self.family == "softmax")

    def logits(self, outputs: Any) -> list[Tensor]:
        """What the model's choices are made by: [batch, ...] each."""
        return data_of(self.task).logits(outputs)

    def vectors(
        self, outputs: Any, batch: Mapping[str, Tensor], indices: Sequence[int]
    ) -> Iterator[tuple[list[Tensor], list[Tensor], bool]]:
        """(outputs, their vectors of the same shapes, whether more follow), once for each backward pass.

        `indices` are the numbers of the examples in the whole data. Padding and other positions that are not
        predicted have zeros. Raises `NonFinite` where a prediction holds NaN or infinity.
        """
        logits = self.logits(outputs)
        for own in logits:
            require_finite_logits(own[data_of(self.task).predicted(own, batch, self.mask_token_id)], self.name)
        made = self._exact(logits[0].detach()) if not self.draws else self._drawn(logits, batch, indices)
        upcoming = next(made, None)
        while upcoming is not None:
            current, upcoming = upcoming, next(made, None)
            yield (
                logits,
                [fitted(vector, own) for vector, own in zip(current, logits, strict=True)],
                upcoming is not None,
            )

    def _exact(self, logits: Tensor) -> Iterator[list[Tensor]]:
        import torch

        logits = wide(logits)
        count = logits.shape[-1]
        if self.family == "softmax":
            factor = softmax_factor(logits.softmax(-1))
            yield from ([factor[..., k]] for k in range(count - 1))
            return
        spread = torch.ones_like(logits)
        if self.family == "bernoulli":
            chance = logits.sigmoid()
            spread = (chance * (1 - chance)).sqrt()
        for k in range(count):
            vector = torch.zeros_like(logits)
            vector[:, k] = spread[:, k]
            yield [vector]

    def _drawn(
        self, logits: Sequence[Tensor], batch: Mapping[str, Tensor], indices: Sequence[int]
    ) -> Iterator[list[Tensor]]:
        import torch

        task = data_of(self.task)
        # For each example, one row of random numbers a draw: as many as it has predictions, padding not among them.
        predicted = [task.predicted(own, batch, self.mask_token_id) for own in logits]
        random = []
        for row, index in enumerate(indices):
            # torch uses 32 bits of a seed, so both numbers go into these.
            digest = hashlib.blake2b(f"{self.seed} {index}".encode(), digest_size=4).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
            counts = [int(mask[row].sum()) for mask in predicted]
            drawn = torch.rand(self.draws, sum(counts), generator=generator, dtype=torch.float64)
            random.append(drawn.split(counts, dim=1))
        for draw in range(self.draws):
            vectors = []
            for number, own in enumerate(logits):
                vector = torch.zeros_like(own)
                for row in range(len(own)):
                    numbers = random[row][number][draw]
                    drawn = self._draw(own[row].detach(), predicted[number][row], numbers)
                    vector[row][predicted[number][row]] = fitted(drawn, own)
                vectors.append(vector / self.draws**0.5)
            yield vectors

    def _draw(self, logits: Tensor, predicted: Tensor, numbers: Tensor) -> Tensor:
        """`∂ log p(y|x) / ∂z` at the predicted elements of one example's `logits`, for a y drawn by `numbers`."""
        import torch

        chosen = wide(logits[predicted])
        numbers = numbers.to(chosen.device)
        if self.family == "gaussian":
            # The inverse of the normal distribution function turns uniform numbers into an error of variance 1.
            return torch.special.ndtri(numbers.clamp(1e-12, 1 - 1e-12))
        if self.family == "bernoulli":
            chance = chosen.sigmoid()
            return (numbers < chance).double() - chance
        one_choice = data_of(self.task).one_choice
        if one_choice:
            chosen, numbers = chosen[None], numbers[:1]
        chances = chosen.softmax(-1)
        cumulated = chances.cumsum(-1)
        labels = torch.searchsorted(cumulated, numbers[:, None] * cumulated[:, -1:]).clamp_max_(chances.shape[-1] - 1)
        scores = (-chances).scatter_add_(-1, labels, torch.ones_like(chances[:, :1]))
        return scores[0] if one_choice else scores


def softmax_factor(chances: Tensor) -> Tensor:
    """L with `L Lᵀ = diag(p) − p pᵀ`, the covariance of one drawn label: [..., C] -> [..., C, C − 1].

    Lower triangular and in closed form (Tanabe and Sagae 1992), from what is left of the probability after each
    label, so that nothing cancels where one label is almost sure.
    """
    import torch

    left = chances.flip(-1).cumsum(-1).flip(-1)
    before, after = left[..., :-1], left[..., 1:]
    own = chances[..., :-1]
    diagonal = (own * after / before.clamp_min(1e-300)).sqrt()
    below = (own / (before * after).clamp_min(1e-300)).sqrt()
    factor = -chances[..., :, None] * torch.where(after > 0, below, 0.0)[..., None, :]
    factor = factor.tril(-1)
    factor.diagonal(dim1=-2, dim2=-1).copy_(diagonal)
    return factor

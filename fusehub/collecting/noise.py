"""Statistics with differential privacy for each example: bounded sums, and Gaussian noise on them.

The mechanism is that of Dwork, Talwar, Thakurta, Zhang, "Analyze Gauss" (STOC 2014), symmetric Gaussian noise on
Σ x xᵀ, with the exact calibration of Balle and Wang (ICML 2018), and one example as the unit. An example has many rows
in many layers, and each of its tokens changes all of them, so nothing smaller than an example can be promised:

- In layer l, rows longer than a bound C_l are shortened to it, and an example counts as one row, the mean of its rows.
  So its part of `S` is at most C_l² and its part of `s` at most C_l in norm, however long it is.
- Two data sets of equally many examples, of which one differs, then differ by at most √2·C_l² in `S` (both parts are
  positive semidefinite) and 2·C_l in `s`. All L layers are one release of `S / C_l²` and `s / 2C_l`, whose
  sensitivity is √(3L). Their number of examples is not hidden.
- The bounds are the lengths that rows have on random tokens: they tell of the weights, and nothing of the examples.

The noise comes from the system's cryptographic source and its seed is kept nowhere: who knew it could take it off.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.data.trial import random_batch, vocabulary_of
from fusehub.errors import BadData, FuseHubError
from fusehub.statistics.grams import GramSum, pack, unpack

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from fusehub.models.layout import Linear

# How often the model runs on random tokens to see how long rows are.
_RUNS = 16


@dataclass(frozen=True)
class Noise:
    """How private statistics are to be: (`epsilon`, `delta`)-differentially, for each example.

    Attributes:
        epsilon: Less is more private; above 0, at most 100.
        delta: The chance that the promise does not hold; above 0, at most 0.1.
        clip: Scales the bounds on the length of rows; above 0, at most 100.

    Raises:
        BadData: A value is out of its range.

    Examples:
        >>> private = fusehub.collect("user/expert-1", "user/texts", "private", noise=fusehub.Noise(epsilon=8))
        >>> private.metadata["noise"]["epsilon"]
        8
    """

    epsilon: float
    delta: float = 1e-6
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("epsilon", self.epsilon, 100),
            ("delta", self.delta, 0.1),
            ("clip", self.clip, 100),
        ):
            if not 0 < value <= most:
                raise BadData(f"Noise with {name}={value:g} makes no sense.", f"Give {name} above 0, at most {most}.")

    def describe(self) -> dict[str, Any]:
        """What the metadata of statistics say of it.

        Returns:
            The mechanism, what neighbours are, and ε, δ and the bound.
        """
        return {
            "mechanism": "gaussian",
            "unit": "example",
            "neighbours": "one example replaced",
            "epsilon": self.epsilon,
            "delta": self.delta,
            "clip": self.clip,
        }


class BoundedSum(GramSum):
    """Sums to which no example adds more than `bound`² in `S` and `bound` in `s`; `rows` counts examples."""

    def __init__(self, size: int, bound: float, device: Any = "cpu") -> None:
        super().__init__(size, device)
        self.bound = bound

    def count(self, rows: Tensor, owners: Tensor | None, examples: int, call: int, calls: int) -> None:
        """Counts the rows of the call number `call` of `calls`, of which row i is of the example `owners[i]`.

        None: the rows are the same for every one of the `examples`.
        """
        import torch

        if call >= calls:
            raise FuseHubError(
                "A layer is called more often for some texts than for others: its part cannot be bounded.",
                "Leave out --noise.",
            )
        x = rows.float()
        x = x * (self.bound / x.norm(dim=1, keepdim=True).clamp_min(1e-30)).clamp(max=1)
        if owners is None:
            weights = x.new_full((len(x),), examples / (len(x) * calls))
        else:
            weights = 1 / (torch.bincount(owners, minlength=examples)[owners] * calls).to(x.dtype)
        before = self.total.clone()
        self.add(x * weights.sqrt()[:, None])
        self.total = before + (x * weights[:, None]).sum(0).to(before.device)
        self.rows += (examples if call == 0 else 0) - len(x)


@dataclass(frozen=True)
class NoisySums:
    """What is released of one layer: sums with noise, positive semidefinite again."""

    size: int
    rows: int
    total: Tensor
    matrix: Tensor

    def packed(self) -> Tensor:
        """The upper triangle of `S`, row after row: [in * (in + 1) / 2], float32."""
        return pack(self.matrix).float()


def with_noise(sums: Mapping[str, GramSum], noise: Noise) -> dict[str, NoisySums]:
    """The sums of all layers as they may be published: one release, however many layers there are."""
    deviation = gaussian_deviation(noise.epsilon, noise.delta, math.sqrt(3 * len(sums)))
    return {name: _release(own, deviation) for name, own in sums.items()}


def gaussian_deviation(epsilon: float, delta: float, sensitivity: float) -> float:
    """The least standard deviation of Gaussian noise that makes a vector (`epsilon`, `delta`) private.

    Balle and Wang, theorem 8: δ(σ) = Φ(Δ/2σ − εσ/Δ) − e^ε Φ(−Δ/2σ − εσ/Δ), which falls with σ.
    """
    import torch

    def reached(sigma: float) -> float:
        a, b = 1 / (2 * sigma), epsilon * sigma
        tail = torch.special.log_ndtr(torch.tensor(-a - b, dtype=torch.float64))
        first = torch.special.ndtr(torch.tensor(a - b, dtype=torch.float64))
        return float(first - torch.exp(epsilon + tail))

    low, high = 1e-6, 1.0
    while reached(high) > delta:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) <= delta else (middle, high)
    return high * sensitivity


def _release(sums: GramSum, deviation: float) -> NoisySums:
    import torch

    assert isinstance(sums, BoundedSum)  # Of sums without a bound nothing may be released.
    step = deviation * sums.bound**2
    packed = sums.packed().double()
    gram = unpack(packed + step * _normal(len(packed)), sums.size)
    values, vectors = torch.linalg.eigh(gram)
    # What follows looks at nothing but what was released. Noise alone has eigenvalues up to this: directions within
    # cannot be told from it, and count all the same, so that there a merge falls back to the mean.
    told = values > 2 * step * sums.size**0.5
    values[~told] = values[~told].mean().clamp_min(0) if bool((~told).any()) else 0.0
    if not bool(values.any()):
        values.fill_(step)
    matrix = (vectors * values) @ vectors.T
    total = sums.total.cpu() + 2 * deviation * sums.bound * _normal(sums.size)
    # s sᵀ / n may not be more than S, or no rows could have these sums.
    along = torch.where(values > 0, vectors.T @ total, 0.0)
    excess = float((along.square() / torch.where(values > 0, values, 1.0)).sum()) / max(1, sums.rows)
    return NoisySums(sums.size, sums.rows, vectors @ along / max(1.0, excess) ** 0.5, matrix)


def _normal(count: int) -> Tensor:
    """Standard normal numbers, [count] in float64, from the system's cryptographic source (Box and Muller)."""
    import numpy as np
    import torch

    half = (count + 1) // 2
    raw = np.frombuffer(os.urandom(16 * half), np.uint64).reshape(2, half) >> np.uint64(11)
    radius = np.sqrt(-2 * np.log((raw[0] + 1) * 2.0**-53))
    angle = 2 * np.pi * raw[1] * 2.0**-53
    return torch.from_numpy(np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count])


def row_bounds(
    model: PreTrainedModel,
    linears: Mapping[str, Linear],
    batch: Mapping[str, Tensor],
    clip: float,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """For each linear layer by its weight, `clip` times the median length of its rows on random tokens.

    `batch` tells the shapes; `device` is where the model begins.
    """
    import torch

    lengths: dict[str, list[Tensor]] = {}

    def hook(weight: str) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            lengths.setdefault(weight, []).append(x.float().norm(dim=-1).flatten().cpu())

        return before

    handles = [
        model.get_submodule(linear.module).register_forward_pre_hook(hook(linear.weight), with_kwargs=True)
        for linear in linears.values()
    ]
    vocabulary = vocabulary_of(model)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for run in range(_RUNS):
                made = random_batch(batch, vocabulary, run)
                model(**{name: value.to(device) for name, value in made.items()})
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return {weight: clip * max(float(torch.cat(own).median()), 1e-6) for weight, own in lengths.items()}

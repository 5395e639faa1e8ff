"""Could these be statistics of this model? Held against what its layers are given for random tokens.

Statistics that strangers made decide merged weights, and a file can be sound and still be made up. Texts of a domain
differ from random tokens, but they go through the same embeddings and norms: the mean square of a layer's inputs is of
the same order, and lies on much the same features. Of each linear layer that can be watched:

    scale  = (tr S / n) / (tr S₀ / n₀)        cosine = cos(diag S, diag S₀)        S₀: random tokens

That tells statistics of another layer, model or scale. It does not tell some text from another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from fusehub.data.inputs import Inputs
from fusehub.data.trial import one_example, random_batch, vocabulary_of
from fusehub.errors import Action, BadStatistics
from fusehub.models.layout import layout_of, linears_of
from fusehub.models.loading import load_model
from fusehub.models.resolve import ModelRef
from fusehub.models.tasks import TEXTS, class_name_of, find_task, load_config

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from fusehub.statistics.file import Statistics

# English text in a MiniLM has 0.8 to 3.2 times the mean square of random tokens, at cosines of 0.44 to 1.
_FAR, _TURNED = 30.0, 0.3
# No text makes half of the layers see numbers that are so much larger or smaller.
_ABSURD = 1000.0
# How often the model runs on random tokens.
_RUNS = 8


@dataclass(frozen=True)
class LayerLikeness:
    """One layer's statistics beside random tokens: the ratio of mean squares, the cosine of the features' squares."""

    name: str
    scale: float
    cosine: float

    @property
    def is_far(self) -> bool:
        """Whether texts hardly ever give this."""
        return not 1 / _FAR <= self.scale <= _FAR or self.cosine < _TURNED


@dataclass(frozen=True)
class Likeness:
    """All layers that were compared."""

    layers: Sequence[LayerLikeness]

    @property
    def far(self) -> list[LayerLikeness]:
        """The layers whose statistics are hardly those of texts, the farthest first."""
        return sorted((one for one in self.layers if one.is_far), key=lambda one: (one.cosine, one.name))

    def __str__(self) -> str:
        scale, cosine = (median(getattr(one, key) for one in self.layers) for key in ("scale", "cosine"))
        return (
            f"the mean square of the inputs is {scale:.2g} times that of random tokens, and the cosine of their "
            f"features {cosine:.2f} (medians of {len(self.layers)} layers)"
        )

    def require_possible(self, origin: str, model: str) -> None:
        """Raises `BadStatistics` where no texts could have given them."""
        absurd = [one for one in self.layers if not 1 / _ABSURD <= one.scale <= _ABSURD]
        if 2 * len(absurd) > len(self.layers):
            raise BadStatistics(
                f"The statistics {origin} cannot be of {model}: {self}.",
                f"Make them yourself: `fusehub collect {model} --data DATA --out DIR`.",
                actions=[Action("give-data")],
            )

    def question(self, origin: str, model: str) -> str | None:
        """What has to be said of statistics that look unlike this model's; None where they look like them."""
        if 10 * len(self.far) <= len(self.layers):
            return None
        worst = self.far[0]
        return (
            f"The statistics {origin} look unlike those of {model} in {len(self.far)} of {len(self.layers)} layers: "
            f"{self}; {worst.name}: {worst.scale:.2g} times, cosine {worst.cosine:.2f}. Use them only if you know why."
        )


def compare_with_random(statistics: Statistics, ref: ModelRef) -> Likeness:
    """Runs the model on random tokens (or colours), and compares each layer's inputs with what `statistics` say.

    Takes the memory of the model in float32. Layers of no rows, and matrices of mixtures, are left out.
    """
    import torch

    network = load_model(ref, dtype=torch.float32)
    names = {parameter: name for name, parameter in layout_of(load_config(ref)).names(statistics.layers).items()}
    seen = _squares_on_random(network, ref)
    found = []
    for parameter, (squares, rows) in seen.items():
        layer = statistics.layers.get(names.get(parameter, parameter))
        if layer is None or not layer.rows or layer.size != len(squares):
            continue
        own, expected = layer.diagonal() / layer.rows, squares / rows
        norms = float(own.norm() * expected.norm())
        if norms:
            scale = float(own.sum() / expected.sum())
            found.append(LayerLikeness(layer.name, scale, float(own @ expected) / norms))
        elif float(expected.norm()):
            found.append(LayerLikeness(layer.name, 0.0, 0.0))
    if not found:
        raise BadStatistics(
            f"The statistics {statistics.origin} have none of the layers of {ref.name}.",
            "Give statistics of this model.",
        )
    return Likeness(found)


def _squares_on_random(network: PreTrainedModel, ref: ModelRef) -> dict[str, tuple[Tensor, int]]:
    """For each linear layer by its weight: the sum of squares of its inputs by feature ([in], float64), and rows."""
    import torch

    task = find_task(class_name_of(network.config), str(network.config.model_type))
    inputs = Inputs.of(ref, one_example(TEXTS if task is None else task.name))
    probe, special = inputs.probe(), getattr(inputs.processor, "all_special_ids", [])
    seen: dict[str, tuple[Tensor, int]] = {}

    def hook(weight: str) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            x = x.detach().reshape(-1, x.shape[-1]).double()
            squares, rows = seen.get(weight, (0.0, 0))
            seen[weight] = squares + x.square().sum(0), rows + len(x)

        return before

    handles = [
        network.get_submodule(linear.module).register_forward_pre_hook(hook(linear.weight), with_kwargs=True)
        for linear in linears_of(network, tied=False).values()
    ]
    try:
        with torch.inference_mode():
            for run in range(_RUNS):
                made = random_batch(probe, vocabulary_of(network), run)
                for name in made:
                    if name.endswith("input_ids"):
                        made[name] = _framed(made[name], probe[name], special)
                network(**made)
    finally:
        for handle in handles:
            handle.remove()
    return {weight: (squares, rows) for weight, (squares, rows) in seen.items() if rows}


def _framed(random: Tensor, sentence: Tensor, special: Sequence[int]) -> Tensor:
    """Random tokens with the first and last of a sentence, and no special ones between: models count on both."""
    import torch

    inner = torch.where(torch.isin(random, torch.tensor(list(special))), sentence[:, 1:2], random)
    return torch.cat([sentence[:, :1], inner[:, 1:-1], sentence[:, -1:]], dim=1)

"""Tiny experts of one base, their statistics by way of files, and what RegMean must give, computed another way.

The reference knows nothing of grams: it runs each model on one text at a time, without padding, keeps the raw inputs
of every linear layer, and solves least squares on the stacked rows by numpy's `lstsq` in float64.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from fusehub.merging.recipe import Recipe
from fusehub.models.loading import load_model
from fusehub.models.resolve import resolve
from fusehub.models.tensor_files import sha256_of
from tests.unit.tiny import tiny_model, tiny_texts
from tests.warm import python

LABELS = ("negative", "positive")


def relatives(
    folder: Path,
    arch: str = "bert",
    *,
    labels: Sequence[Sequence[str]] = (LABELS, LABELS),
    noise: float = 0.3,
    dtype: torch.dtype = torch.float32,
    hidden: int = 16,
    **options: object,
) -> list[Path]:
    """One expert for each list of labels, in `folder`/expert-0 and so on, beside their `folder`/base.

    Each is the base with noise of its own, `noise` times as large as the tensor: their cosine is above 0.9. Heads
    of other labels than the base's are drawn anew.
    """
    base = load_file(tiny_model(folder / "base", arch, labels=labels[0], hidden=hidden, **options) / WEIGHTS)
    experts = []
    for number, own in enumerate(labels):
        path = tiny_model(folder / f"expert-{number}", arch, labels=own, seed=number + 1, hidden=hidden, **options)
        random = torch.Generator().manual_seed(100 + number)
        tensors = load_file(path / WEIGHTS)
        for name, value in tensors.items():
            if value.is_floating_point() and value.shape == base[name].shape:
                size = base[name].std() if base[name].numel() > 1 else 1.0
                value = base[name] + noise * size * torch.randn(value.shape, generator=random)
            tensors[name] = value.to(dtype) if value.is_floating_point() else value
        save_weights(path, tensors)
        edit_json(path / "config.json", dtype=str(dtype).removeprefix("torch."))
        experts.append(path)
    return experts


WEIGHTS = "model.safetensors"


def save_weights(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    save_file(dict(tensors), folder / WEIGHTS, metadata={"format": "pt"})


def edit_json(path: Path, *without: str, **changes: object) -> None:
    """Changes some keys of a JSON file and takes others out."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: v for key, v in content.items() if key not in without} | changes))


def texts_of(number: int, count: int = 24) -> list[str]:
    """The texts of expert `number`'s own domain: of another length than the others', so that grams differ."""
    return tiny_texts(count + 3 * number, seed=10 + number, longest=8 + 8 * number)


def text_file(folder: Path, number: int = 0, texts: Sequence[str] | None = None) -> str:
    """A .txt file of texts, one a line."""
    path = folder / f"texts-{number}.txt"
    path.write_text("\n".join(texts_of(number) if texts is None else texts) + "\n", encoding="utf-8")
    return str(path)


def with_statistics(experts: Sequence[Path]) -> list[Path]:
    """Collects the statistics of each expert on its texts into its own folder, where a merge finds them."""
    from fusehub.collecting.collect import collect

    for number, path in enumerate(experts):
        collect(str(path), text_file(path.parent, number), path / "fusehub").close()
    return list(experts)


def recipe_of(
    experts: Sequence[Path],
    method: str = "regmean",
    *,
    weights: Sequence[float] | None = None,
    labels: Mapping[int, Sequence[str]] | None = None,
    statistics: Sequence[Path] | None = None,
    parameters: Mapping[str, object] | None = None,
    **keys: object,
) -> Recipe:
    """The recipe that merges `experts`; `weights` are their coefficients, `labels` names heads anew.

    `statistics` are where each expert's are; without, they are looked for.
    """
    models = []
    for number, path in enumerate(experts):
        entry: dict[str, object] = {"model": str(path)}
        if weights is not None:
            entry["parameters"] = {"weight": weights[number]}
        if statistics is not None:
            entry["statistics"] = str(statistics[number])
        if number in (labels or {}):
            entry["labels"] = labels[number]
        models.append(entry)
    return Recipe.parse({"merge_method": method, "models": models, "parameters": dict(parameters or {}), **keys})


def raw_inputs(expert: Path, texts: Sequence[str], dtype: torch.dtype | None = None) -> dict[str, np.ndarray]:
    """All rows that each linear layer is given, by the name of its weight: float64 [rows, in].

    One text at a time and without padding, so that every row is one that counts.
    """
    from transformers import AutoTokenizer
    from transformers.pytorch_utils import Conv1D

    model = load_model(resolve(str(expert)), dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(expert)
    rows: dict[str, list[np.ndarray]] = {}

    def keep(name):
        def hook(module, args, output):
            x = args[0].detach()
            rows.setdefault(name, []).append(x.reshape(-1, x.shape[-1]).double().numpy())

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            module.register_forward_hook(keep(f"{name}.weight"))
    with torch.no_grad():
        for text in texts:
            model(**tokenizer(text, return_tensors="pt", truncation=True))
    return {name: np.concatenate(own) for name, own in rows.items()}


def least_squares(
    inputs: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    *,
    alpha: float = 0.9,
    weighting: str = "mean",
    coefficients: Sequence[float] | None = None,
    affine: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """RegMean's weight, [out, in], from raw inputs [rows, in] and weights [out, in], by `lstsq` in float64.

    Alpha is what it means for a regression: the data times √α, and one more row a feature, √(1−α) times the length
    of its column. `affine` are the biases: then [out, in + 1]. Where the inputs say nothing, it is the mean.
    """
    weights = [np.asarray(weight, np.float64) for weight in weights]
    if affine is not None:
        inputs = [np.hstack([x, np.ones((len(x), 1))]) for x in inputs]
        weights = [np.hstack([w, np.asarray(b, np.float64)[:, None]]) for w, b in zip(weights, affine, strict=True)]
    mean = np.average(weights, axis=0, weights=coefficients)
    rows, targets = [], []
    for number, (x, weight) in enumerate(zip(inputs, weights, strict=True)):
        x = np.asarray(x, np.float64)
        own = np.vstack([alpha**0.5 * x, (1 - alpha) ** 0.5 * np.diag(np.linalg.norm(x, axis=0))])
        share = (1 if coefficients is None else coefficients[number]) / (len(x) if weighting == "mean" else 1)
        rows.append(share**0.5 * own)
        targets.append(share**0.5 * own @ (weight - mean).T)
    return mean + np.linalg.lstsq(np.vstack(rows), np.vstack(targets), rcond=None)[0].T


def rel(a: object, b: object) -> float:
    """‖a − b‖ / ‖b‖."""
    a, b = (np.asarray(value.double() if isinstance(value, torch.Tensor) else value, np.float64) for value in (a, b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder, from one file or many."""
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def mean_of(experts: Sequence[Path], name: str, weights: Sequence[float] | None = None) -> torch.Tensor:
    """The mean of the tensor called `name`, float64."""
    weights = weights or [1.0] * len(experts)
    values = [w * weights_of(path)[name].double() for w, path in zip(weights, experts, strict=True)]
    return sum(values) / sum(weights)


def files_of(folder: Path) -> dict[str, str]:
    """Every file in a folder with its sha256."""
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def leftovers(folder: Path) -> list[str]:
    """Whatever lies in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


def run_python(
    code: str, *args: object, env: Mapping[str, str] | None = None, fresh: bool = False, **options: object
) -> subprocess.CompletedProcess[str]:
    """`code` in a process of its own, on one thread: on several, torch may sum in another order.

    `fresh` has it import all by itself.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    command = [*([sys.executable] if fresh else python()), "-c", code, *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, **options)

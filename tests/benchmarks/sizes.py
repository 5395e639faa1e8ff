"""What each size of statistics costs and loses.

    python tests/benchmarks/sizes.py FOLDER [--seeds 0 1 2] [--limit 1000] [--shapes-only]

First, for the shapes of BERT-base (a classifier with two labels): bytes as a part of the weights, counted; and, timed
on one gram of its largest layer, what writing and reading cost beside that layer's solve.

Then, on the demo's three experts: bytes as a part of theirs, the difference of all merged weights to those from full
statistics, and the mean over the domains of the accuracy on each one's test set. `FOLDER` holds experts
(`experts/DOMAIN-seedN`) and texts (`data/DOMAIN`) of the demo; what is missing is trained and written there first,
about two minutes an expert on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fusehub.collecting.collect import collect
from fusehub.comparing.evaluate import evaluate
from fusehub.demo.corpus import encoder_folder, sentiment, write_dataset
from fusehub.demo.training import train_expert
from fusehub.merging.merge import merge
from fusehub.merging.recipe import Recipe
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.resolve import resolve
from fusehub.statistics.encodings import SIZES, decode, encode, encoding_of
from fusehub.statistics.file import Statistics, stored_bytes
from fusehub.statistics.resizing import resize_statistics
from fusehub.utils.symmetric import whole

DOMAINS = ("products", "films", "editorials")
# BertForSequenceClassification of bert-base-uncased with two labels, in float32.
BERT_BASE = 109_483_778 * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--shapes-only", action="store_true")
    said = parser.parse_args()
    shapes()
    if not said.shapes_only:
        demo(said.folder, said.seeds, said.limit)


@dataclass
class Sums:
    """A gram of rows that are correlated, off their mean, and of features of unlike scales."""

    size: int
    rows: int
    total: torch.Tensor
    gram: torch.Tensor

    @classmethod
    def drawn(cls, size: int, rows: int = 8000) -> Sums:
        random = torch.Generator().manual_seed(0)
        x = torch.randn(rows, size // 8, generator=random) @ torch.randn(size // 8, size, generator=random)
        x = x * torch.rand(size, generator=random) + 0.3 * torch.randn(rows, size, generator=random) + 0.5
        gram = x.T @ x
        return cls(size, rows, x.sum(0), torch.cat([gram[row, row:] for row in range(size)]))

    def packed(self) -> torch.Tensor:
        return self.gram


def shapes() -> None:
    """Prints sizes and times for BERT-base."""
    layers = {"bert.pooler.dense.weight": 768, "classifier.weight": 768}
    for block in range(12):
        layers |= {f"bert.encoder.layer.{block}.{number}.weight": 768 for number in range(3)}
        layers[f"bert.encoder.layer.{block}.output.dense.weight"] = 3072
    drawn = {size: Sums.drawn(size) for size in (768, 3072)}
    large = "bert.encoder.layer.0.output.dense.weight"
    print(f"{'BERT-base':10} {'of weights':>10} {'write s':>8} {'read s':>8} {'solve s':>8}")
    for size in SIZES:
        nbytes = sum(stored_bytes(encoding_of(name, drawn[inputs], size), inputs) for name, inputs in layers.items())
        encoding = encoding_of(large, drawn[3072], size)
        started = time.perf_counter()
        stored = encode(drawn[3072], encoding)
        written = time.perf_counter()
        gram = whole(decode(encoding, stored.__getitem__, 3072, torch.float64), 3072, torch.float64)
        read = time.perf_counter()
        _solve(gram)
        solved = time.perf_counter()
        times = (written - started, read - written, solved - read)
        print(f"{size:10} {nbytes / BERT_BASE:10.4f} " + " ".join(f"{value:8.2f}" for value in times))


def _solve(gram: torch.Tensor) -> None:
    """What a merge does with one expert's gram of the largest layer once it is read."""
    scale = gram.diagonal().rsqrt()
    right = gram @ torch.randn(3072, 768, dtype=torch.float64)
    gram.mul_(scale[:, None]).mul_(scale).mul_(0.9).diagonal().fill_(1.0)
    torch.cholesky_solve(right, torch.linalg.cholesky(gram))


def demo(folder: Path, seeds: list[int], limit: int) -> None:
    """Prints what merges of the demo's experts by statistics of each size differ in."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as temporary:
            experts, data = prepared(folder, seed)
            for size, made in one_seed(experts, data, Path(temporary), limit):
                rows.setdefault(size, []).append(made)
                print(f"seed {seed} {size:8} {made[0]:8.4f} {made[1]:10.2e} {made[2]:9.4f}", flush=True)
    print(f"\n{'size':10} {'of weights':>10} {'difference':>11} {'in domain':>10} {'lost points':>12}")
    full = sum(row[2] for row in rows["full"])
    for size, made in rows.items():
        part, difference, score = (sum(column) / len(made) for column in zip(*made, strict=True))
        print(f"{size:10} {part:10.4f} {difference:11.1e} {score:10.4f} {100 * (full / len(made) - score):12.2f}")


def prepared(folder: Path, seed: int) -> tuple[list[Path], list[Path]]:
    """The experts and the texts of all domains, made where they are not there."""
    experts = [folder / "experts" / f"{name}-seed{seed}" for name in DOMAINS]
    data = [folder / "data" / name for name in DOMAINS]
    if not all(path.exists() for path in (*experts, *data)):
        domains = sentiment(folder / "cache")
        for name, expert, texts in zip(DOMAINS, experts, data, strict=True):
            if not texts.exists():
                write_dataset(domains[name], texts)
            if not expert.exists():
                expert.parent.mkdir(parents=True, exist_ok=True)
                train_expert(encoder_folder(), domains[name], expert, seed=seed)
    return experts, data


def one_seed(
    experts: list[Path], data: list[Path], root: Path, limit: int
) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Each size (and the mean, which needs none) with its part of the weights, difference and accuracy."""
    weights = sum(path.stat().st_size for path in experts[0].glob("*.safetensors"))
    for expert, texts in zip(experts, data, strict=True):
        collect(str(expert), str(texts / "train.jsonl"), root / "full" / expert.name, limit=limit, size="full").close()
    for size in (*SIZES, "mean"):
        entries: list[dict[str, str]] = [{"model": str(expert)} for expert in experts]
        part = 0.0
        if size != "mean":
            for expert, entry in zip(experts, entries, strict=True):
                at = root / size / expert.name
                if size != "full":
                    resize_statistics(str(root / "full" / expert.name), at, size=size).close()
                with contextlib.closing(Statistics(at / "statistics.safetensors")) as statistics:
                    part = statistics.nbytes / weights
                entry["statistics"] = str(at)
        out = root / "merged" / size
        method = "mean" if size == "mean" else "regmean"
        merge(Recipe.parse({"merge_method": method, "models": entries}), out)
        scores = evaluate([str(out)], {path.name: str(path / "test.jsonl") for path in data})
        yield size, (part, difference(out, root / "merged" / "full"), next(iter(scores.mean().values())))


def difference(one: Path, other: Path) -> float:
    """‖a − b‖ / ‖b‖ over all the weights of two models together."""
    between = length = 0.0
    with Checkpoint(resolve(str(one))) as a, Checkpoint(resolve(str(other))) as b:
        for name in b:
            if b.tensors[name].is_float:
                between += float((a[name].double() - b[name].double()).square().sum())
                length += float(b[name].double().square().sum())
    return (between / length) ** 0.5


if __name__ == "__main__":
    main()

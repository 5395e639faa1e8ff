"""What statistics give away of their texts, and what noise costs.

    python tests/benchmarks/privacy.py --experts DIR --data DIR [--seeds 0 1 2] [--epsilons 1 4 16 64] [--limit N]

`DIR` has experts `DOMAIN-seedN` and texts `DOMAIN/train.jsonl`, `DOMAIN/test.jsonl`, as `fusehub demo` makes them.

First, words that are read off the gram of the first layer's inputs, for several numbers of texts. Each word of the
vocabulary at each place gives one vector that the layer may have been given, and a vector x that it was given has
xᵀ S⁺ x <= 1 and lies in what S spans; so what does not pass is not in the texts. Printed are how many of the words
(pieces, without special ones) that pass are in the texts, and how many of those in the texts pass.

Then, accuracies: the mean over domains of the merged model's accuracy on each domain's test set, with exact
statistics, with noise for several epsilons, and of the plain mean, which needs none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import torch

from fusehub.collecting.collect import collect
from fusehub.collecting.noise import Noise
from fusehub.comparing.evaluate import evaluate
from fusehub.merging.merge import merge
from fusehub.merging.recipe import Recipe
from fusehub.models.loading import load_model, load_tokenizer
from fusehub.models.resolve import resolve
from fusehub.statistics.file import Statistics

DELTA = 1e-6
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
PLACES = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0, 16.0, 64.0])
    parser.add_argument("--limit", type=int)
    said = parser.parse_args()
    domains = sorted({path.name.partition("-seed")[0] for path in said.experts.glob("*-seed0") if path.is_dir()})
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        read_words(said.experts / f"{domains[0]}-seed0", said.data / domains[0] / "train.jsonl", root)
        accuracies(said, domains, root)


def read_words(expert: Path, data: Path, root: Path) -> None:
    """Prints what the first layer's gram tells of the words in its texts."""
    print(f"{'texts':>6} {'rows':>6} {'noise':>6} {'words':>6} {'pass':>6} {'right':>6} {'found':>6}")
    texts = [json.loads(line)["text"] for line in data.read_text(encoding="utf-8").splitlines()]
    for count, epsilon in (
        (2, None),
        (8, None),
        (15, None),
        (30, None),
        (60, None),
        (100, None),
        (1000, None),
        (1000, 16.0),
    ):
        shown = root / "texts.txt"
        shown.write_text("\n".join(" ".join(text.split()) for text in texts[:count]) + "\n", encoding="utf-8")
        noise = Noise(epsilon, DELTA) if epsilon else None
        collect(str(expert), str(shown), root / "few", size="full", noise=noise).close()
        with contextlib.closing(Statistics(root / "few" / "statistics.safetensors")) as statistics:
            layer = statistics.layers[QUERY]
            passing = words_that_pass(expert, layer.gram(), layer.rows, noise)
        shutil.rmtree(root / "few")
        tokenizer = load_tokenizer(resolve(str(expert)))
        places = [tokenizer(text)["input_ids"][1:-1][: PLACES - 1] for text in shown.read_text().splitlines()]
        inside = {token for ids in places for token in ids}
        right = len(passing & inside)
        print(
            f"{count:6} {layer.rows:6} {epsilon or '':>6} {len(inside):6} {len(passing):6} "
            f"{right / max(1, len(passing)):6.0%} {right / len(inside):6.0%}",
            flush=True,
        )


def words_that_pass(expert: Path, gram: torch.Tensor, rows: int, noise: Noise | None) -> set[int]:
    """Tokens of which, at one place or another, the gram does not rule out that they were in the texts."""
    model = load_model(resolve(str(expert)))
    embeddings = model.bert.embeddings
    special = set(load_tokenizer(resolve(str(expert))).all_special_ids)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-6 * values[-1]
    passing: set[int] = set()
    ids = torch.arange(embeddings.word_embeddings.num_embeddings)
    with torch.inference_mode():
        for place in range(1, PLACES):
            x = embeddings(input_ids=ids[:, None], position_ids=torch.tensor([[place]])).reshape(len(ids), -1).double()
            at = (x @ vectors).square()
            outside = at[:, ~kept].sum(1) / at.sum(1)
            inside = (at[:, kept] / values[kept]).sum(1)
            # A noisy gram counts a text once: its words have a share of a row.
            passes = (outside < 1e-5) & (inside <= 1.001) if noise is None else inside <= 1.0
            passing |= set(ids[passes].tolist())
    return passing - special


def accuracies(said: argparse.Namespace, domains: list[str], root: Path) -> None:
    """Prints the in-domain mean of merges with exact and noisy statistics, over the seeds."""
    arms: dict[str, Noise | None] = {"exact": None}
    arms |= {f"epsilon {epsilon:g}": Noise(epsilon, DELTA) for epsilon in said.epsilons}
    scores: dict[str, list[float]] = {}
    tests = {domain: str(said.data / domain / "test.jsonl") for domain in domains}
    for seed in said.seeds:
        experts = [str(said.experts / f"{domain}-seed{seed}") for domain in domains]
        for arm, noise in arms.items():
            folders = {}
            for expert, domain in zip(experts, domains, strict=True):
                folders[expert] = str(root / "statistics" / domain)
                data = str(said.data / domain / "train.jsonl")
                collect(expert, data, folders[expert], limit=said.limit, noise=noise).close()
            merged = root / "merged" / arm.replace(" ", "-")
            merge(Recipe.of(experts, statistics=folders), merged)
            shutil.rmtree(root / "statistics")
        merge(Recipe.of(experts, "mean"), root / "merged" / "mean")
        models = [str(path) for path in sorted((root / "merged").iterdir())]
        for model, mean in evaluate(models, tests).mean().items():
            scores.setdefault(Path(model).name, []).append(mean)
        shutil.rmtree(root / "merged")
    print(f"\nmean accuracy over {', '.join(domains)}; delta {DELTA:g}; {len(said.seeds)} seeds")
    for arm in [*(name.replace(" ", "-") for name in arms), "mean"]:
        values = torch.tensor(scores[arm])
        spread = f" ± {float(values.std()):.4f}" if len(values) > 1 else ""
        print(f"{arm:14} {float(values.mean()):.4f}{spread}")


if __name__ == "__main__":
    main()

"""Does FuseHub merge as the authors of RegMean do? Their code and ours on the same experts and texts.

    git clone https://github.com/bloomberg/dataless-model-merging
    python tests/benchmarks/official.py dataless-model-merging

Runs the functions of their notebook (grams and merge) and the Fisher of their trainer as they stand, without the rest
of their programs, which want PyTorch 1.13. Two small BERT experts of one base, whose texts are in batches of eight.
Prints a Markdown table of ‖a − b‖ / ‖b‖ over all linear weights of the encoder. They merge in float32, where one text
length leaves grams badly conditioned; so theirs is also run in float64.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parents[2]))
from fusehub.collecting.collect import collect
from fusehub.merging.merge import merge
from fusehub.models.loading import load_model
from fusehub.models.resolve import resolve
from tests.unit.experts import WEIGHTS, recipe_of, relatives, text_file
from tests.unit.tiny import tiny_texts

BATCH = 8
# How many tokens a text has at most.
KINDS = {"texts of one length, so that nothing is padded": 12, "texts of many lengths": 64}
# Of more rows than a layer has inputs: their code inverts the sum of grams as it is.
TEXTS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo", type=Path, help="a clone of bloomberg/dataless-model-merging")
    repo = parser.parse_args().repo
    theirs = notebook(repo / "regmean_demo.ipynb")
    print("| RegMean | FuseHub to theirs | theirs to theirs in float64 | FuseHub to theirs in float64 |")
    print("| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        experts = relatives(Path(folder), hidden=64)
        texts = [own_texts(number) for number in range(len(experts))]
        for kind, longest in KINDS.items():
            for alpha in (1.0, 0.9):
                row = regmean(theirs, experts, texts, longest, alpha)
                print(f"| alpha {alpha:g}, {kind} | {row} |", flush=True)
        print(f"\n{fisher(repo, experts[0], texts[0])}")


def own_texts(number: int) -> list[str]:
    """Texts of a domain: of 12 to 20 words, all of more tokens than they are cut to in the first of KINDS."""
    return [text for text in tiny_texts(TEXTS * 4, seed=number, longest=20) if len(text.split()) >= 12][:TEXTS]


def batches(expert: Path, texts: Sequence[str], longest: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches padded to their longest text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(expert)
    options = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
    for start in range(0, len(texts), BATCH):
        yield dict(tokenizer(list(texts[start : start + BATCH]), **options))


def trainer(expert: Path, texts: Sequence[str], longest: int) -> Any:
    """What their functions ask of a trainer: the batches."""
    found = list(batches(expert, texts, longest))
    return SimpleNamespace(get_train_dataloader=lambda: found, _prepare_inputs=lambda inputs: inputs)


def regmean(
    theirs: dict[str, Any], experts: Sequence[Path], texts: Sequence[Sequence[str]], longest: int, alpha: float
) -> str:
    """Merges by both, theirs as it is (float32) and in float64; the columns of the row."""
    wanted = [theirs_of(theirs, experts, texts, longest, alpha, dtype) for dtype in (torch.float32, torch.float64)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        statistics = [folder / f"statistics-{number}" for number in range(len(experts))]
        for number, (path, own) in enumerate(zip(experts, texts, strict=True)):
            data = text_file(folder, number, own)
            collect(str(path), data, statistics[number], size="full", max_length=longest).close()
        recipe = recipe_of(experts, statistics=statistics, parameters={"alpha": alpha})
        got = load_file(merge(recipe, folder / "merged").folder / WEIGHTS)
    single, double = wanted
    return " | ".join(f"{relative(a, b):.0e}" for a, b in ((got, single), (single, double), (got, double)))


def theirs_of(
    theirs: dict[str, Any],
    experts: Sequence[Path],
    texts: Sequence[Sequence[str]],
    longest: int,
    alpha: float,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """The linear weights that their functions merge, in float64."""
    models = [load_model(resolve(str(path))).to(dtype) for path in experts]
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        grams = [
            theirs["compute_gram"](model, trainer(path, own, longest))
            for model, path, own in zip(models, experts, texts, strict=True)
        ]
        reduced = [{name: theirs["reduce_non_diag"](gram, alpha) for name, gram in own.items()} for own in grams]
        merged = theirs["avg_merge"](models, models[0], regmean_grams=reduced)
    return {name: value.double() for name, value in merged.items() if name.removesuffix(".weight") in grams[0]}


def relative(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """‖got − wanted‖ / ‖wanted‖ over all tensors of `wanted`."""
    difference = sum(float((got[name].double() - own).square().sum()) for name, own in wanted.items())
    return (difference / sum(float(own.square().sum()) for own in wanted.values())) ** 0.5


def fisher(repo: Path, expert: Path, texts: Sequence[str]) -> str:
    """The sums of both Fisher diagonals over all parameters, as one sentence."""
    source = (repo / "src/model_merge/local_trainer.py").read_text(encoding="utf-8")
    wanted = {"compute_fisher", "collect_squared_gradients", "forward_model_pass"}
    scope: dict[str, Any] = {"torch": torch, "F": nn.functional, "tqdm": tqdm}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name in wanted:
            exec(compile(ast.Module([node], []), "local_trainer.py", "exec"), scope)
    longest = min(KINDS.values())
    one = trainer(expert, texts, longest)
    one.model = load_model(resolve(str(expert)))
    one.collect_squared_gradients = lambda model: scope["collect_squared_gradients"](one, model)
    sums = {}
    for variant in ("hard", "soft"):
        config = SimpleNamespace(merger=SimpleNamespace(fisher_n_example=0, emp_fisher=False, fisher_variant=variant))
        with contextlib.redirect_stderr(io.StringIO()):
            found = scope["compute_fisher"](one, config, SimpleNamespace(max_steps=0))
        sums[variant] = float(sum(value.double().sum() for value in found.values()))
    from fusehub.statistics.fisher_file import FisherFile

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made = collect(str(expert), text_file(folder, 0, texts), folder / "out", fisher=True, max_length=longest)
        described = made.metadata["fisher"]
        made.close()
        with contextlib.closing(FisherFile(folder / "out" / "fisher.safetensors", str(expert), described)) as file:
            ours = float(sum(file.read(name).double().sum() for name in found))
    return (
        f"Fisher, summed over all parameters: FuseHub {ours:.3g}; theirs, in batches of {BATCH}: {sums['hard']:.3g} "
        f"(`hard`), {sums['soft']:.3g} (`soft`)."
    )


def notebook(path: Path) -> dict[str, Any]:
    """The functions that a notebook defines."""
    scope: dict[str, Any] = {"torch": torch, "nn": nn, "re": re, "tqdm": tqdm}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and source.startswith("def "):
            exec(source, scope)
    return scope


if __name__ == "__main__":
    main()

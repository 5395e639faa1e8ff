"""One layer of a large model: what counting, storing and solving it costs, in processor time beside a bare forward.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.layer [--hidden 4096] [--inner 11008] [--layers 1] [--texts 100]
                                                       [--folder DIR] [--record]

A Llama of one layer of these widths in bfloat16, by default those of a model of 7 billion parameters, and others of
the same base. Processor time, so that other work on the machine counts little; the targets are for the default
widths on one core. What is read from `--folder` is made there first, and kept. The record has all seconds too, from
which `tests.benchmarks.projection` tells what larger models take.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.benchmarks.commands import FUSEHUB, taken_by
from tests.benchmarks.record import Row, keep, tell

TOKENS, WORDS = 50, 1000
EXPERTS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--inner", type=int, default=11008)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--texts", type=int, default=100, help=f"of {TOKENS} tokens each")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--record", action="store_true", help="into docs/performance.md")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    said = parser.parse_args()
    shape = (said.hidden, said.inner, said.layers, said.texts)
    with tempfile.TemporaryDirectory() as temporary:
        if said.make:
            make(said.folder, *shape)
            return
        found = measured(said.folder or Path(temporary), *shape)
        rows = [solving(found), *([counting(found)] if "forward" in found else [])]
        tell(rows)
        if said.record:
            keep("layer", "OMP_NUM_THREADS=1 python -m tests.benchmarks.layer", rows, found)


def measured(folder: Path, hidden: int, inner: int, layers: int, texts: int) -> dict[str, float]:
    """The shape, and what it takes: seconds of the processor, and bytes."""
    root = folder / f"layer-{hidden}-{inner}-{layers}"
    # In processes of their own: a process starts with the peak memory of the one that started it.
    again = ["--hidden", hidden, "--inner", inner, "--layers", layers, "--texts", texts, "--folder", root]
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.layer", "--make", *map(str, again)], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    shape = {"hidden": hidden, "inner": inner, "kv": hidden, "layers": layers, "words": WORDS, "experts": EXPERTS}
    # What counting takes was told where the models were made.
    told = root / "counting.json"
    return {**shape, **(json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}), **merges(root)}


def make(root: Path, hidden: int, inner: int, layers: int, texts: int) -> None:
    """A base, experts and their statistics; tells in a file what the last one's cost beside its forward."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from fusehub.collecting.gram_collector import GramCollector
    from fusehub.models.checkpoints.checkpoint import weight_hashes
    from fusehub.models.layout import linears_of
    from fusehub.models.resolve import resolve
    from fusehub.statistics.encodings import Encoding, encode
    from fusehub.statistics.file import write_statistics
    from tests.benchmarks.merging import family

    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=hidden // 128,
        num_key_value_heads=hidden // 128, vocab_size=WORDS,
    )  # fmt: skip
    # The last one is the base of methods that have one.
    folders = family(root, EXPERTS + 1, LlamaForCausalLM, config, torch.bfloat16)[:EXPERTS]
    for number, folder in enumerate(folders):
        if (folder / "fusehub").exists():
            continue
        network = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        draw = torch.Generator().manual_seed(number)
        batches = [
            {"input_ids": torch.randint(1, WORDS, (count, TOKENS), generator=draw), "attention_mask": None}
            for count in [10] * (texts // 10)
        ]
        for batch in batches:
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])

        def forward(network: LlamaForCausalLM = network, batches: list = batches) -> None:
            with torch.inference_mode():
                for batch in batches:
                    network(**batch)

        linears = {name: own for name, own in linears_of(network).items() if ".layers." in name}
        bare = timed(forward)
        with GramCollector(network, linears) as collector:
            collector.probe({name: value[:2, :8] for name, value in batches[0].items()})

            def count(
                network: LlamaForCausalLM = network, batches: list = batches, collector: GramCollector = collector
            ) -> None:
                with torch.inference_mode():
                    for batch in batches:
                        with collector.counting(batch):
                            network(**batch)

            counting = timed(count) - bare
            sums, aliases = collector.sums, collector.aliases
            if folder == folders[-1]:
                encoding = {
                    own.size: timed(lambda own=own: encode(own, Encoding("correlations", 8))) for own in sums.values()
                }
                cholesky = {size: timed(factorise, size) for size in encoding}
                sizes = [own.size for own in sums.values()]
                stored, factors = (sum(of[size] for size in sizes) for of in (encoding, cholesky))
                print(
                    f"bare forward of {texts} texts of {TOKENS} tokens: {bare:.1f} s; counting adds {counting:.1f} s"
                )
                print(f"encoding of {len(sizes)} grams: {stored:.1f} s; one Cholesky of each: {factors:.1f} s")
                facts = {"texts": texts, "tokens": texts * TOKENS, "forward": bare, "counting": counting}
                facts |= {"encoding": stored, "factors": factors}
                (root / "counting.json").write_text(json.dumps(facts), encoding="utf-8")
            model = {"id": folder.name, "commit": None, "weights": weight_hashes(resolve(str(folder)))}
            facts = {"examples": texts, "tokens": texts * TOKENS, "data": {"source": "random", "revision": None}}
            write_statistics(folder / "fusehub", sums, aliases, {"model": model, **facts})


def factorise(size: int) -> None:
    """torch's own Cholesky of a float32 matrix."""
    import torch

    torch.linalg.cholesky(torch.eye(size).add_(0.1))


def timed(work: Callable, *arguments: object) -> float:
    """Seconds of the processor that one call takes."""
    started = time.process_time()
    work(*arguments)
    return time.process_time() - started


def merges(root: Path) -> dict[str, float]:
    """Whole commands: a plan alone, the mean, RegMean by their statistics, and TIES."""
    *folders, base = [root / f"expert-{number}" for number in range(EXPERTS + 1)]
    found: dict[str, float] = {}
    # What transformers says of such models is kept, and that of bases too.
    for way in (["mean"], ["ties", "--base", base]):
        taken_by([*FUSEHUB, "merge", *folders, "--dry-run", "--method", *way])
    ways = {"plan": ["mean", "--dry-run"], "mean": ["mean"], "regmean": ["regmean"], "ties": ["ties", "--base", base]}
    for name, way in ways.items():
        out = root / "merged"
        shutil.rmtree(out, ignore_errors=True)
        taken = taken_by([*FUSEHUB, "merge", *folders, "--out", out, "--method", *way])
        found |= {name: taken.processor, f"{name}_bytes": taken.peak}
        shutil.rmtree(out, ignore_errors=True)
    found["statistics"] = sum(path.stat().st_size for path in (folders[0] / "fusehub").iterdir())
    return found


def solving(found: Mapping[str, float]) -> Row:
    """RegMean of the models by their statistics, the whole command; and the mean, which is all but the solve."""
    seconds, peak = found["regmean"], found["regmean_bytes"]
    return Row(
        f"one layer of a 7B shape, {EXPERTS} experts, RegMean, whole command",
        f"{seconds:.0f} s of the processor (the mean {found['mean']:.0f} s), {peak / 1e9:.2f} GB",
        "110 s, 3 GB",
        seconds <= 110 and peak <= 3e9,
        "multiplications",
    )


def counting(found: Mapping[str, float]) -> Row:
    """What counting and storing take beyond the forward and one Cholesky factorisation of each gram."""
    bare = found["forward"]
    beyond = (found["counting"] + found["encoding"] - found["factors"]) / bare
    return Row(
        f"collecting {found['texts']:.0f} texts for that layer, beyond the forward and one Cholesky of each gram",
        f"{beyond:.2f} × the forward ({bare:.1f} s of the processor)",
        "1.0 ×",
        beyond <= 1,
        "multiplications of the grams in float32; the forward is in bfloat16",
    )


if __name__ == "__main__":
    main()

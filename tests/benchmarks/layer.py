"""One layer of a large model: what counting, storing and solving it costs, in processor time beside a bare forward.

    OMP_NUM_THREADS=1 python tests/benchmarks/layer.py [--hidden 4096] [--inner 11008] [--texts 100] [--folder DIR]

A Llama of one layer of these widths in bfloat16, by default those of a model of 7 billion parameters, and a second
one of the same base. Processor time, so that other work on the machine counts little; the targets are for the default
widths on one core. What is read from `--folder` is made there first, and kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TOKENS = 50
EXPERTS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--inner", type=int, default=11008)
    parser.add_argument("--texts", type=int, default=100, help=f"of {TOKENS} tokens each")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = (said.folder or Path(temporary)) / f"layer-{said.hidden}-{said.inner}"
        if said.make:
            make(root, said.hidden, said.inner, said.texts)
            return
        # In processes of their own: a process starts with the peak memory of the one that started it.
        again = ["--hidden", said.hidden, "--inner", said.inner, "--texts", said.texts, "--folder", root.parent]
        done = subprocess.run([sys.executable, __file__, "--make", *map(str, again)], check=False)
        if done.returncode:
            sys.exit(done.returncode)
        merge(root)


def make(root: Path, hidden: int, inner: int, texts: int) -> None:
    """Two models and their statistics; prints what the second one's cost beside its forward."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from fusehub.collecting.gram_collector import GramCollector
    from fusehub.models.checkpoint import weight_hashes
    from fusehub.models.layout import linears_of
    from fusehub.models.resolve import resolve
    from fusehub.statistics.encodings import Encoding, encode
    from fusehub.statistics.file import write_statistics
    from tests.benchmarks.merging import family

    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=1, num_attention_heads=hidden // 128,
        num_key_value_heads=hidden // 128, vocab_size=1000,
    )  # fmt: skip
    folders = family(root, EXPERTS, LlamaForCausalLM, config, torch.bfloat16)
    for number, folder in enumerate(folders):
        if (folder / "fusehub").exists():
            continue
        network = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        draw = torch.Generator().manual_seed(number)
        batches = [
            {"input_ids": torch.randint(1, 1000, (count, TOKENS), generator=draw), "attention_mask": None}
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
                beyond = (counting + stored - factors) / bare
                print(
                    f"beyond the forward and one Cholesky of each gram: x {beyond:.2f} of it (target 1.0)", flush=True
                )
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


def merge(root: Path) -> None:
    """RegMean of the models by their statistics, the whole command; and the mean, which is all but the solve."""
    for method in ("mean", "regmean"):
        out = root / "merged"
        shutil.rmtree(out, ignore_errors=True)
        folders = [str(root / f"expert-{number}") for number in range(EXPERTS)]
        command = [sys.executable, "-m", "fusehub", "merge", *folders, "--method", method, "--out", str(out)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        complaint = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(complaint.decode())
        seconds = usage.ru_utime + usage.ru_stime
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
        target = " (targets 110 s, 3 GB)" if method == "regmean" else ""
        print(f"{method} of {EXPERTS}: {seconds:.1f} s of the processor, {peak:.2f} GB{target}", flush=True)
        shutil.rmtree(out)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()

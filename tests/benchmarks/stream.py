"""A model larger than the memory: counting it block by block with a limit, beside counting it whole without one.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.stream [--layers 22] [--limit 1.5e9] [--texts 16] [--folder DIR]
                                                        [--fisher | --record]

A Llama of the widths of a 1.1B model in float32 (4.4 GB), in shards of 500 MB, and 16 texts of 50 words. Each run is
a process of its own; the limited one may have so many bytes of data in all, what it imports included (`RLIMIT_DATA`).
The target: it works within 1.5 GB, with the grams of the whole model to 1e-6, and with `--fisher` its diagonals, too.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.benchmarks.record import Row, keep, tell

WORDS = 50
# Arrow's own pool would claim a gigabyte of addresses at once, which count as data.
PLAIN = {"ARROW_DEFAULT_MEMORY_POOL": "system"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--limit", type=float, default=1.5e9)
    parser.add_argument("--texts", type=int, default=16, help=f"of {WORDS} words each")
    parser.add_argument("--folder", type=Path, help="where the model is made, and kept")
    parser.add_argument("--fisher", action="store_true", help="Fisher diagonals, too")
    parser.add_argument("--record", action="store_true", help="into docs/performance.md")
    said = parser.parse_args()
    run = partial(run_one, fisher=said.fisher)
    with tempfile.TemporaryDirectory() as temporary:
        root = said.folder or Path(temporary)
        model, data = root / f"llama-{said.layers}", root / "texts.txt"
        make(model, data, said.layers, said.texts)
        nbytes = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        print(f"{nbytes / 1e9:.1f} GB of weights; {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}")
        limit = int(said.limit)
        print(f"whole, limited to {limit / 1e9:.1f} GB: {run(model, data, root / 'refused', 'off', limit)}")
        limited = run(model, data, root / "blocks", "auto", limit)
        print(f"auto, limited to {limit / 1e9:.1f} GB: {limited}")
        print(f"block by block, no limit: {run(model, data, root / 'free', 'on', None)}")
        print(f"whole, no limit: {run(model, data, root / 'whole', 'off', None)}")
        apart = difference(root / "whole", root / "blocks")
        print(f"grams differ by at most {apart:.1e} of their norm")
        if said.fisher:
            print(f"Fisher diagonals differ by at most {difference_of_fisher(root):.1e} of their largest number")
            return
        for name in ("blocks", "free", "whole"):
            shutil.rmtree(root / name)
    row = Row(
        f"statistics of a model of {nbytes / 1e9:.1f} GB, no more than {limit / 1e9:.1f} GB of memory allowed",
        f"{limited}; the whole model's to {apart:.0e}",
        "works, to 1e-06",
        apart <= 1e-6,
        "reading; one block and its grams",
    )
    tell([row])
    if said.record:
        keep("stream", "OMP_NUM_THREADS=1 python -m tests.benchmarks.stream", [row])


def make(model: Path, data: Path, layers: int, texts: int) -> None:
    """Random weights of a 1.1B Llama's widths with a tokenizer of words, and the texts."""
    data.parent.mkdir(parents=True, exist_ok=True)
    # In a process of its own: one starts with the peak memory of the one that started it.
    done = subprocess.run([sys.executable, "-c", MAKE, str(model), str(data), str(layers), str(texts)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


MAKE = f"""
import random, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from tests.unit.tiny import WORDS, tiny_tokenizer
model, data, layers, texts = sys.argv[1:]
words = random.Random(0)
Path(data).write_text("\\n".join(" ".join(words.choices(WORDS, k={WORDS})) for _ in range(int(texts))) + "\\n")
if not Path(model).exists():
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=2048, intermediate_size=5632, num_hidden_layers=int(layers),
                         num_attention_heads=32, num_key_value_heads=4, vocab_size=32000, max_position_embeddings=2048)
    LlamaForCausalLM(config).save_pretrained(model, max_shard_size="500MB")
    tiny_tokenizer("llama").save_pretrained(model)
"""


def run_one(model: Path, data: Path, out: Path, stream: str, limit: int | None, *, fisher: bool = False) -> str:
    """What a command of its own says and takes."""
    options = ["--data", str(data), "--size", "full", "--stream", stream, "--out", str(out), *["--fisher"] * fisher]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "fusehub", "collect", str(model), *options],
            env=os.environ | PLAIN,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))) if limit else None,
            stdout=said,
            stderr=said,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        words = said.read().strip()
    if process.returncode:
        return f"exit {process.returncode}: {words[-400:]}"
    took = used.ru_utime + used.ru_stime
    wall = time.perf_counter() - started
    return f"{wall:.0f} s, {took:.0f} s of processor time, {used.ru_maxrss * 1024 / 1e9:.2f} GB at the most"


def difference(one: Path, other: Path) -> float:
    """The largest distance of two grams of one layer, relative to the gram."""
    from fusehub.statistics.sources import open_statistics

    worst = 0.0
    first, second = (open_statistics(str(folder)) for folder in (one, other))
    assert first.layers.keys() == second.layers.keys() and first.aliases == second.aliases
    for name, layer in first.layers.items():
        a, b = layer.packed(), second.layers[name].packed()
        assert layer.rows == second.layers[name].rows
        worst = max(worst, float((a - b).norm() / a.norm()))
    first.close(), second.close()
    return worst


def difference_of_fisher(root: Path) -> float:
    """The largest distance of two numbers of one tensor, whole and block by block, relative to its largest."""
    from safetensors import safe_open

    from fusehub.statistics.fisher_file import FISHER_FILENAME

    worst = 0.0
    files = [safe_open(root / name / FISHER_FILENAME, "pt") for name in ("whole", "blocks")]
    assert set(files[0].keys()) == set(files[1].keys())
    for name in files[0].keys():  # noqa: SIM118 - It is no mapping.
        a, b = (file.get_tensor(name) for file in files)
        worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)))
    return worst


if __name__ == "__main__":
    main()

"""What commands take that compute little: help, methods, a check and a plan of models that are here.

    python -m tests.benchmarks.startup [--runs 5] [--folder DIR] [--record]

Each in a process of its own, the fastest of the runs, after one in which what transformers says is kept. The two
models of 7 billion parameters have the headers and sizes of real ones and no bytes on the disk: their files are holes,
since a plan reads headers alone.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.commands import FUSEHUB, ROOT, taken_by
from tests.benchmarks.record import Row, keep, tell

SHARD = 5 * 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the models here, for the next time")
    parser.add_argument("--record", action="store_true", help="into docs/performance.md")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.make:
        make(said.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = said.folder or Path(temporary)
        taken_by([sys.executable, "-m", "tests.benchmarks.startup", "--make", "--folder", root])
        berts, llamas = ([root / kind / f"expert-{number}" for number in range(2)] for kind in ("bert", "llama-7b"))
        rows = [
            timed("`fusehub --help`", ["--help"], 0.3, said.runs),
            timed("`fusehub methods`", ["methods"], 0.5, said.runs),
            timed("`fusehub check` of two BERT-base", ["check", *berts], 1.5, said.runs),
            timed(
                "plan of two models of 7B (`--dry-run`)",
                ["merge", *llamas, "--method", "mean", "--dry-run"], 3.0, said.runs,
            ),
            *planned(berts, root / "merged", said.runs),
        ]  # fmt: skip
    tell(rows)
    if said.record:
        keep("startup", "python -m tests.benchmarks.startup", rows)


def timed(work: str, arguments: list[object], target: float, runs: int) -> Row:
    """The fastest of so many runs of a command."""
    taken_by([*FUSEHUB, *arguments])
    found = [taken_by([*FUSEHUB, *arguments]) for _ in range(runs)]
    seconds, processor = min(own.seconds for own in found), min(own.processor for own in found)
    measured = f"{seconds:.2f} s ({processor:.2f} s of processors), {min(own.peak for own in found) / 1e6:.0f} MB"
    return Row(work, measured, f"{target:g} s", seconds <= target, "importing")


def planned(models: list[Path], out: Path, runs: int) -> list[Row]:
    """The memory that a plan tells beside what its merge takes."""
    rows = []
    for method in ("task_arithmetic", "ties"):
        asked = ["merge", *map(str, models), "--method", method, "--base", str(models[0])]
        told = subprocess.run(
            [*FUSEHUB, *asked, "--dry-run", "--json"], capture_output=True, text=True, check=True, cwd=ROOT
        )
        foreseen = json.loads(told.stdout)["cost"]["memory_bytes"]
        peaks = []
        for _ in range(runs):
            peaks.append(taken_by([*FUSEHUB, *asked, "--out", out]).peak)
            shutil.rmtree(out)
        off = foreseen / min(peaks) - 1
        measured = f"{foreseen / 1e6:.0f} MB told, {min(peaks) / 1e6:.0f} MB taken: {off:+.0%}"
        rows.append(Row(f"memory that a plan tells ({method}, BERT-base)", measured, "within 15 %", abs(off) <= 0.15))
    return rows


def make(root: Path) -> None:
    """Two models of BERT-base, and two of 7 billion parameters that are holes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.benchmarks.merging import bert

    bert(root / "bert", 2)
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        vocab_size=32000, architectures=["LlamaForCausalLM"], dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: list(own.shape) for name, own in LlamaForCausalLM(config).state_dict().items()}
    for number in range(2):
        folder = root / "llama-7b" / f"expert-{number}"
        if not folder.exists():
            folder.mkdir(parents=True)
            config.save_pretrained(folder)
            write_holes(folder, shapes)


def write_holes(folder: Path, shapes: dict[str, list[int]]) -> None:
    """Shards of safetensors with the headers of bfloat16 tensors of these shapes, and no bytes on the disk."""
    shards: list[dict[str, list[int]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        nbytes = 2 * math.prod(shape)
        if filled + nbytes > SHARD:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += nbytes
    places = {}
    for number, own in enumerate(shards, start=1):
        file = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        header, at = {}, 0
        for name, shape in own.items():
            end = at + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
            places[name] = file.name
            at = end
        text = json.dumps(header).encode()
        with file.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + at)
    index = {"metadata": {"total_size": sum(2 * math.prod(own) for own in shapes.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


if __name__ == "__main__":
    main()

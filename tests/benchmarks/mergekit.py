"""What FuseHub's merges take beside mergekit's, of the same models by the same recipes.

    python -m tests.benchmarks.mergekit [--runs 3] [--only bert] [--folder DIR] [--environment DIR] [--record]

Installs mergekit 0.1.5 into an environment of its own (as `agreement.py` does), makes a base and experts of it from
seeds, and has both programs merge them in turn, each in a process of its own: the ratios are of neighbouring runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.benchmarks.agreement import mergekit
from tests.benchmarks.commands import FUSEHUB, Taken, taken_by
from tests.benchmarks.record import Row, keep, tell

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))


@dataclass(frozen=True)
class Case:
    """A recipe: its words, what it merges, and which part of mergekit's time and memory it is to take."""

    work: str
    models: str
    experts: int
    dtype: str
    method: str
    parameters: Mapping[str, float]
    seconds: float
    peak: float
    bound: str


# What `perf record` of the whole command told of its processor time, by libraries.
_PIECES = "processor time: Python and imports 4/10, hashing all that is read and written 1/4, the system 1/5"
_TASKS = "processor time: the system (pages, reading, writing) 1/3, Python and imports 1/4, hashing 1/5"
_WHOLE = "processor time: the system (pages, reading, writing) 4/10, arithmetic 1/4, Python 1/5, hashing 1/8"
CASES = (
    Case("TIES, 3 × BERT-base", "bert", 3, "float32", "ties", {"density": 0.5, "weight": 1.0}, 0.2, 0.5, _WHOLE),
    Case("task arithmetic, 3 × BERT-base", "bert", 3, "float32", "task_arithmetic", {"weight": 0.3}, 0.6, 0.2, _TASKS),
    Case("mean, 3 × BERT-base", "bert", 3, "float32", "linear", {"weight": 1.0}, 0.4, 0.16, _PIECES),
    Case(
        "TIES, 2 × Llama of 1.1B and their base, bfloat16 shards",
        "llama", 2, "bfloat16", "ties", {"density": 0.5, "weight": 1.0}, 0.2, 0.4,
        "not profiled",
    ),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=("bert", "llama"))
    parser.add_argument("--folder", type=Path, help="keep the models here, for the next time")
    parser.add_argument("--environment", type=Path, default=CACHE / "fusehub" / "mergekit-0.1.5")
    parser.add_argument("--record", action="store_true", help="into docs/performance.md")
    parser.add_argument("--make", nargs=2, metavar=("MODELS", "COUNT"), help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.make:
        make(said.folder / said.make[0], said.make[0], int(said.make[1]))
        return
    program = mergekit(said.environment)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        root = said.folder or Path(temporary)
        for case in CASES:
            if not said.only or case.models == said.only:
                rows.append(compared(case, root, program, said.runs))
                tell(rows[-1:])
    if said.record:
        keep("mergekit", "python -m tests.benchmarks.mergekit", rows)


def make(root: Path, models: str, count: int) -> None:
    """A base, which is the first, and `count` experts that differ a little from it."""
    from tests.benchmarks.merging import bert, llama

    {"bert": bert, "llama": llama}[models](root, count + 1)


def compared(case: Case, root: Path, program: Path, runs: int) -> Row:
    """One recipe by both programs in turn."""
    # In a process of its own: a process starts with the peak memory of the one that started it.
    asked = ["--make", case.models, case.experts, "--folder", root]
    taken_by([sys.executable, "-m", "tests.benchmarks.mergekit", *asked])
    base, *experts = (root / case.models / f"expert-{number}" for number in range(case.experts + 1))
    recipe = {
        "merge_method": case.method,
        "models": [{"model": str(expert), "parameters": {"weight": case.parameters["weight"]}} for expert in experts],
        "dtype": case.dtype,
    }
    if case.method != "linear":
        recipe["base_model"] = str(base)
        recipe["parameters"] = {name: value for name, value in case.parameters.items() if name != "weight"}
    path = root / f"{case.models}-{case.method}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    out = root / "merged"
    commands = [*FUSEHUB, "merge", path, "--out", out], [program, path, out, "--no-copy-tokenizer"]
    pairs = [[taken(command, out) for command in commands] for _ in range(runs)]
    seconds, processor, peak = (
        statistics.median(getattr(ours, fact) / getattr(theirs, fact) for ours, theirs in pairs)
        for fact in ("seconds", "processor", "peak")
    )
    ours = statistics.median(own.seconds for own, _ in pairs)
    return Row(
        f"{case.work}, beside mergekit 0.1.5",
        f"{seconds:.2f} of its time ({processor:.2f} of its processor time), {peak:.2f} of its memory; {ours:.1f} s",
        f"{case.seconds:g} and {case.peak:g}",
        seconds <= case.seconds and peak <= case.peak,
        case.bound,
    )


def taken(command: Sequence[object], out: Path) -> Taken:
    """What the command takes that makes the folder `out`, which is removed before and afterwards."""
    shutil.rmtree(out, ignore_errors=True)
    try:
        return taken_by(command, {"HF_HUB_OFFLINE": "1"})
    finally:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()

"""What models of 8 and 70 billion parameters take, told from one measured layer; and how far off such a telling is.

    python -m tests.benchmarks.projection [--shape llama-3-8b ...] [--record]
    OMP_NUM_THREADS=1 python -m tests.benchmarks.projection --check [--folder DIR] [--record]

Reads the seconds that `tests.benchmarks.layer --record` measured (docs/performance/layer.json), and multiplies each by
how much more of its kind of work there is: bytes of weights for the mean and TIES, multiplications for the solves of
RegMean and for the grams, cubes of widths for encoding, weights times tokens for the forward. `--check` measures a
small model of one layer and one of four, and compares the latter with what the former tells of it. `--record` writes
the tables into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.layer import TOKENS, measured
from tests.benchmarks.record import RECORDS, circumstances, put

TEXTS = 1000
"""Of as many tokens each as those of the record."""
STATISTICS_BITS = {True: 16, False: 8}
"""Of a correlation in the size `compact`: of a layer outside of the blocks, and inside."""
PRICED = "November 2026"
"""When the prices were read in the Hub's documents; `huggingface_hub.HfApi().list_jobs_hardware()` tells today's."""
# A Job's flavor: cores, GB of memory and of disk, dollars an hour.
FLAVORS = {
    "cpu-upgrade": (8, 32, 50, 0.03),
    "cpu-xl": (16, 124, 1000, 1.00),
}
SMALL = {"hidden": 1024, "inner": 2816, "texts": 100}


@dataclass(frozen=True)
class Shape:
    """A decoder's widths and how many layers it has; `kv` is the width of keys and values, `words` its vocabulary."""

    hidden: int
    inner: int
    kv: int
    layers: int
    words: int
    solves_head: bool = True
    """Whether statistics of the head are there: `fusehub collect` counts it, the benchmark of one layer does not."""

    @property
    def linears(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer that is solved."""
        block = [(self.hidden, self.hidden)] * 2 + [(self.hidden, self.kv)] * 2
        block += [(self.hidden, self.inner)] * 2 + [(self.inner, self.hidden)]
        return block * self.layers + [(self.hidden, self.words)] * self.solves_head

    @property
    def grams(self) -> list[tuple[int, bool]]:
        """Inputs of each gram, and whether it is outside of the blocks; a block has one of its attention, one of the
        output of that, and two of its MLP."""
        block = [(self.hidden, False)] * 3 + [(self.inner, False)]
        return block * self.layers + [(self.hidden, True)] * self.solves_head

    @property
    def numbers(self) -> int:
        """Parameters of matrices."""
        own = Shape(self.hidden, self.inner, self.kv, self.layers, self.words, solves_head=False)
        return sum(inputs * outputs for inputs, outputs in own.linears) + 2 * self.hidden * self.words

    def solving(self, experts: int) -> float:
        """Multiplications of RegMean: right sides and triangular solves, and one factor for each gram."""
        sides = sum(experts * inputs**2 * outputs for inputs, outputs in self.linears)
        return sides + sum(size**3 / 6 for size, _ in self.grams)

    def counting(self) -> float:
        """Multiplications of the grams, a token."""
        return sum(size**2 for size, _ in self.grams)

    def encoding(self) -> float:
        return sum(size**3 for size, _ in self.grams)

    def forward(self) -> float:
        """Multiplications of a forward, a token; attention, which grows with the length of the texts, is not in it."""
        return self.numbers - self.hidden * self.words

    @property
    def statistics(self) -> int:
        """Bytes of one expert's statistics in the size `compact`; what is beside the triangles is not told."""
        return sum(size * (size + 1) // 2 * STATISTICS_BITS[outside] // 8 for size, outside in self.grams)


SHAPES = {
    "llama-3-8b": Shape(hidden=4096, inner=14336, kv=1024, layers=32, words=128256),
    "llama-3-70b": Shape(hidden=8192, inner=28672, kv=1024, layers=80, words=128256),
}


@dataclass(frozen=True)
class Told:
    """One command: seconds of the processor, and bytes of memory and disk."""

    what: str
    seconds: float
    memory: int
    disk: int


def projected(shape: Shape, found: Mapping[str, float], texts: int = TEXTS) -> list[Told]:
    """What the figures of a record (see `tests.benchmarks.layer`) tell of a model of that shape, in bfloat16."""
    experts = int(found["experts"])
    of = _shape_of(found)
    weights, factor = 2 * shape.numbers, shape.numbers / of.numbers
    tokens = texts * TOKENS / found["tokens"]
    mean = found["plan"] + (found["mean"] - found["plan"]) * factor
    ties = found["plan"] + (found.get("ties", math.nan) - found["plan"]) * factor
    solve = (found["regmean"] - found["mean"]) * shape.solving(experts) / of.solving(experts)
    forward = found["forward"] * tokens * shape.forward() / of.forward()
    grams = found["counting"] * tokens * shape.counting() / of.counting()
    stored = found["encoding"] * shape.encoding() / of.encoding()
    models = weights * (experts + 1)
    # What goes from block to block, and sums in float32, lie on the disk, too.
    kept = 2 * texts * TOKENS * shape.hidden * 2 + sum(2 * size * (size + 1) for size, _ in shape.grams)
    told = [
        Told(f"the mean of {experts}", mean, _memory("mean", shape, experts), models),
        Told(f"TIES of {experts} over their base", ties, _memory("ties", shape, experts), models + weights),
        Told(
            f"RegMean of {experts}", mean + solve, _memory("regmean", shape, experts),
            models + experts * shape.statistics,
        ),
        Told(
            f"statistics of one, {texts} texts of {TOKENS} tokens (the forward alone {_time(forward)})",
            forward + grams + stored, _block(shape), weights + shape.statistics + kept,
        ),
    ]  # fmt: skip
    return [own for own in told if not math.isnan(own.seconds)]


def _shape_of(found: Mapping[str, float]) -> Shape:
    sides = (int(found[name]) for name in ("hidden", "inner", "kv", "layers", "words"))
    return Shape(*sides, solves_head=False)


def _memory(method: str, shape: Shape, experts: int) -> int:
    """What a plan tells: the largest layer, and what a process takes."""
    import fusehub.methods as methods
    from fusehub.merging.cost import beside_the_process

    own = methods.METHODS[method]
    solved = shape.linears if own.needs_statistics else []
    combined = [(0, shape.hidden * shape.words), *((0, a * b) for a, b in shape.linears if not solved)]
    if own.survey is not None:
        combined = [(0, 0)]  # They pass in pieces.
    costs = [own.cost_of(experts, a * b, a) for a, b in solved] + [own.cost_of(experts, n, 0) for _, n in combined]
    return max(cost.memory for cost in costs) - beside_the_process({"memory_bytes": 0})


def _block(shape: Shape) -> int:
    """Of counting by blocks: one block with its grams, or the largest tensor outside; and what a process takes."""
    from fusehub.merging.cost import beside_the_process

    one = Shape(shape.hidden, shape.inner, shape.kv, 1, 0, solves_head=False)
    block = 2 * one.numbers + sum(2 * size * (size + 1) for size, _ in one.grams)
    return max(block, 2 * shape.hidden * shape.words) - beside_the_process({"memory_bytes": 0})


def job(told: Told) -> str:
    """The cheapest flavor that holds it, and what it costs there: all cores at work, by the minute."""
    for name, (cores, memory, disk, dollars) in FLAVORS.items():
        if told.memory <= memory * 1e9 and told.disk <= disk * 1e9:
            minutes = math.ceil(told.seconds / cores / 60)
            cost = dollars * minutes / 60
            return f"{name}: {minutes} min, " + (f"${cost:.2f}" if cost >= 0.01 else "under $0.01")
    return "none of a CPU holds it"


def checked(folder: Path) -> list[tuple[str, float, float]]:
    """What was told of a model of four layers by one of one, and what it took: (what, told, measured)."""
    one, four = (measured(folder, SMALL["hidden"], SMALL["inner"], layers, SMALL["texts"]) for layers in (1, 4))
    told = projected(_shape_of(four), one, SMALL["texts"])
    took = [four["mean"], four["ties"], four["regmean"], four["forward"] + four["counting"] + four["encoding"]]
    pairs = [(own.what.partition(" (")[0], own.seconds, seconds) for own, seconds in zip(told, took, strict=True)]
    return [*pairs, ("statistics on the disk, MB", _shape_of(four).statistics / 1e6, four["statistics"] / 1e6)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    return f"{count / 1e9:.{1 if count < 1e11 else 0}f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), nargs="+", default=list(SHAPES))
    parser.add_argument("--figures", type=Path, default=RECORDS / "layer.json", help="the record of one layer")
    parser.add_argument("--check", action="store_true", help="four layers from one, on this machine")
    parser.add_argument("--folder", type=Path, help="with --check: keep the models here")
    parser.add_argument("--record", action="store_true", help="into docs/performance.md")
    said = parser.parse_args()
    if said.check:
        with tempfile.TemporaryDirectory() as temporary:
            found = checked(said.folder or Path(temporary))
        rows = [[what, f"{told:.1f}", f"{took:.1f}", f"{told / took - 1:+.0%}"] for what, told, took in found]
        text = table(["four layers from one, seconds of the processor", "told", "measured", "off by"], rows)
        text += f"\n\nMeasured: {circumstances()}."
        mark = "projection-check"
    else:
        record = json.loads(said.figures.read_text(encoding="utf-8"))
        if "figures" not in record:
            parser.error(f"{said.figures} has no figures: run `python -m tests.benchmarks.layer --record`")
        rows = [
            [
                f"{name}: {own.what}",
                _time(own.seconds),
                f"{own.memory / 1e9:.1f} GB",
                f"{own.disk / 1e9:.0f} GB",
                job(own),
            ]
            for name in said.shape
            for own in projected(SHAPES[name], record["figures"])
        ]
        text = table(["what", "one core", "memory", "disk", f"as a Job (prices of {PRICED})"], rows)
        text += f"\n\nFrom `{record['command']}`: {record['day']}, {record['machine']}, load {record['load']}."
        mark = "projection"
    print(text)
    if said.record:
        put(mark, text)


if __name__ == "__main__":
    main()

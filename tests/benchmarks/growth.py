"""How time and memory grow: with experts, width, layers, texts and processes; as plots, and a row for the experts.

    python -m tests.benchmarks.growth [--only experts ...] [--folder DIR] [--record]

Models of random weights, statistics of random inputs; every run is a process of its own, after one in which what
transformers says is kept. Plots are of processor time, so that other work on the machine counts little. With
`--record` the plots are written to docs/images, too. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.commands import FUSEHUB, ROOT, Taken, taken_by
from tests.benchmarks.record import Row, keep, tell

IMAGES = ROOT / "docs" / "images"
EXPERTS = (2, 4, 8)
METHODS = ("mean", "task_arithmetic", "ties", "regmean")
WORDS = 50


@dataclass(frozen=True)
class Study:
    """What is varied, and the commands whose time and memory are drawn over it: `run` gives each point."""

    title: str
    over: str
    run: Callable[[Path], Iterator[tuple[str, float, Taken]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(STUDIES), nargs="+")
    parser.add_argument("--folder", type=Path, help="keep the models here, for the next time")
    parser.add_argument("--record", action="store_true", help="into docs/performance.md and docs/images")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.make:
        make(said.folder, **json.loads(said.make))
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = said.folder or Path(temporary)
        for name, study in STUDIES.items():
            if said.only and name not in said.only:
                continue
            lines: dict[str, list[tuple[float, Taken]]] = {}
            for line, at, taken in study.run(root):
                lines.setdefault(line, []).append((at, taken))
                print(
                    f"{study.title}, {line}, {at:g} {study.over}: {taken.processor:.1f} s, {taken.peak / 1e6:.0f} MB"
                )
                sys.stdout.flush()
            if name == "experts":
                rows += steady(lines)
            if said.record:
                draw(IMAGES / f"growth-{name}.svg", study, lines)
    tell(rows)
    if said.record and rows:
        keep("growth", "python -m tests.benchmarks.growth", rows)


def steady(lines: Mapping[str, Sequence[tuple[float, Taken]]]) -> list[Row]:
    """Whether memory is the same of 2, 4 and 8 experts."""
    rows = []
    for line, points in lines.items():
        peaks = [taken.peak for _, taken in points]
        growth = max(peaks) / min(peaks) - 1
        told = ", ".join(f"{peak / 1e6:.0f}" for peak in peaks)
        bound = "everyone's weights of the layer" if line in ("ties", "regmean") else ""
        rows.append(
            Row(f"{line}: memory of 2, 4 and 8 experts", f"{told} MB: {growth:+.0%}", "10 %", growth <= 0.1, bound)
        )
    return rows


def merged(root: Path, models: Sequence[Path], method: str, **variables: str) -> Taken:
    """One merge, the second of its kind."""
    out = root / "merged"
    base = ["--base", models[0]] if method in ("task_arithmetic", "ties") else []
    models = models[1:] if base else models
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        taken = taken_by([*FUSEHUB, "merge", *models, *base, "--method", method, "--out", out], variables)
    shutil.rmtree(out)
    return taken


def by_experts(root: Path) -> Iterator[tuple[str, float, Taken]]:
    models = made(root, width=768, layers=2, experts=max(EXPERTS) + 1)
    for method in METHODS:
        for count in EXPERTS:
            own = models[: count + 1] if method in ("task_arithmetic", "ties") else models[1 : count + 1]
            yield method, count, merged(root, own, method)


def by_width(root: Path) -> Iterator[tuple[str, float, Taken]]:
    for width in (256, 512, 768, 1024):
        models = made(root, width=width, layers=1, experts=2)
        for method in ("mean", "regmean"):
            yield method, width, merged(root, models, method)


def by_layers(root: Path) -> Iterator[tuple[str, float, Taken]]:
    for layers in (2, 4, 8, 16):
        models = made(root, width=384, layers=layers, experts=2)
        for method in ("mean", "regmean"):
            yield method, layers, merged(root, models, method)


def by_texts(root: Path) -> Iterator[tuple[str, float, Taken]]:
    (model,) = made(root, width=384, layers=4, experts=1)
    texts = root / "texts.txt"
    for count in (64, 256, 1024, 4096):
        out = root / "statistics"
        shutil.rmtree(out, ignore_errors=True)
        asked = ["--data", texts, "--limit", count, "--out", out]
        yield "collect", count, taken_by([*FUSEHUB, "collect", model, *asked], {"OMP_NUM_THREADS": "1"})
        shutil.rmtree(out)


STUDIES = {
    "experts": Study("Merging BERT of two layers", "experts", by_experts),
    "width": Study("Merging two of one layer", "wide", by_width),
    "layers": Study("Merging two that are 384 wide", "layers", by_layers),
    "texts": Study("Statistics of a model of four layers, 384 wide", "texts", by_texts),
}


def made(root: Path, **facts: int) -> list[Path]:
    """The folders of such models, made in a process of its own: one starts with the peak of that which started it."""
    taken_by([sys.executable, "-m", "tests.benchmarks.growth", "--folder", root, "--make", json.dumps(facts)])
    return places(root, **facts)


def places(root: Path, *, width: int, layers: int, experts: int) -> list[Path]:
    return [root / f"bert-{width}-{layers}" / f"expert-{number}" for number in range(experts)]


def make(root: Path, *, width: int, layers: int, experts: int) -> None:
    """BERTs of this width with statistics and a tokenizer beside the weights, and texts for them."""
    import random

    from transformers import BertConfig, BertForSequenceClassification

    from tests.benchmarks.merging import family, random_statistics
    from tests.unit.tiny import WORDS as KNOWN
    from tests.unit.tiny import tiny_tokenizer

    config = BertConfig(
        num_labels=2, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64,
    )  # fmt: skip
    folders = places(root, width=width, layers=layers, experts=experts)
    missing = [folder for folder in folders if not (folder / "fusehub").exists()]
    for folder in missing:
        (folder / "config.json").unlink(missing_ok=True)
    if missing:
        family(folders[0].parent, experts, BertForSequenceClassification, config)
    for seed, folder in enumerate(missing):
        tiny_tokenizer("bert").save_pretrained(folder)
        random_statistics(folder, seed)
    words = random.Random(0)
    lines = (" ".join(words.choices(KNOWN, k=WORDS)) for _ in range(4096))
    (root / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(path: Path, study: Study, lines: Mapping[str, Sequence[tuple[float, Taken]]]) -> None:
    """Processor time and memory over what is varied, both from zero."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fusehub"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for name, points in lines.items():
        at = [where for where, _ in points]
        left.plot(at, [taken.processor for _, taken in points], marker="o", label=name)
        right.plot(at, [taken.peak / 1e6 for _, taken in points], marker="o", label=name)
    for axes, label in ((left, "processor seconds"), (right, "memory at the most, MB")):
        axes.set_xlabel(study.over)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    figure.suptitle(study.title)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()

"""How time and memory grow: with experts, width, layers, texts and processes; as plots, and a row for the experts.

    python -m tests.benchmarks.growth [--only experts ...] [--folder DIR] [--record]

Models of random weights, statistics of random inputs; every run is a process of its own, once, after one of the same
models in which what transformers says is kept. Plots are of processor time, so that other work on the machine counts
little; those of several processes are of the clock's. With `--record` the plots are written to docs/images, too; else
they lie where `--plots` says. Needs matplotlib. All of it takes about ten minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.commands import FUSEHUB, ROOT, Taken, taken_by
from tests.benchmarks.record import Row, circumstances, keep, put, tell

IMAGES = ROOT / "docs" / "images"
EXPERTS = (2, 4, 8)
METHODS = ("mean", "task_arithmetic", "ties", "regmean")
BASED = ("task_arithmetic", "ties")
WORDS = 50


@dataclass(frozen=True)
class Study:
    """What is varied, and the commands whose time and memory are drawn over it: `run` gives each point."""

    title: str
    over: str
    run: Callable[[Path], Iterator[tuple[str, float, Taken]]]
    by_the_clock: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(STUDIES), nargs="+")
    parser.add_argument("--folder", type=Path, help="keep the models here, for the next time")
    parser.add_argument("--plots", type=Path, help="a folder for the plots")
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
                seconds = taken.seconds if study.by_the_clock else taken.processor
                print(f"{study.title}, {line}, {at:g} {study.over}: {seconds:.1f} s, {taken.peak / 1e6:.0f} MB")
                sys.stdout.flush()
            if name == "experts":
                rows += steady(lines)
            if places := [*filter(None, [said.plots]), *([IMAGES] if said.record else [])]:
                for place in places:
                    place.mkdir(parents=True, exist_ok=True)
                    draw(place / f"growth-{name}.svg", study, lines)
    tell(rows)
    if said.record:
        put("growth", shown())
    if said.record and rows:
        keep("growth", "python -m tests.benchmarks.growth", rows)


def shown() -> str:
    """The plots that there are, in the document's words."""
    there = {name: study for name, study in STUDIES.items() if (IMAGES / f"growth-{name}.svg").exists()}
    plots = [f"![{study.title}, over {study.over}](images/growth-{name}.svg)" for name, study in there.items()]
    return "\n\n".join([*plots, f"When the last one was measured: {circumstances()}."])


def steady(lines: Mapping[str, Sequence[tuple[float, Taken]]]) -> list[Row]:
    """Whether memory is the same of 2, 4 and 8 experts."""
    rows = []
    for line, points in lines.items():
        peaks = [taken.peak for _, taken in points]
        growth = max(peaks) / min(peaks) - 1
        told = ", ".join(f"{peak / 1e6:.0f}" for peak in peaks)
        rows.append(Row(f"{line}: memory of 2, 4 and 8 experts", f"{told} MB: {growth:+.0%}", "10 %", growth <= 0.1))
    return rows


def merge(root: Path, models: Sequence[Path], method: str, *more: object) -> Taken:
    """One merge; the first model is the base where the method has one."""
    out = root / "merged"
    shutil.rmtree(out, ignore_errors=True)
    based = method in BASED
    base = ["--base", models[0]] if based else []
    taken = taken_by([*FUSEHUB, "merge", *models[based:], *base, "--method", method, "--out", out, *more])
    shutil.rmtree(out, ignore_errors=True)
    return taken


def by_experts(root: Path) -> Iterator[tuple[str, float, Taken]]:
    models = warm(root, width=768, layers=2, experts=max(EXPERTS) + 1)
    for method in METHODS:
        for count in EXPERTS:
            yield method, count, merge(root, models[: count + (method in BASED)], method)


def by_width(root: Path) -> Iterator[tuple[str, float, Taken]]:
    for width in (256, 512, 1024):
        models = warm(root, width=width, layers=1, experts=2)
        for method in ("mean", "regmean"):
            yield method, width, merge(root, models, method)


def by_layers(root: Path) -> Iterator[tuple[str, float, Taken]]:
    for layers in (2, 8, 16):
        models = warm(root, width=384, layers=layers, experts=2)
        for method in ("mean", "regmean"):
            yield method, layers, merge(root, models, method)


def by_processes(root: Path) -> Iterator[tuple[str, float, Taken]]:
    """Processes of one thread that find each other as torchrun's do: until the last one ends, and the most memory of
    one."""
    models = warm(root, width=768, layers=2, experts=max(EXPERTS) + 1)[:3]
    for method in ("mean", "regmean"):
        for count in (1, 2):
            command = [*FUSEHUB, "merge", *models, "--method", method, "--out", root / "merged"]
            with ThreadPoolExecutor(count) as pool:
                taken = [*pool.map(taken_by, [command] * count, _ranks(count))]
            shutil.rmtree(root / "merged")
            seconds, processor = max(own.seconds for own in taken), sum(own.processor for own in taken)
            yield method, count, Taken(seconds, processor, max(own.peak for own in taken))


def _ranks(count: int) -> list[dict[str, str]]:
    """The environment of each process, as torchrun makes it."""
    if count == 1:
        return [{"OMP_NUM_THREADS": "1"}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    size = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    return [
        {**size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(count)
    ]


def by_texts(root: Path) -> Iterator[tuple[str, float, Taken]]:
    (model,) = made(root, width=384, layers=4, experts=1)
    texts = root / "texts.txt"
    for count in (64, 256, 1024):
        out = root / "statistics"
        shutil.rmtree(out, ignore_errors=True)
        asked = ["--data", texts, "--limit", count, "--out", out]
        yield "collect", count, taken_by([*FUSEHUB, "collect", model, *asked], {"OMP_NUM_THREADS": "1"})
        shutil.rmtree(out)


STUDIES = {
    "experts": Study("Merging BERT of two layers", "experts", by_experts),
    "width": Study("Merging two of one layer", "width", by_width),
    "layers": Study("Merging two that are 384 wide", "layers", by_layers),
    "texts": Study(f"Statistics of a model of four layers, 384 wide, {WORDS} words a text", "texts", by_texts),
    "processes": Study(
        "Merging three BERTs of two layers", "processes of one thread", by_processes, by_the_clock=True
    ),
}


def warm(root: Path, **facts: int) -> list[Path]:
    """The same, of which a plan was made: what transformers says of such models is kept then."""
    models = made(root, **facts)
    taken_by([*FUSEHUB, "merge", *models[:2], "--method", "regmean", "--dry-run"])
    return models


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
    """Time and memory over what is varied, both from zero; each line has its name at its end, and its own marker."""
    import matplotlib

    matplotlib.use("svg")
    # As text, so that it is drawn in the reader's font and can be searched for.
    matplotlib.rcParams |= {"svg.hashsalt": "fusehub", "svg.fonttype": "none", "font.size": 11}
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for marker, (name, points) in zip("osD^", lines.items(), strict=False):
        at = [where for where, _ in points]
        seconds = [taken.seconds if study.by_the_clock else taken.processor for _, taken in points]
        left.plot(at, seconds, marker=marker, label=name.replace("_", " "))
        right.plot(at, [taken.peak / 1e6 for _, taken in points], marker=marker)
    time = "seconds" if study.by_the_clock else "processor seconds"
    for axes, label in ((left, time), (right, "memory at the most, MB")):
        axes.set_xlabel(study.over)
        axes.set_ylabel(label)
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.set_xlim(left=0)
        axes.set_xticks([where for where, _ in next(iter(lines.values()))])
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(lines), frameon=False)
    figure.suptitle(study.title)
    # On a page that may be dark.
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    pyplot.close(figure)


if __name__ == "__main__":
    main()

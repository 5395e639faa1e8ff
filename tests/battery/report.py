"""`docs/results.md` and its plots, from the recorded results: what is not there yet is left out, and said."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fusehub.demo.training import TRAIN_TEXTS
from tests.battery.families import Family
from tests.battery.plots import draw_curve, draw_gains
from tests.battery.run import ALPHAS, CURVE, DEFAULT, PAIR_ROWS, ROWS, SIZES, STATISTICS_TEXTS
from tests.battery.store import Store
from tests.battery.tasks import WAYS
from tests.battery.verdict import BEST, ENSEMBLE, MULTITASK, Runs, costs, verdict

Results = list[dict[str, Any]]
COMMAND = "make battery"


def write_report(families: Sequence[Family], docs: Path) -> Path:
    """Writes the document and its plots into `docs`, from the results in `docs/results`; the document's path."""
    found = [Store(docs / "results" / f"{family.name}.jsonl").all() for family in families]
    across = Store(docs / "results" / "tasks.jsonl").all()
    machines = sorted({result["machine"] for results in (*found, across) for result in results})
    parts = [_HEAD.format(command=COMMAND, machine=" and ".join(machines))]
    parts += [_family(family, results, docs) for family, results in zip(families, found, strict=True) if results]
    if across:
        parts.append(_across(across))
    path = docs / "results.md"
    path.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    return path


def _family(family: Family, results: Results, docs: Path) -> str:
    seeds = {result["seed"] for result in results if result["row"] == DEFAULT}
    runs = Runs(results, family.domains)
    parts = [f"\n## {family.title}\n", _about(family, seeds)]
    triples = [[d for d in family.domains if d != out] for out in family.domains]
    done = [inside for inside in triples if any(r["row"] == DEFAULT and r["experts"] == inside for r in results)]
    over = f"all {len(done)} choices" if len(done) == len(triples) else f"{len(done)} of {len(triples)} choices"
    parts.append(f"\n### Over {over} of three experts\n")
    parts.append(_summary(runs))
    drawn = f"images/{family.name}-methods.svg"
    if draw_gains(docs / drawn, runs, family.metric):
        parts.append(f"\n![{family.metric} of every way, against the plain mean]({drawn})")
    parts += ["", verdict(runs), "\n### What each way costs\n", costs(results, _line)]
    for inside in done:
        out = next(domain for domain in family.domains if domain not in inside)
        parts.append(f"\n### Experts on {', '.join(inside)}; out of domain: {out}\n")
        parts.append(_main_table(results, inside, out))
    parts.append(_pairs(results))
    inside = triples[-1]
    table = [r for r in results if r["part"] == "main" and r["experts"] == list(inside)]
    for part, values in (("alpha", ALPHAS), ("texts", CURVE)):
        own = table + [r for r in results if r["part"] == part]
        names = {x: f"{part} {x:g}" if part == "alpha" else f"{x} {part}" for x in values}
        points = [(x, [r for r in own if r["row"] in (name, f"RegMean, {name}")]) for x, name in names.items()]
        if part == "texts":
            points.append((_texts_of_tables(family, inside), [r for r in own if r["row"] == DEFAULT]))
            points.append((TRAIN_TEXTS, [r for r in own if r["row"] == f"{TRAIN_TEXTS} texts"]))
        parts.append(_curve(family, table, inside, part, points, docs))
    parts.append(_sizes(family, results, inside))
    return "\n".join(part for part in parts if part is not None)


def _about(family: Family, seeds: Collection[int]) -> str:
    settings = family.settings
    about = (
        f"{family.metric} on test texts, in points. MiniLM (22 M parameters), {settings.epochs} passes at "
        f"{settings.learning_rate:g} in batches of {settings.batch_size}. Mean ± standard deviation over "
        f"{len(seeds)} seeds of the experts; a number without ± is of one seed, as that of multi-task learning is. "
        "Statistics from up to 1,000 training texts of each expert. Seconds are processor seconds over all cores, "
        "and memory is the peak, of the whole `fusehub merge` process of the first seed; for an expert and for "
        "multi-task learning, seconds of the training."
    )
    return "\n\n".join(textwrap.fill(text, 119) for text in (family.source, about) if text)


def _main_table(results: Results, inside: Sequence[str], out: str) -> str:
    own = [r for r in results if r["part"] == "main" and r["experts"] == list(inside)]
    experts = [r for r in results if r["part"] == "experts" and r["experts"][0] in inside]
    lines = [_line(["", *inside, "in domain", f"{out} (out)", "seconds", "memory"]), _rule(len(inside) + 5)]
    for domain in inside:
        lines.append(_row(f"expert on {domain}", [r for r in experts if r["experts"] == [domain]], inside, out))
    lines.append(_best_expert(experts, inside, out))
    for name in (ENSEMBLE, *(row.name for row in ROWS), MULTITASK):
        found = [r for r in own if r["row"] == name]
        if found:
            lines.append(_row(name, found, inside, out))
    return "\n".join(lines)


def _best_expert(experts: Results, inside: Sequence[str], out: str) -> str:
    """In every seed the expert with the highest mean over the domains of the experts."""
    best = []
    for seed in sorted({r["seed"] for r in experts}):
        best.append(max((r for r in experts if r["seed"] == seed), key=lambda r: _in_domain(r, inside)))
    return _row(BEST, best, inside, out)


def _row(name: str, found: Results, inside: Sequence[str], out: str) -> str:
    if not found:
        return _line([name, *["" for _ in inside], "", "", "", ""])
    cells = [_spread([r["scores"][domain] for r in found]) for domain in inside]
    cells.append(f"**{_spread([_in_domain(r, inside) for r in found])}**")
    cells.append(_spread([r["scores"][out] for r in found]))
    seconds = [r["processor_seconds"] for r in found if "processor_seconds" in r]
    peaks = [r["peak_bytes"] / 1e6 for r in found if "peak_bytes" in r]
    cells += [f"{mean(seconds):.0f}" if seconds else "", f"{mean(peaks):.0f} MB" if peaks else ""]
    return _line([name, *cells])


def _summary(runs: Runs) -> str:
    """Every way over all choices of three experts: in domain, out of domain, and against the mean in the same runs."""
    lines = [_line(["", "in domain", "against the mean", "out of domain", "against the mean", "runs"]), _rule(6)]
    for way in runs.ways():
        cells = []
        for place in (0, 1):
            gains = runs.gains(way, "mean", place)
            cells.append(f"{100 * mean(score[place] for score in runs.of(way).values()):.1f}")
            cells.append(f"{mean(gains):+.1f}" if gains and way != "mean" else "")
        lines.append(_line([way, *cells, str(len(runs.of(way)))]))
    return "\n".join(lines)


def _pairs(results: Results) -> str | None:
    own = [r for r in results if r["part"] == "main" and len(r["experts"]) == 2]
    names = [name for name in (ENSEMBLE, *PAIR_ROWS) if any(r["row"] == name for r in own)]
    if not names:
        return None
    lines = ["\n### Pairs of experts, in domain\n", _line(["experts", *names]), _rule(1 + len(names))]
    for pair in sorted({tuple(r["experts"]) for r in own}):
        found = {name: [r for r in own if r["row"] == name and tuple(r["experts"]) == pair] for name in names}
        cells = [_spread([_in_domain(r, pair) for r in rs]) if rs else "" for rs in found.values()]
        lines.append(_line([" + ".join(pair), *cells]))
    return "\n".join([*lines, *_of_pairs(own)])


def _of_pairs(own: Results) -> list[str]:
    """A sentence: how often RegMean is above the mean of two experts, and for which two it is not on average."""
    scores = {(r["row"], tuple(r["experts"]), r["seed"]): 100 * _in_domain(r, r["experts"]) for r in own}
    gains: dict[tuple[str, ...], list[float]] = {}
    for (row, pair, seed), score in scores.items():
        if row == DEFAULT and ("mean", pair, seed) in scores:
            gains.setdefault(pair, []).append(score - scores["mean", pair, seed])
    every = [gain for pair in gains.values() for gain in pair]
    if not every:
        return []
    told = f"{mean(every):+.1f} points on average, above in {sum(gain > 0 for gain in every)} of {len(every)} runs"
    below = [" + ".join(pair) for pair, found in sorted(gains.items()) if mean(found) < 0]
    less = f" It is below the mean for {', '.join(below)}." if below else ""
    return ["", f"RegMean against the plain mean: {told}.{less}"]


def _texts_of_tables(family: Family, inside: Sequence[str]) -> float:
    """How many texts the tables' statistics are made from, on average over the experts."""
    return mean(min(STATISTICS_TEXTS, family.count(domain)) for domain in inside)


def _of_the_same_seeds(groups: Sequence[Results]) -> list[Results]:
    """Each group's results of those seeds that all groups have: a seed more would look like a difference."""
    seeds = set.intersection(*({r["seed"] for r in own} for own in groups)) if groups else set()
    return [[r for r in own if r["seed"] in seeds] for own in groups]


def _curve(
    family: Family,
    table: Results,
    inside: Sequence[str],
    part: str,
    points: Sequence[tuple[float, Results]],
    docs: Path,
) -> str | None:
    """A table and a plot over alpha, or over the number of texts that the statistics were made from."""
    out = next(domain for domain in family.domains if domain not in inside)
    points = [(x, own) for x, own in points if own]
    points = list(zip([x for x, _ in points], _of_the_same_seeds([own for _, own in points]), strict=True))
    if not any(r["part"] == part for _, own in points for r in own):
        return None
    title = {"alpha": "Over alpha", "texts": "Over the number of texts that statistics are made from"}[part]
    lines = [f"\n### {title}\n", _line([part, "in domain", f"{out} (out)", "seeds"]), _rule(4)]
    for x, own in points:
        cells = [_spread([_in_domain(r, inside) for r in own]), _spread([r["scores"][out] for r in own])]
        lines.append(_line([f"{x:.0f}" if x > 1 else f"{x:g}", *cells, str(len(own))]))
    seeds = {r["seed"] for _, own in points for r in own}
    baseline = [r for r in table if r["row"] == "mean" and r["seed"] in seeds]
    name = f"images/{family.name}-{part}.svg"
    label = {"alpha": "alpha", "texts": "texts for the statistics"}[part]
    scores = (lambda r: _in_domain(r, inside)), (lambda r: r["scores"][out])
    draw_curve(docs / name, points, scores, baseline, label, family.metric)
    lines.append(f"\n![{title}: {family.metric} in and out of domain]({name})")
    return "\n".join(lines)


def _sizes(family: Family, results: Results, inside: Sequence[str]) -> str | None:
    noised = [r for r in results if r["part"] in ("size", "noise")]
    if not noised:
        return None
    full = [r | {"row": "full"} for r in results if r["row"] == DEFAULT and r["experts"] == list(inside)]
    found = full + noised
    out = next(domain for domain in family.domains if domain not in inside)
    lines = [
        "\n### Small and noised statistics\n",
        _line(["statistics", "in domain", f"{out} (out)", "seeds"]),
        _rule(4),
    ]
    order = [
        "full",
        *SIZES,
        *sorted({r["row"] for r in found if r["part"] == "noise"}, key=lambda name: -float(name[8:])),
    ]
    named = {name: [r for r in found if r["row"] == name] for name in order}
    named = {name: own for name, own in named.items() if own}
    for name, own in zip(named, _of_the_same_seeds(list(named.values())), strict=True):
        if own:
            scores = [_in_domain(r, inside) for r in own]
            outside = _spread([r["scores"][out] for r in own])
            lines.append(_line([name, _spread(scores), outside, str(len(own))]))
    return "\n".join(lines)


def _across(results: Results) -> str:
    """Two experts of different tasks with one merged body: each head on its own domain, beside the expert itself."""
    lines = [
        "\n## Different tasks, one body\n",
        "A sentiment expert and an entity expert of the same encoder: the body is merged and each keeps its head.\n"
        "Accuracy and entity F1 of each head on the domain of its own expert.\n",
        _line(["experts", "merged by", "sentiment", "expert alone", "entities", "expert alone"]),
        _line(["---", "---", *["---:"] * 4]),
    ]
    gains: dict[str, list[float]] = {}
    for experts in sorted({tuple(r["experts"]) for r in results}):
        by_way = {way: [r for r in results if tuple(r["experts"]) == experts and r["row"] == way] for way, _ in WAYS}
        for way, own in by_way.items():
            if own:
                cells = [
                    _spread([r[which][name] for r in own]) for name in own[0]["scores"] for which in ("scores", "own")
                ]
                lines.append(_line([" + ".join(experts), way, *cells]))
        means = {r["seed"]: r["scores"] for r in by_way["mean"]}
        for result in by_way[DEFAULT]:
            for name, score in result["scores"].items() if result["seed"] in means else ():
                gain = 100 * (score - means[result["seed"]][name])
                gains.setdefault(name.partition(":")[0], []).append(gain)
    if gains:
        told = [
            f"{mean(found):+.1f} points on {task} (above in {sum(gain > 0 for gain in found)} of {len(found)} runs)"
            for task, found in gains.items()
        ]
        lines += ["", f"RegMean against the plain mean: {', '.join(told)}."]
    return "\n".join(lines)


def _in_domain(result: dict[str, Any], inside: Iterable[str]) -> float:
    return mean(result["scores"][domain] for domain in inside)


def _spread(values: Sequence[float]) -> str:
    return f"{100 * mean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return _line(["---", *["---:"] * (columns - 1)])


_HEAD = """# Results

The comparison of the RegMean paper, run again on real text and small models. Every number here comes from
`{command}`, which can be run again (hours; it goes on where it was stopped). Machine: {machine}.

How to read it: an expert is fine-tuned on one kind of text. Three experts are merged; the fourth kind of text is one
that none of them saw. "In domain" is the mean over the three. The ensemble runs all three models for every text and
averages their probabilities. The best expert is the one that is best on these same tests, which nobody knows
beforehand. Multi-task learning trains one model on the texts of all three, which is what merging avoids: it needs all
data in one place."""

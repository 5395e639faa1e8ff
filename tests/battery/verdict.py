"""What the tables say, in sentences that are made from the same numbers: who wins, who does not, and at what cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from tests.battery.run import COLLECTED, DEFAULT, ROWS

Results = list[dict[str, Any]]
Run = tuple[tuple[str, ...], int]
BEST, ENSEMBLE, MULTITASK = "best expert", "ensemble", "multi-task learning"


class Runs:
    """Every way to get one model, by choice of experts and seed: (in domain, out of domain) as fractions of 1."""

    def __init__(self, results: Results, domains: Sequence[str]) -> None:
        self.results = results
        self.by_way: dict[str, dict[Run, tuple[float, float]]] = {}
        for result in results:
            if result["part"] == "main" and len(result["experts"]) == len(domains) - 1:
                run = (tuple(result["experts"]), result["seed"])
                self.by_way.setdefault(result["row"], {})[run] = _inside_and_out(result, run[0], domains)
        self.by_way[BEST] = {run: best for run in self.of("mean") if (best := self._best(run, domains))}

    def of(self, way: str) -> dict[Run, tuple[float, float]]:
        """All runs of one way."""
        return self.by_way.get(way, {})

    def ways(self) -> list[str]:
        """The ways that have runs, as tables have them."""
        return [way for way in (BEST, ENSEMBLE, *(row.name for row in ROWS), MULTITASK) if self.of(way)]

    def gains(self, way: str, other: str, place: int) -> list[float]:
        """By how many points `way` is above `other`, in all runs that both have; `place` 1 is out of domain."""
        own, others = self.of(way), self.of(other)
        return [100 * (own[run][place] - others[run][place]) for run in own if run in others]

    def _best(self, run: Run, domains: Sequence[str]) -> tuple[float, float] | None:
        inside, seed = run
        experts = [r for r in self.results if r["part"] == "experts" and r["seed"] == seed and r["row"] in inside]
        return max((_inside_and_out(r, inside, domains) for r in experts), default=None)


def verdict(runs: Runs) -> str:
    """A list of sentences on RegMean as it is when nothing is said."""
    if not set(runs.of(DEFAULT)) & set(runs.of("mean")):
        return ""
    lines = [
        f"{DEFAULT.replace(',', ' with')}, against {of}: {told}."
        for other, of in (("mean", "the plain mean"), (BEST, "the best of the experts"), (ENSEMBLE, "their ensemble"))
        if (told := _told(runs, other))
    ]
    merges = _means(runs, [row.name for row in ROWS if runs.of(row.name)])
    for place, where in enumerate(("in domain", "out of domain")):
        first = max(merges, key=lambda way: merges[way][place])
        lines.append(
            f"Of the merges, the highest {where} is {first} ({merges[first][place]:.1f}); "
            f"{DEFAULT} has {merges[DEFAULT][place]:.1f}, the mean {merges['mean'][place]:.1f}."
        )
    behind = [way for way in merges if way != "mean" and mean(runs.gains(way, "mean", 0)) < 0]
    if behind:
        lines.append(f"Below the plain mean in domain: {', '.join(behind)}.")
    if runs.gains(DEFAULT, MULTITASK, 0):
        lines.append(f"Against multi-task learning, which needs all data in one place: {_told(runs, MULTITASK)}.")
    return "\n".join(f"- {line}" for line in lines)


def costs(results: Results, line: Callable[[Sequence[str]], str]) -> str:
    """A table of what each way costs, beside what training costs."""
    own = [r for r in results if "processor_seconds" in r and r["part"] in ("main", "experts", "collect")]
    expert = [r["processor_seconds"] for r in own if r["part"] == "experts"]
    if not expert or not any(r["row"] == DEFAULT for r in own):
        return ""
    lines = [
        line(["", "processor seconds", "part of training one expert", "peak memory"]),
        line(["---", "---:", "---:", "---:"]),
        line(["training one expert", f"{mean(expert):.0f}", "1", ""]),
    ]
    seconds = {}
    for way in (*COLLECTED, MULTITASK, *(row.name for row in ROWS)):
        found = [r for r in own if r["part"] in ("main", "collect") and r["row"] == way]
        if found:
            seconds[way] = mean(r["processor_seconds"] for r in found)
            peaks = [r["peak_bytes"] / 1e6 for r in found if "peak_bytes" in r]
            memory = f"{mean(peaks):,.0f} MB" if peaks else ""
            lines.append(line([way, f"{seconds[way]:.0f}", f"{seconds[way] / mean(expert):.2g}", memory]))
    grams = next(iter(COLLECTED))
    if grams in seconds:
        whole = 3 * seconds[grams] + seconds[DEFAULT]
        told = f"Whoever makes the statistics of all three experts and merges them takes {whole:.0f} processor seconds"
        told += f", {whole / mean(expert):.2g} of training one expert"
        if MULTITASK in seconds:
            told += f" and {whole / seconds[MULTITASK]:.2g} of training one model on the texts of all"
        lines += ["", f"{told}. Where owners have published them, it is the line of the merge alone."]
    return "\n".join(lines)


def _told(runs: Runs, other: str) -> str:
    told = []
    for place, where in enumerate(("in domain", "out of domain")):
        gains = runs.gains(DEFAULT, other, place)
        if gains:
            above = sum(gain > 0 for gain in gains)
            told.append(f"{mean(gains):+.1f} points {where} (above in {above} of {len(gains)} runs)")
    return ", ".join(told)


def _means(runs: Runs, ways: Sequence[str]) -> dict[str, tuple[float, float]]:
    """In and out of domain, in points, over the runs that all `ways` have."""
    shared = set.intersection(*(set(runs.of(way)) for way in ways))
    return {
        way: (100 * mean(runs.of(way)[run][0] for run in shared), 100 * mean(runs.of(way)[run][1] for run in shared))
        for way in ways
    }


def _inside_and_out(result: dict[str, Any], inside: Sequence[str], domains: Sequence[str]) -> tuple[float, float]:
    (out,) = (domain for domain in domains if domain not in inside)
    return mean(result["scores"][domain] for domain in inside), result["scores"][out]

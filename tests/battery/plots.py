"""The plots of `docs/results.md`, as SVG: the same results give the same file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tests.battery.verdict import Runs

Results = list[dict[str, Any]]
PLACES = (("in domain", "#4f46e5"), ("out of domain", "#059669"))


def draw_curve(
    path: Path,
    points: Sequence[tuple[float, Results]],
    scores: tuple[Callable[[dict[str, Any]], float], Callable[[dict[str, Any]], float]],
    baseline: Results,
    label: str,
    metric: str,
) -> None:
    """RegMean's `scores` (in and out of domain) over alpha or a number of texts; the plain mean as dashed lines."""
    with _figure(path, 3.6) as (figure, axes):
        for (where, colour), score in zip(PLACES, scores, strict=True):
            x = [at for at, _ in points]
            y = [100 * mean(map(score, results)) for _, results in points]
            error = [100 * _deviation(list(map(score, results))) for _, results in points]
            axes.errorbar(x, y, error, marker="o", capsize=3, color=colour, label=f"RegMean, {where}")
            if baseline:
                at_mean = 100 * mean(map(score, baseline))
                axes.axhline(at_mean, linestyle="--", color=colour, linewidth=1, label=f"plain mean, {where}")
        if max(x) > 1:
            axes.set_xscale("log")
            axes.set_xticks(x, [f"{at:.0f}" for at in x], minor=False)
            axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel(f"{metric}, points")
        figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)


def draw_gains(path: Path, runs: Runs, metric: str) -> bool:
    """By how much every way is above the plain mean in the same runs, with standard deviations; False for none."""
    ways = [way for way in runs.ways() if way != "mean" and runs.gains(way, "mean", 0)]
    if not ways:
        return False
    with _figure(path, 0.8 + 0.32 * len(ways)) as (figure, axes):
        for place, (where, colour) in enumerate(PLACES):
            gains = [runs.gains(way, "mean", place) for way in ways]
            rows = [number - 0.12 + 0.24 * place for number in range(len(ways))]
            error = [_deviation(own) for own in gains]
            axes.errorbar(
                [mean(own) for own in gains], rows, xerr=error, fmt="o", capsize=2, color=colour, label=where
            )
        axes.axvline(0, color="#6b7280", linewidth=1)
        axes.set_yticks(range(len(ways)), ways)
        axes.invert_yaxis()
        axes.set_xlabel(f"{metric}: points above the plain mean")
        figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return True


@contextmanager
def _figure(path: Path, height: float) -> Iterator[tuple[Any, Any]]:
    """A figure (6.4 by `height` inches) and its axes, written to `path` when they are drawn."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fusehub"
    # Letters as letters: small files, which can be searched and read aloud.
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, height), layout="constrained")
    yield figure, axes
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a background of its own it could not be read in the dark.
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0

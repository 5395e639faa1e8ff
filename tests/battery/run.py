"""Merges experts in every way that FuseHub has, and scores what comes out in and out of domain."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import fusehub as package
from tests.battery.experts import base_of, trained, training_cost
from tests.battery.families import Family
from tests.battery.store import Store, fusehub, name_of

STATISTICS_TEXTS = 1000
# How many examples the curve over the statistics' size has; the last is all that training used.
CURVE = (10, 30, 100, 300, 1000)
ALPHAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0)
SIZES = ("full", "half", "compact", "tiny")
NOISE = (1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Row:
    """One way to merge, as the table has it."""

    name: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs_base: bool = False
    needs_data: bool = False


ROWS = (
    Row("mean", "mean"),
    Row("Fisher", "fisher"),
    *(Row(f"RegMean, alpha {alpha:g}", "regmean", {"alpha": alpha}) for alpha in (1.0, 0.9, 0.5, 0.1)),
    Row("RegMean++", "regmean_plus_plus", needs_data=True),
    Row("TIES", "ties", {"density": 0.5, "weight": 1.0}, needs_base=True),
    Row("task arithmetic", "task_arithmetic", {"weight": 0.4}, needs_base=True),
    Row("data-free", "data_free", needs_base=True),
)


class Battery:
    """One family of experts in one folder; `known` are the methods that this FuseHub has."""

    def __init__(self, family: Family, folder: Path, results: Path, seeds: Sequence[int]) -> None:
        self.family, self.folder, self.seeds = family, folder, seeds
        self.store = Store(results / f"{family.name}.jsonl")
        self.work = folder / "work" / family.name
        self.rows = [row for row in ROWS if row.method in package.METHODS]

    def run(self) -> None:
        """Everything, the main table first and what takes longest last."""
        triples = [[domain for domain in self.family.domains if domain != out] for out in self.family.domains]
        for seed in self.seeds:
            for domain in self.family.domains:
                self.expert(domain, seed)
            for inside in triples:
                self.ensemble(inside, seed)
                for row in self.rows:
                    self.merged(row, inside, seed)
            for pair in itertools.combinations(self.family.domains, 2):
                self.ensemble(pair, seed)
                for row in self.rows:
                    if row.name in ("mean", "RegMean, alpha 0.9"):
                        self.merged(row, pair, seed)
        for seed in self.seeds:
            self.curves(triples[-1], seed)
        # As long as all experts together: of one seed, and the report says so.
        for inside in triples:
            self.multitask(inside, self.seeds[0])

    def curves(self, inside: Sequence[str], seed: int) -> None:
        """RegMean of one choice of experts over alpha, the number of texts, the size of statistics, and noise."""
        for alpha in ALPHAS:
            self.merged(Row(f"alpha {alpha:g}", "regmean", {"alpha": alpha}), inside, seed, "alpha")
        for count in CURVE:
            fewer = partial(self._limited, inside, seed, count)
            self.merged(Row(f"{count} texts", "regmean"), inside, seed, "texts", fewer)
        for size in SIZES:
            self.merged(Row(size, "regmean"), inside, seed, "size", partial(self._resized, inside, seed, size))
        for epsilon in NOISE:
            noised = partial(self._noised, inside, seed, epsilon)
            self.merged(Row(f"epsilon {epsilon:g}", "regmean"), inside, seed, "noise", noised)

    def expert(self, domain: str, seed: int) -> dict[str, Any]:
        """An expert's scores everywhere, what its training cost, and what its statistics cost."""

        def make() -> dict[str, Any]:
            model = self.model(domain, seed)
            return self._result("experts", domain, [domain], seed, model, **training_cost(model))

        return self.store.done(f"seed{seed}/expert-{domain}", make)

    def multitask(self, domains: Sequence[str], seed: int) -> dict[str, Any]:
        """One model trained on the texts of all: the upper line, and what it costs."""

        def make() -> dict[str, Any]:
            model = trained(self.family, domains, seed, self.folder)
            return self._result("main", "multi-task learning", domains, seed, model, **training_cost(model))

        return self.store.done(f"seed{seed}/{name_of(domains)}/multitask", make)

    def ensemble(self, domains: Sequence[str], seed: int) -> dict[str, Any]:
        """The mean of the experts' probabilities."""

        def make() -> dict[str, Any]:
            models = [str(self.model(domain, seed)) for domain in domains]
            evaluation = package.evaluate(models, self._tests(), ensemble=True)
            scores = {score.data: score.main for score in evaluation.scores if score.model == "ensemble"}
            return {**self._labels("main", "ensemble", domains, seed), "scores": scores}

        return self.store.done(f"seed{seed}/{name_of(domains)}/ensemble", make)

    def merged(
        self,
        row: Row,
        domains: Sequence[str],
        seed: int,
        part: str = "main",
        statistics: Callable[[], Sequence[Path]] | None = None,
    ) -> dict[str, Any]:
        """A merge's scores and cost. `statistics()` are taken in place of those beside the experts."""

        def make() -> dict[str, Any]:
            experts = [self.model(domain, seed) for domain in domains]
            out = self.work / "merged"
            shutil.rmtree(out, ignore_errors=True)
            command = ["merge", *map(str, experts), "--method", row.method, "--out", str(out)]
            command += [word for key, value in row.parameters.items() for word in ("--param", f"{key}={value}")]
            if row.needs_base:
                command += ["--base", str(base_of(self.family, self.folder))]
            if row.needs_data:
                for expert, domain in zip(experts, domains, strict=True):
                    command += ["--data", f"{expert}={self.family.file(domain, 'train')}"]
            for expert, own in zip(experts, statistics() if statistics else (), strict=False):
                command += ["--statistics", f"{expert}={own}"]
            cost = fusehub(*command)
            result = self._result(part, row.name, domains, seed, out, **cost)
            shutil.rmtree(out)
            return result

        return self.store.done(f"seed{seed}/{name_of(domains)}/{part}-{row.name.replace(' ', '-')}", make)

    def model(self, domain: str, seed: int) -> Path:
        """The expert with full statistics and Fisher diagonals beside its weights."""
        model = trained(self.family, [domain], seed, self.folder)
        if not (model / "fusehub" / "statistics.json").exists():
            self._collect(model, domain, model / "fusehub", STATISTICS_TEXTS, "--fisher")
        return model

    def _collect(self, model: Path, domain: str, out: Path, limit: int, *options: str) -> Path:
        if not (out / "statistics.json").exists():
            data = str(self.family.file(domain, "train"))
            size = () if "--size" in options else ("--size", "full")
            fusehub("collect", str(model), "--data", data, "--limit", str(limit), "--out", str(out), *size, *options)
        return out

    def _limited(self, domains: Sequence[str], seed: int, count: int) -> list[Path]:
        return [
            self._collect(self.model(domain, seed), domain, self.work / f"{domain}-seed{seed}-{count}-texts", count)
            for domain in domains
        ]

    def _resized(self, domains: Sequence[str], seed: int, size: str) -> list[Path]:
        made = []
        for domain in domains:
            full = self.model(domain, seed) / "fusehub"
            out = full if size == "full" else self.work / f"{domain}-seed{seed}-{size}"
            if not (out / "statistics.json").exists():
                fusehub("collect", "--from", str(full), "--size", size, "--out", str(out))
            made.append(out)
        return made

    def _noised(self, domains: Sequence[str], seed: int, epsilon: float) -> list[Path]:
        return [
            self._collect(
                self.model(domain, seed),
                domain,
                self.work / f"{domain}-seed{seed}-noise-{epsilon:g}",
                STATISTICS_TEXTS,
                "--noise",
                f"{epsilon:g}",
            )
            for domain in domains
        ]

    def _tests(self) -> dict[str, str]:
        return {domain: str(self.family.file(domain, "test")) for domain in self.family.domains}

    def _labels(self, part: str, row: str, domains: Sequence[str], seed: int) -> dict[str, Any]:
        return {"family": self.family.name, "part": part, "row": row, "experts": list(domains), "seed": seed}

    def _result(
        self, part: str, row: str, domains: Sequence[str], seed: int, model: Path, **cost: float
    ) -> dict[str, Any]:
        evaluation = package.evaluate([str(model)], self._tests())
        scores = {score.data: score.main for score in evaluation.scores}
        return {**self._labels(part, row, domains, seed), "scores": scores, **cost}

"""Merges experts in every way that FuseHub has, and scores what comes out in and out of domain."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import fusehub as package
from fusehub.comparing.ensemble import ensemble as mean_of
from fusehub.comparing.prediction import Prediction
from fusehub.comparing.predictor import Predictor
from fusehub.comparing.tasks import answers_of
from fusehub.data.examples import Examples, load_examples
from fusehub.demo.training import TRAIN_TEXTS
from fusehub.models.resolve import resolve
from fusehub.models.tasks import task_of
from tests.battery.experts import base_of, trained, training_cost
from tests.battery.families import Family
from tests.battery.store import Store, fusehub, fusehub_here, name_of

STATISTICS_TEXTS = 1000
# How many examples the curve over the statistics' size has; the table's RegMean is on it too, and all training texts.
CURVE = (10, 30, 100, 300)
ALPHAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0)
SIZES = ("half", "compact", "tiny")
NOISE = (1.0, 10.0, 100.0)
# RegMean as it is when nothing is said, in the table and in the curves.
DEFAULT = "RegMean, alpha 0.9"
PAIR_ROWS = ("mean", DEFAULT)
# What the owner of a model does once, before anybody merges: the name in the table of costs, and the options.
COLLECTED = {"its statistics": (), "its statistics, with Fisher diagonals": ("--fisher",)}


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
        self.predictions: dict[tuple[str, int, str], Prediction] = {}
        self.rows = [row for row in ROWS if row.method in package.METHODS]

    def run(self) -> None:
        """Everything: one choice of experts over all seeds first, so that there is something to read early."""
        first, *others = self.seeds
        triples = [[domain for domain in self.family.domains if domain != out] for out in self.family.domains]
        triples.reverse()
        for seed in self.seeds:
            self.table(triples[0], seed)
        # Trained as long as all its experts together: of one seed, and the report says so.
        self.multitask(triples[0], first)
        self.curves(triples[0], first)
        for domain, options in itertools.product(triples[0], COLLECTED.values()):
            self.collected(domain, first, *options)
        for inside, seed in itertools.product(triples[1:], self.seeds):
            self.table(inside, seed)
        for pair, seed in itertools.product(itertools.combinations(self.family.domains, 2), self.seeds):
            self.ensemble(pair, seed)
            for row in self.rows:
                if row.name in PAIR_ROWS:
                    self.merged(row, pair, seed, tests=pair)
        for seed in others:
            self.curves(triples[0], seed)
        for inside in triples[1:]:
            self.multitask(inside, first)

    def table(self, inside: Sequence[str], seed: int) -> None:
        """One choice of experts of one seed in every way."""
        for domain in inside:
            self.expert(domain, seed)
        self.ensemble(inside, seed)
        for row in self.rows:
            self.merged(row, inside, seed)

    def curves(self, inside: Sequence[str], seed: int) -> None:
        """RegMean of one choice of experts over alpha, the number of texts, the size of statistics, and noise.

        What the table has already (alpha 1, 0.9, 0.5 and 0.1; full statistics of all texts) is not done again.
        """
        for alpha in ALPHAS:
            if f"RegMean, alpha {alpha:g}" not in {row.name for row in self.rows}:
                self.merged(Row(f"alpha {alpha:g}", "regmean", {"alpha": alpha}), inside, seed, "alpha")
        for count in (*CURVE, *self._all_texts()):
            fewer = partial(self._limited, inside, seed, count)
            self.merged(Row(f"{count} texts", "regmean"), inside, seed, "texts", fewer)
        for size in SIZES:
            self.merged(Row(size, "regmean"), inside, seed, "size", partial(self._resized, inside, seed, size))
        for epsilon in NOISE:
            noised = partial(self._noised, inside, seed, epsilon)
            self.merged(Row(f"epsilon {epsilon:g}", "regmean"), inside, seed, "noise", noised)

    def _all_texts(self) -> tuple[int, ...]:
        """How many texts an expert is trained on, where that is more than the tables' statistics are made from."""
        enough = all(self.family.count(domain) >= TRAIN_TEXTS for domain in self.family.domains)
        return (TRAIN_TEXTS,) if enough else ()

    def expert(self, domain: str, seed: int) -> dict[str, Any]:
        """An expert's scores everywhere, what its training cost, and what its statistics cost."""

        def make() -> dict[str, Any]:
            cost = training_cost(self.model(domain, seed))
            scores = {test: self._score(self._predicted(domain, seed, test), test) for test in self.family.domains}
            return {**self._labels("experts", domain, [domain], seed), "scores": scores, **cost}

        return self.store.done(f"seed{seed}/expert-{domain}", make)

    def collected(self, domain: str, seed: int, *options: str) -> dict[str, Any]:
        """What the statistics of an expert cost, as a process of its own."""
        row = next(name for name, own in COLLECTED.items() if own == options)

        def make() -> dict[str, Any]:
            out = self.work / "collected"
            shutil.rmtree(out, ignore_errors=True)
            data = ("--data", str(self.family.file(domain, "train")), "--limit", str(STATISTICS_TEXTS))
            cost = fusehub("collect", str(self.model(domain, seed)), *data, "--out", str(out), *options)
            shutil.rmtree(out)
            return {**self._labels("collect", row, [domain], seed), **cost}

        return self.store.done(f"seed{seed}/collect-{domain}{''.join(options)}", make)

    def multitask(self, domains: Sequence[str], seed: int) -> dict[str, Any]:
        """One model trained on the texts of all: the upper line, and what it costs."""

        def make() -> dict[str, Any]:
            model = trained(self.family, domains, seed, self.folder)
            return self._result("main", "multi-task learning", domains, seed, model, **training_cost(model))

        return self.store.done(f"seed{seed}/{name_of(domains)}/multitask", make)

    def ensemble(self, domains: Sequence[str], seed: int) -> dict[str, Any]:
        """The mean of the experts' probabilities, on the tests of a table or of a pair."""

        def make() -> dict[str, Any]:
            tests = self.family.domains if len(domains) > 2 else domains
            scores = {
                test: self._score(mean_of([self._predicted(domain, seed, test) for domain in domains]), test)
                for test in tests
            }
            return {**self._labels("main", "ensemble", domains, seed), "scores": scores}

        return self.store.done(f"seed{seed}/{name_of(domains)}/ensemble", make)

    def merged(
        self,
        row: Row,
        domains: Sequence[str],
        seed: int,
        part: str = "main",
        statistics: Callable[[], Sequence[Path]] | None = None,
        tests: Sequence[str] = (),
    ) -> dict[str, Any]:
        """A merge's scores, on all tests unless said. `statistics()` are taken in place of those beside the experts.

        In the tables of the first seed it is a process of its own, whose cost is measured.
        """

        def make() -> dict[str, Any]:
            experts = [self.model(domain, seed) for domain in domains]
            out = self.work / "merged"
            shutil.rmtree(out, ignore_errors=True)
            command = ["merge", *map(str, experts), "--method", row.method, "--out", str(out)]
            command += [word for key, value in row.parameters.items() for word in ("--param", f"{key}={value}")]
            if row.needs_base:
                command += ["--base", str(base_of(self.family, self.folder))]
            if row.needs_data:
                command += ["--limit", str(STATISTICS_TEXTS)]
                for expert, domain in zip(experts, domains, strict=True):
                    command += ["--data", f"{expert}={self.family.file(domain, 'train')}"]
            for expert, own in zip(experts, statistics() if statistics else (), strict=False):
                command += ["--statistics", f"{expert}={own}"]
            measured = part == "main" and seed == self.seeds[0]
            cost = fusehub(*command) if measured else fusehub_here(*command)
            result = self._result(part, row.name, domains, seed, out, tests, **cost)
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
            fusehub_here(
                "collect", str(model), "--data", data, "--limit", str(limit), "--out", str(out), *size, *options
            )
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
            out = self.work / f"{domain}-seed{seed}-{size}"
            if not (out / "statistics.json").exists():
                fusehub_here("collect", "--from", str(full), "--size", size, "--out", str(out))
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

    def _predicted(self, domain: str, seed: int, test: str) -> Prediction:
        """What an expert says about the test of a domain; kept, as it is part of many ensembles."""
        key = (domain, seed, test)
        if key not in self.predictions:
            with Predictor(resolve(str(self.model(domain, seed)))) as predictor:
                for name, examples in self.tests.items():
                    self.predictions[domain, seed, name] = predictor(examples.texts)
        return self.predictions[key]

    def _score(self, prediction: Prediction, test: str) -> float:
        """The main metric."""
        return float(next(iter(answers_of(prediction.task).score(prediction, self.tests[test]).metrics.values())))

    @cached_property
    def tests(self) -> dict[str, Examples]:
        """The test texts of all domains."""
        task = resolve(str(base_of(self.family, self.folder))).config
        return {
            domain: load_examples(str(self.family.file(domain, "test")), task_of(task, "base").name, need_labels=True)
            for domain in self.family.domains
        }

    def _labels(self, part: str, row: str, domains: Sequence[str], seed: int) -> dict[str, Any]:
        return {"family": self.family.name, "part": part, "row": row, "experts": list(domains), "seed": seed}

    def _result(
        self,
        part: str,
        row: str,
        domains: Sequence[str],
        seed: int,
        model: Path,
        tests: Sequence[str] = (),
        **cost: float,
    ) -> dict[str, Any]:
        chosen = {domain: self.tests[domain] for domain in tests or self.family.domains}
        scores = {score.data: score.main for score in package.evaluate([str(model)], chosen).scores}
        return {**self._labels(part, row, domains, seed), "scores": scores, **cost}

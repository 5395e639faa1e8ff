"""Experts of different tasks on one encoder: the body is merged, and each keeps its head."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fusehub as package
from tests.battery.families import Family
from tests.battery.run import Battery
from tests.battery.store import Store, fusehub

WAYS = (("mean", "mean"), ("RegMean, alpha 0.9", "regmean"))


class AcrossTasks:
    """Pairs of one expert of each family: the first domain of the one with the first of the other, and so on."""

    def __init__(self, families: Sequence[Family], folder: Path, results: Path, seeds: Sequence[int]) -> None:
        self.batteries = [Battery(family, folder, results, seeds) for family in families]
        self.store = Store(results / "tasks.jsonl")
        self.work, self.seeds = folder / "work" / "tasks", seeds

    def run(self) -> None:
        """All pairs, for every seed."""
        for seed in self.seeds:
            for domains in zip(*(battery.family.domains for battery in self.batteries), strict=False):
                for row, method in WAYS:
                    merged = partial(self._merged, domains, row, method, seed)
                    self.store.done(f"seed{seed}/{'+'.join(domains)}/{row}", merged)

    def _merged(self, domains: Sequence[str], row: str, method: str, seed: int) -> dict[str, Any]:
        """Each head's score on its own domain, and what the expert itself has there."""
        experts = [battery.model(domain, seed) for battery, domain in zip(self.batteries, domains, strict=True)]
        out = self.work / "merged"
        shutil.rmtree(out, ignore_errors=True)
        cost = fusehub("merge", *map(str, experts), "--method", method, "--out", str(out))
        scores, own = {}, {}
        for battery, domain, expert in zip(self.batteries, domains, experts, strict=True):
            family = battery.family
            test = {domain: str(family.file(domain, "test"))}
            head = next(path for path in out.iterdir() if path.is_dir() and path.name == expert.name)
            scores[f"{family.name}: {domain}"] = package.evaluate([str(head)], test).scores[0].main
            own[f"{family.name}: {domain}"] = battery.expert(domain, seed)["scores"][domain]
        shutil.rmtree(out)
        return {"part": "tasks", "row": row, "experts": list(domains), "seed": seed, "scores": scores,
                "own": own, **cost}  # fmt: skip

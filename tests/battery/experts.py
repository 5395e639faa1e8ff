"""Models that the battery works on: experts of one domain, and one model of several (multi-task learning)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from fusehub.demo.corpus import encoder_folder
from fusehub.demo.training import fit, save
from fusehub.models.loading import quiet_transformers
from tests.battery.families import Family


def base_of(family: Family, folder: Path) -> Path:
    """The pretrained encoder with the family's untrained head: what all its experts started from."""
    out = folder / family.name / "base"
    if not out.exists():
        from transformers import AutoTokenizer

        with quiet_transformers():
            save(family.new_model(), AutoTokenizer.from_pretrained(encoder_folder()), out)
    return out


def trained(family: Family, domains: Sequence[str], seed: int, folder: Path) -> Path:
    """The model trained on these domains, made where it is not there yet; its cost lies beside it as JSON."""
    out = folder / family.name / f"{'+'.join(domains)}-seed{seed}"
    if out.exists():
        return out
    from transformers import AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(encoder_folder())
        rows = family.rows(domains, tokenizer)
        model = family.new_model()
        started, processor = time.perf_counter(), time.process_time()
        fit(model, rows, family.settings, pad=tokenizer.pad_token_id, seed=seed)
        cost = {
            "seconds": round(time.perf_counter() - started, 1),
            "processor_seconds": round(time.process_time() - processor, 1),
            "texts": len(rows),
        }
        # A tokenizer keeps the cut of its last call, so the one that is saved is a fresh one.
        save(model, AutoTokenizer.from_pretrained(encoder_folder()), out)
    out.with_suffix(".json").write_text(json.dumps(cost) + "\n", encoding="utf-8")
    return out


def training_cost(model: Path) -> dict[str, float]:
    """Wall seconds, processor seconds and texts of a model that `trained` made."""
    return json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))

"""`fusehub/recommending/measured.json` from the recorded results: what each method gains over the mean.

python -m tests.battery.measured
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from fusehub.methods import METHODS
from fusehub.models.tasks import TEXTS, WORDS
from fusehub.recommending import measured
from tests.battery.run import PAIR_ROWS, ROWS, Row
from tests.battery.store import Store
from tests.battery.tasks import WAYS
from tests.battery.verdict import Runs

TABLE = Path(measured.__file__).with_name(measured.FILENAME)
BASELINE = ROWS[0]
TASKS = {"sentiment": TEXTS, "entities": WORDS}
Results = list[dict[str, Any]]


def write_measured(docs: Path, table: Path = TABLE) -> None:
    """Writes the table from the results in `docs/results`."""
    table.write_text(measured_text(docs), encoding="utf-8")


def measured_text(docs: Path) -> str:
    """The table, as the package has it: points with two digits."""
    rows: list[dict[str, Any]] = []
    for family, task in TASKS.items():
        results = Store(docs / "results" / f"{family}.jsonl").all()
        domains = sorted({domain for result in results for domain in result.get("scores", ())})
        runs = Runs(results, domains)
        for row in _once_a_method(ROWS):
            gains = [runs.gains(row.name, BASELINE.name, place) for place in (0, 1)]
            rows += [_row([task], len(domains) - 1, row, *gains)] if gains[0] else []
        for row in ROWS:
            if row.name in PAIR_ROWS[1:]:
                rows.append(_row([task], 2, row, _gains_of_pairs(results, row.name)))
    across = Store(docs / "results" / "tasks.jsonl").all()
    for name, method in WAYS[1:]:
        row = next(row for row in ROWS if row.name == name and row.method == method)
        rows.append(_row(sorted(TASKS.values()), 2, row, _gains(across, name, lambda result: True)))
    lines = ",\n".join(f"    {json.dumps(row)}" for row in rows)
    return f'{{\n  "baseline": "{BASELINE.method}",\n  "rows": [\n{lines}\n  ]\n}}\n'


def _once_a_method(rows: Sequence[Row]) -> list[Row]:
    """Of each method but the baseline one way: as it is when nothing is said, or else the one that was measured."""
    chosen: dict[str, Row] = {}
    for row in rows:
        method = METHODS[row.method]
        fields = method.options.fields() | method.own_options.fields()
        is_default = all(fields[name].default == value for name, value in row.parameters.items())
        if row is not BASELINE and (row.method not in chosen or is_default):
            chosen[row.method] = row
    return list(chosen.values())


def _gains_of_pairs(results: Results, row: str) -> list[float]:
    return _gains(results, row, lambda result: result["part"] == "main" and len(result["experts"]) == 2)


def _gains(results: Results, row: str, is_meant: Callable[[dict[str, Any]], bool]) -> list[float]:
    """In each run that both have, by how much the mean of all scores is above the baseline's."""
    scores = {
        (result["row"], tuple(result["experts"]), result["seed"]): 100 * mean(result["scores"].values())
        for result in results
        if "scores" in result and is_meant(result)
    }
    runs = [run[1:] for run in scores if run[0] == row and (BASELINE.name, *run[1:]) in scores]
    return [scores[row, *run] - scores[BASELINE.name, *run] for run in runs]


def _row(
    tasks: Sequence[str], models: int, row: Row, inside: Iterable[float], outside: Iterable[float] = ()
) -> dict[str, Any]:
    return {
        "tasks": list(tasks),
        "models": models,
        "method": row.method,
        "options": dict(row.parameters),
        "in_domain": _gain(list(inside)),
        "out_of_domain": _gain(list(outside)),
    }


def _gain(gains: Sequence[float]) -> dict[str, Any] | None:
    if not gains:
        return None
    return {"points": round(mean(gains), 2) + 0.0, "above": sum(gain > 0 for gain in gains), "runs": len(gains)}


if __name__ == "__main__":
    write_measured(Path(__file__).parents[2] / "docs")

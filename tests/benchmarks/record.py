"""What the benchmarks measured beside their targets, as one table in docs/performance.md.

A benchmark that is run with `--record` keeps its rows as docs/performance/NAME.json; the table of all stands between
the marks `<!-- targets -->` and `<!-- /targets -->`. The text around it is written by hand.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.battery.store import machine

DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"
RECORDS = DOCUMENT.parent / "performance"
NAMES = ("startup", "merging", "language", "mergekit", "growth", "layer", "collect", "stream", "perplexity")
"""The order of the table."""
HEAD = ("work", "measured", "target", "reached", "what bounds it")


@dataclass(frozen=True)
class Row:
    """One line: what was done, what it took, what it was to take, whether that was reached, and what bounds it."""

    work: str
    measured: str
    target: str
    reached: bool
    bound: str = ""


def keep(name: str, command: str, rows: Sequence[Row], figures: Mapping[str, float] | None = None) -> None:
    """Keeps what the benchmark `name` measured by `command`, in place of what it measured before; writes the table.

    `figures` are what was measured, for another program. Raises ValueError for a name that has no place in the table.
    """
    if name not in NAMES:
        raise ValueError(f"{name} has no place in the table: {', '.join(NAMES)}")
    RECORDS.mkdir(exist_ok=True)
    record = {
        "command": command,
        "machine": machine(),
        "day": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 1),
        "rows": [dataclasses.asdict(row) for row in rows],
        **({"figures": dict(figures)} if figures else {}),
    }
    (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write()


def write() -> None:
    """Puts all that is kept between the marks. Raises ValueError where the document lacks them."""
    found = {name: RECORDS / f"{name}.json" for name in NAMES}
    records = [json.loads(path.read_text(encoding="utf-8")) for path in found.values() if path.exists()]
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    for record in records:
        for row in (Row(**own) for own in record["rows"]):
            lines.append(_line([row.work, row.measured, row.target, "yes" if row.reached else "**no**", row.bound]))
    lines += ["", *(f"- `{own['command']}`: {own['day']}, {own['machine']}, load {own['load']}" for own in records)]
    put("targets", "\n".join(lines))


def put(mark: str, text: str) -> None:
    """Puts `text` between the marks of that name in the document. Raises ValueError where it has none."""
    marks = re.compile(rf"(?<=<!-- {mark} -->\n).*?(?=<!-- /{mark} -->)", re.DOTALL)
    document = DOCUMENT.read_text(encoding="utf-8")
    if not marks.search(document):
        raise ValueError(f"{DOCUMENT.name} has no place for it: <!-- {mark} --> and <!-- /{mark} -->")
    DOCUMENT.write_text(marks.sub(lambda _: text + "\n", document), encoding="utf-8")


def circumstances() -> str:
    """The day, the machine and its load, as they are now."""
    return f"{time.strftime('%Y-%m-%d')}, {machine()}, load {os.getloadavg()[0]:.1f}"


def tell(rows: Iterable[Row]) -> None:
    """Prints the rows."""
    for row in rows:
        verdict = "reached" if row.reached else "MISSED"
        print(f"{row.work}: {row.measured} (target {row.target}: {verdict})", flush=True)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""What the campaigns found, as tables in docs/reliability.md.

Each campaign keeps its outcomes as docs/reliability/NAME.json; the document's text is written by hand, and the table
of NAME stands between the marks `<!-- NAME -->` and `<!-- /NAME -->`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.battery.store import machine

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
RECORDS = DOCUMENT.parent / "reliability"


def keep(name: str, command: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Keeps the outcomes of the campaign `name`, made by `command`, and puts them into the document.

    `head` names the columns; each of `rows` has a cell for each. Both may contain Markdown.
    """
    record = {
        "command": command,
        "machine": machine(),
        "day": time.strftime("%Y-%m-%d"),
        "head": list(head),
        "rows": [[str(cell) for cell in row] for row in rows],
    }
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write()


def write() -> None:
    """Puts every kept table between its marks. Raises ValueError where the document lacks the marks of one."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for path in sorted(RECORDS.glob("*.json")):
        text = _placed(text, path.stem, json.loads(path.read_text(encoding="utf-8")))
    DOCUMENT.write_text(text, encoding="utf-8")


def _placed(text: str, name: str, record: dict[str, Any]) -> str:
    marks = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"{DOCUMENT.name} has no place for the table of {name}: <!-- {name} --> and <!-- /{name} -->")
    said = f"`{record['command']}`, {record['day']}, {record['machine']}."
    rows = [record["head"], ["---"] * len(record["head"]), *record["rows"]]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return marks.sub(lambda _: f"{table}\n\n{said}\n", text)

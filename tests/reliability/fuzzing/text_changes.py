"""Changes of text, of YAML and of tables: what people and programs write by mistake, and what an attacker would."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.reliability.fuzzing.json_changes import ODD, change_content, shown

# Scalars and more that YAML reads as something else than text, or not at all.
_YAML = (
    "2020-99-99", '!!int ""', "!!float x", "!!binary x", "!!python/object/apply:os.system [x]", "!!set {a, b}",
    "!!timestamp x", "*unknown", "&a [*a]", "0o9", "1_000", "1:30:00", ".nan", ".inf", "~", "yes", "!x y", "? [a]",
    "{a: 1, a: 2}", "[", "]", "- -", "9" * 5000, '"\\ud800"', "\t x", "@x", "`x`", "%x", "|", ">", "'", "[" * 3000,
    "&a [x, x, x, x, x, x, x, x, x]", "<<: 1", "2001-12-14t21:59:43.10-05:00", "!!omap [a: 1]", "null", "= ",
)  # fmt: skip
_TEXT = (
    "", " ", "\t", "\n", "\n\n", "\r", "\0", "\u2028", "\ufeff", "é", "\U0001f600", '"', "'", ",", ";", "\t\t", "{",
    "}", "[", "]", "{{", "}}", "{% for i in range(10) %}", "{% endfor %}", "{{ 1/0 }}", "{{ messages[9].x }}", "{#",
    "{{ ''.__class__.__mro__ }}", "{{ raise_exception('no') }}", "{% include 'x' %}", "null", "NaN", "nan", "None",
    "1e400", "9" * 5000, "x" * 100_000, "-1", "[UNK]", "[PAD]", "##", "#version: 0.2", "O", "B-PER", "-DOCSTART-",
    "---", "...", '{"text": 1}', '{"text": null}', '{"text": {"a": 1}}', '{"a": 1, "a": 2}', "[1, 2]", "true", "0",
    '"open', "=1+1", "<s>", "a b", "a\tb\tc", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
)  # fmt: skip


class _Flat(yaml.SafeLoader):
    """PyYAML's safe loader, which takes a second for a thousand brackets in each other, and here refuses them."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > 100:
            raise yaml.YAMLError("too deep")
        super().fetch_flow_collection_start(token)


def yaml_of(text: str) -> Any:
    """What PyYAML reads. Raises YAMLError where it is not YAML, or nested too deeply."""
    return yaml.load(text, _Flat)


def change_text(random: Random, path: Path) -> str:
    """Lines taken away, said twice, swapped, or with something odd in them."""
    lines = path.read_text(encoding="utf-8").split("\n")
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    what = random.choice(("odd line", "odd piece", "odd piece", "gone", "twice", "swap", "joined", "many"))
    odd = random.choice(_TEXT)
    if what == "odd line":
        lines[at] = odd
    elif what == "odd piece":
        place = random.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:place] + odd + lines[at][place:]
    elif what == "gone":
        del lines[at]
    elif what == "twice":
        lines.insert(other, lines[at])
    elif what == "swap":
        lines[at], lines[other] = lines[other], lines[at]
    elif what == "joined":
        lines[at : at + 2] = ["".join(lines[at : at + 2])]
    else:
        lines[at:at] = [odd] * 200
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"line {at}: {what} {shown(odd)}"


def change_yaml(random: Random, path: Path) -> str:
    """Another value in one place, as JSON has it or as only YAML does."""
    text, said = _changed_yaml(random, path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return said


def change_front_matter(random: Random, path: Path) -> str:
    """The same in what a card begins with."""
    _, front, body = path.read_text(encoding="utf-8").split("---\n", 2)
    text, said = _changed_yaml(random, front)
    path.write_text(f"---\n{text}---\n{body}", encoding="utf-8", errors="surrogatepass")
    return said


def _changed_yaml(random: Random, text: str) -> tuple[str, str]:
    content = yaml_of(text)
    if random.random() < 0.5:
        said = change_content(random, content)
        # JSON is YAML.
        text = yaml.safe_dump(content, sort_keys=False) if random.random() < 0.7 else json.dumps(content) + "\n"
        return text, said
    lines = text.splitlines()
    at = random.randrange(len(lines))
    key, colon, _ = lines[at].partition(": ")
    odd = random.choice(_YAML)
    lines[at] = f"{key}: {odd}" if colon else f"{lines[at]}\n{odd}"
    return "\n".join(lines) + "\n", f"{key.strip()} = {shown(odd)}"


def change_table(random: Random, path: Path) -> str:
    """A column of a Parquet file with values, or of a type, that it should not have; or one more, or none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    name = random.choice(table.column_names)
    at, rows = table.column_names.index(name), table.num_rows
    what = random.choice(("type", "type", "odd", "gone", "twice", "rename", "empty", "metadata"))
    if what == "type":
        values, said = _column(random, rows)
        table = table.set_column(at, name, values)
        what = said
    elif what == "odd":
        odd: list[Any] = [own for own in ODD if isinstance(own, str) and own.isprintable()] + [None, ""]
        values = table.column(at).to_pylist()
        values[random.randrange(rows)] = odd[random.randrange(len(odd))] if isinstance(values[0], str) else None
        table = table.set_column(at, name, pa.array(values))
    elif what == "gone":
        table = table.remove_column(at)
    elif what == "twice":
        table = table.append_column(name, table.column(at))
    elif what == "rename":
        table = table.rename_columns([f"{own}x" if own == name else own for own in table.column_names])
    elif what == "empty":
        table = table.slice(0, 0)
    else:
        said = {"info": {"features": random.choice(ODD[:24])}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(said)})
    pq.write_table(table, path)
    return f"{name}: {what}"


def _column(random: Random, rows: int) -> tuple[Any, str]:
    import datetime
    from decimal import Decimal

    import pyarrow as pa

    values: dict[str, list[Any]] = {
        "lists": [[1, 2]] * rows, "objects": [{"a": "x"}] * rows, "bytes": [b"\xff"] * rows, "numbers": [1.5] * rows,
        "not a number": [float("nan")] * rows, "dates": [datetime.date(2020, 1, 1)] * rows, "nothing": [None] * rows,
        "decimals": [Decimal("1.5")] * rows, "truth values": [True] * rows, "lists of objects": [[{"a": 1}]] * rows,
        "times": [datetime.timedelta(1)] * rows, "empty lists": [[]] * rows, "texts": ["x"] * rows,
    }  # fmt: skip
    what = random.choice(list(values))
    return pa.array(values[what]), what

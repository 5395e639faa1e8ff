"""Rows of one file, read as they are asked for: text, CSV, JSON and Parquet.

    for row in read_file(Path("reviews.csv")):
        row["text"]

Files are read here and not by `datasets`, whose CSV reader turns texts such as "None" and "NA" into nothing.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from fusehub.data.tables.conll import are_words_with_tags, sentences
from fusehub.data.tables.table import GRAMMAR, Row, label_names
from fusehub.errors import BadData, BadFile, first_line
from fusehub.models.tensor_files import sha256_of
from fusehub.utils.extras import needs
from fusehub.utils.untrusted.documents import is_deep
from fusehub.utils.untrusted.limits import (
    CELL_CHARACTERS,
    COLUMNS,
    PARQUET_BYTES,
    PARQUET_RATIO,
    PARQUET_ROWS,
    TABLE_BYTES,
    require_bytes,
)

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

    _Quoting = Literal[0, 3]  # csv.QUOTE_MINIMAL and csv.QUOTE_NONE.

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
# How a text file of words with their tags is told from one of texts: by its first lines.
_HEAD = 200


def hash_of(files: list[Path], root: Path | None) -> str:
    """sha256 of the file; of the files' names and hashes where they are many."""
    if root is None:
        return sha256_of(files[0])
    listing = "\n".join(f"{sha256_of(path)}  {path.relative_to(root).as_posix()}" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def read_file(path: Path) -> Iterator[Row]:
    suffix = path.suffix.lower()
    readers = {
        ".txt": _read_text,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".json": _read_json,
        ".parquet": _read_parquet,
    }
    reader = readers.get(suffix, _read_json_lines)
    if suffix not in SUFFIXES:
        raise BadData(f"{path.name}: FuseHub does not read {suffix or 'files without an ending'}.", GRAMMAR)
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise BadFile(f"{path.name} is not UTF-8 text ({error.reason}).", "Save it as UTF-8.") from error
    except OSError as error:
        raise BadFile(f"{path.name} cannot be read ({error}).", "Is it complete, and may you read it?") from error


def _encoding(path: Path) -> str:
    """UTF-8, unless the file begins with the mark of UTF-16, in which spreadsheets save "Unicode text", or of UTF-32.

    Raises `BadFile` for bytes of 0 where there is no mark: as UTF-8 they would be read, and every text be wrong.
    """
    with path.open("rb") as file:
        head = file.read(1024)
    # The mark of UTF-32 begins as that of UTF-16 does.
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head:
        raise BadFile(f"{path.name} is not UTF-8 text: it looks like UTF-16 without its mark.", "Save it as UTF-8.")
    return "utf-8-sig"


def _read_text(path: Path) -> Iterator[Row]:
    """A text a line; or where every line is a word with its tag, and an empty line ends a sentence, those of each."""
    with path.open(encoding=_encoding(path)) as file:
        lines = _lines(file, path.name)
        head = list(islice(lines, _HEAD))
        lines = chain(head, lines)
        if are_words_with_tags(head):
            yield from sentences(lines, path.name, head)
            return
        for line in lines:
            yield {"text": line.rstrip("\n")}


def _lines(file: TextIO, name: str) -> Iterator[str]:
    """The lines of a file. Raises `BadFile` for one that is longer than any text."""
    for number in count(1):
        line = file.readline(CELL_CHARACTERS + 1)
        if len(line) > CELL_CHARACTERS:
            raise BadFile(
                f"{name}, line {number} has more than {CELL_CHARACTERS:,} characters.", "Are its line ends right?"
            )
        if not line:
            return
        yield line


def _read_csv(path: Path) -> Iterator[Row]:
    """Rows by the header in the first line. Commas, semicolons or tabs, whichever the header has most of."""
    import csv

    # A text can be longer than the 128 kB that the module allows.
    csv.field_size_limit(CELL_CHARACTERS)
    with path.open(encoding=_encoding(path), newline="") as file:
        lines = _lines(file, path.name)
        header = next((line for line in lines if line.strip()), "")
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
        _require_few_columns(header.count(delimiter) + 1, path.name)
        quoting = _quoting_of_tabs(path) if delimiter == "\t" else csv.QUOTE_MINIMAL
        reader = csv.DictReader(chain([header], lines), delimiter=delimiter, quoting=quoting, strict=True)
        try:
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            _require_different(reader.fieldnames, path.name)
            for row in reader:
                if None in row:
                    raise BadFile(
                        f"{path.name}, line {reader.line_num}: more fields than the header names.",
                        "Put texts that hold the delimiter in double quotes.",
                    )
                yield row
        except csv.Error as error:
            raise BadFile(f"{path.name}, line {reader.line_num}: {error}.", "Repair that line.") from error


def _require_few_columns(count: int, name: str) -> None:
    if count > COLUMNS:
        raise BadFile(f"{name} has {count:,} columns, and no more than {COLUMNS:,} are read.", "Keep those of use.")


def _quoting_of_tabs(path: Path) -> _Quoting:
    """Whether quotes in a file with tabs are put around fields, or are characters of the texts.

    Many write tabs without quoting anything: a text that begins with a quote would then take the tab, the label and
    the next rows into it. Quotes are around fields where each line can be read so. Else they are characters if every
    line has the fields of the header without them, and around fields with tabs or line breaks if every row has, with
    them. Raises `BadFile` where it is neither.
    """
    import csv

    def widths(quoting: _Quoting) -> set[int] | None:
        with path.open(encoding=_encoding(path), newline="") as file:
            try:
                lines = _lines(file, path.name)
                return {len(row) for row in csv.reader(lines, delimiter="\t", quoting=quoting, strict=True) if row}
            except csv.Error:
                return None

    with path.open(encoding=_encoding(path), newline="") as file:
        unsound = _first_with_open_quotes(_lines(file, path.name))
    if not unsound:
        return csv.QUOTE_MINIMAL
    for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL):
        if len(widths(quoting) or ()) == 1:
            return quoting
    raise BadFile(
        f"{path.name}, line {unsound}: whether its quotes belong to the text is not certain.",
        "Give every row as many fields as the header; or save the file as CSV or JSON lines.",
    )


def _first_with_open_quotes(lines: Iterable[str]) -> int | None:
    """The number of the first line that has a quoted field with a tab or without an end; None if none has."""
    import csv

    for number, line in enumerate(lines, 1):
        if '"' not in line:
            continue
        try:
            fields = next(csv.reader([line], delimiter="\t", strict=True))
        except csv.Error:
            return number
        if len(fields) <= line.count("\t"):
            return number
    return None


def _read_json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding=_encoding(path)) as file:
        for number, line in enumerate(_lines(file, path.name), 1):
            if not line.strip():
                continue
            try:
                row = _json(line, path.name)
            except ValueError as error:
                raise BadFile(f"{path.name}, line {number} is not JSON ({error}).", "Repair that line.") from error
            yield _as_row(row, f"{path.name}, line {number}")


def _json(text: str, name: str) -> Any:
    """What the JSON means; `ValueError` says why it means nothing.

    Raises `BadData` where an object says one of its keys twice, of which Python keeps one.
    """

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _require_different([key for key, _ in pairs], name)
        return dict(pairs)

    deep = "its lists and objects are nested too deeply"
    try:
        content = json.loads(text, object_pairs_hook=keep)
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise ValueError("a number has more digits than any label") from error
    except RecursionError as error:
        raise ValueError(deep) from error
    if is_deep(content):
        raise ValueError(deep)
    return content


def _require_different(columns: Sequence[str], name: str) -> None:
    """Raises `BadData` naming a column that is there twice: which of both is meant, nobody knows."""
    twice = [column for column, count in Counter(columns).items() if count > 1 and column]
    if twice:
        raise BadData(f"{name} has the column '{twice[0]}' twice.", "Rename or remove one of both.")


def _read_json(path: Path) -> Iterator[Row]:
    """A list of objects, an object with one such list, or JSON lines."""
    require_bytes(path.stat().st_size, TABLE_BYTES, path.name)
    text = path.read_text(encoding=_encoding(path))
    try:
        whole = _json(text, path.name)
    except json.JSONDecodeError:
        yield from _read_json_lines(path)
        return
    except ValueError as error:
        raise BadFile(f"{path.name} is JSON that cannot be read: {error}.", "Repair it.") from error
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        whole = lists[0] if len(lists) == 1 else [whole]
    for number, row in enumerate(whole if isinstance(whole, list) else [whole], 1):
        place = f"{path.name}, item {number}"
        row = _as_row(row, place)
        yield from _questions(row, place) if isinstance(row.get("paragraphs"), list) else [row]


def _questions(article: Row, place: str) -> Iterator[Row]:
    """The questions of an article as SQuAD's own files nest them."""
    for paragraph in _objects(article["paragraphs"], f"{place}, paragraphs"):
        for question in _objects(paragraph.get("qas") or [], f"{place}, qas"):
            yield {"context": paragraph.get("context"), "question": question.get("question")} | {
                "answers": question.get("answers"),
            }


def _objects(value: Any, place: str) -> list[Row]:
    """`value` as a list of objects. Raises `BadFile` where it is none."""
    if not isinstance(value, list) or not all(isinstance(own, dict) for own in value):
        raise BadFile(f"{place} is no list of objects.", "Repair it: SQuAD's files nest paragraphs, and their qas.")
    return value


def _as_row(value: Any, place: str) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise BadFile(f"{place} is no object.", 'Write one {"text": ..., "label": ...} per example.')
    return value


def _read_parquet(path: Path) -> Iterator[Row]:
    with needs("collect", "Parquet files"):
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            _require_few_columns(file.metadata.num_columns, path.name)
            _require_different(file.schema_arrow.names, path.name)
            _require_small_groups(file.metadata, path)
            # A long text may be stored once for many rows, and is made anew for each.
            for batch in file.iter_batches(PARQUET_ROWS):
                yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise BadFile(f"{path.name} is not a sound Parquet file ({error}).", "Write it again.") from error


def _require_small_groups(metadata: FileMetaData, path: Path) -> None:
    """Raises `BadFile` where a part that is read at once unpacks to far more than the whole file has."""
    size = path.stat().st_size
    for group in range(metadata.num_row_groups):
        unpacked = metadata.row_group(group).total_byte_size
        if unpacked > max(PARQUET_BYTES, PARQUET_RATIO * size):
            raise BadFile(
                f"{path.name} has {size:,} bytes, and its row group {group} unpacks to {unpacked:,}.",
                f"Write it again with smaller row groups: of no more than {PARQUET_BYTES:,} bytes any is read.",
            )


def parquet_names(path: Path) -> dict[str, list[str]]:
    """Label names that `datasets` wrote into the file."""
    with needs("collect", "Parquet files"):
        from datasets import Features
        from pyarrow.parquet import read_schema

    schema = read_schema(path)
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    try:
        return label_names(Features.from_arrow_schema(schema))
    except Exception as error:  # Whatever values of a wrong kind lead `datasets` to.
        raise BadData(
            f"{path.name}: what `datasets` says of its columns cannot be read ({first_line(error)}).",
            "Write the file again, with `datasets` or without what it adds (the key huggingface of its metadata).",
        ) from error

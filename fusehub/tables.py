"""Rows of a file, a folder or a dataset on the Hub: where data comes from, before anyone asks what is text in it.

    table = open_table("user/reviews:en/test@v2")
    table.columns     # ["text", "label"]
    next(table.rows)  # {"text": "Fine.", "label": 1}

A SOURCE is one of

    reviews.csv                           .txt (a text a line), .csv, .tsv, .jsonl, .json, .parquet
    folder, folder/test                   such files; with a split, those that are named after it
    user/dataset[:config][/split][@rev]   a dataset on the Hub, or its link

Rows are read as they are asked for. Files are read here and not by `datasets`, whose CSV reader turns texts such
as "None" and "NA" into nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from fusehub.errors import BadData, BadFile, NotFound
from fusehub.hub import client, endpoint, hub_errors
from fusehub.reach import is_confined, local_path
from fusehub.tensor_files import sha256_of

logger = logging.getLogger(__name__)

Row = dict[str, Any]
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
# What people call a split, and which one stands in for another that is not there.
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
INSTEAD = {"train": ("train",), "validation": ("validation", "test"), "test": ("test", "validation")}
GRAMMAR = "Give a file (.txt, .csv, .jsonl, .parquet), a folder, or user/dataset[:config][/split][@revision]."


@dataclass
class Table:
    """Rows that can be gone through once, and what is known about them.

    `names` are the label names of columns that hold their numbers; `revision` the commit of a dataset on the Hub,
    or the sha256 of what was read here; `root` the folder from which names of files in it are seen.
    """

    source: str
    columns: list[str]
    rows: Iterator[Row]
    revision: str | None = None
    split: str | None = None
    names: Mapping[str, list[str]] = field(default_factory=dict)
    root: Path | None = None


def open_table(source: str, *, default_split: str = "train", token: str | None = None, images: bool = False) -> Table:
    """The rows that `source` names; `default_split` where it names no split. Raises `NotFound` and `BadData`.

    With `images`, those of a dataset on the Hub are kept, not decoded; without, columns of images are left out.
    """
    name = source.strip()
    if not name:
        raise NotFound("The data has an empty name.", GRAMMAR)
    path = local_path(name)
    if path is not None and path.is_file():
        return _open_files(path.name, [path])
    if path is not None and path.is_dir():
        return _open_folder(path, None, default_split)
    if path is not None and path.parent.is_dir() and str(path.parent) != "." and not path.suffix:
        return _open_folder(path.parent, path.name, default_split)
    if Path(name).suffix.lower() in SUFFIXES or name.startswith((".", "/", "~")):
        raise NotFound(f"There is no file or folder {name}.", GRAMMAR)
    return _open_dataset(name, default_split, token, images)


def _open_folder(folder: Path, split: str | None, default: str) -> Table:
    """The files of one split of a folder; all files where none is named after a split."""
    files = [path for path in sorted(folder.rglob("*")) if _is_data(path.relative_to(folder)) and path.is_file()]
    if not files:
        raise NotFound(f"The folder {folder} holds no {', '.join(SUFFIXES)} file.", GRAMMAR)
    by_split: dict[str | None, list[Path]] = {}
    for path in files:
        by_split.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    if split is None and set(by_split) == {None}:
        return _open_files(folder.resolve().name, files, root=folder)
    known = [name for name in by_split if name]
    chosen = split_among(split, default, known, str(folder))
    return _open_files(f"{folder.resolve().name}/{chosen}", by_split[chosen], split=chosen, root=folder)


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    # What `save_to_disk` and dataset repos keep beside their data.
    aside = path.name in ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
    return path.suffix.lower() in SUFFIXES and not hidden and not aside


def _split_of(path: Path) -> str | None:
    """The split that a file is named after: `news.test.jsonl`, `train-00000-of-00002.parquet`, `dev/a.txt`."""
    for part in (path.name, *reversed(path.parts[:-1])):
        words = re.split(r"[^a-z]+", part.lower())
        for split, aliases in SPLITS.items():
            if any(alias in words for alias in aliases):
                return split
    return None


def split_among(asked: str | None, default: str, known: list[str], name: str) -> str:
    """The one of the splits `known` that was asked for; else the default, what stands in for it, or the only one."""
    if asked is not None:
        alias = next((split for split, aliases in SPLITS.items() if asked.lower() in aliases), asked)
        wanted: tuple[str, ...] = (asked, alias, *SPLITS.get(alias, ()))
    else:
        wanted = tuple(chain.from_iterable(SPLITS[split] for split in INSTEAD.get(default, ()))) or (default,)
    found = next((split for split in wanted if split in known), None)
    if found is None and asked is None and len(known) == 1:
        found = known[0]
    if found is not None:
        if asked is None and found not in SPLITS.get(default, (default,)):
            logger.warning("%s has no split '%s': '%s' is read.", name, default, found)
        return found
    listed = ", ".join(known) or "none"
    raise NotFound(f"{name} has no split '{asked or default}'.", f"Its splits are {listed}: write {name}/SPLIT.")


def _open_files(source: str, files: list[Path], *, split: str | None = None, root: Path | None = None) -> Table:
    """The rows of local files, one after the other. All must have the columns of the first."""
    rows = chain.from_iterable(_read(path) for path in files)
    first = next(rows, None)
    if first is None:
        raise BadData(f"{source} is empty.", "Give data with at least one text.")
    names = _parquet_names(files[0]) if files[0].suffix.lower() == ".parquet" else {}
    home = root or files[0].parent
    return Table(source, list(first), chain([first], rows), hash_of(files, root), split, names, home)


def hash_of(files: list[Path], root: Path | None) -> str:
    """sha256 of the file; of the files' names and hashes where they are many."""
    if root is None:
        return sha256_of(files[0])
    listing = "\n".join(f"{sha256_of(path)}  {path.relative_to(root).as_posix()}" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _read(path: Path) -> Iterator[Row]:
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


def _read_text(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for line in lines:
            yield {"text": line.rstrip("\n")}


def _read_csv(path: Path) -> Iterator[Row]:
    """Rows by the header in the first line. Commas, semicolons or tabs, whichever the header has most of."""
    import csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        # A text can be longer than the 128 kB that the module allows.
        csv.field_size_limit(2**31 - 1)
        try:
            for row in reader:
                if None in row:
                    raise BadFile(
                        f"{path.name}, line {reader.line_num}: more fields than the header names.",
                        "Put texts that hold the delimiter in double quotes.",
                    )
                yield row
        except csv.Error as error:
            raise BadFile(f"{path.name}, line {reader.line_num}: {error}.", "Repair that line.") from error


def _read_json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadFile(f"{path.name}, line {number} is not JSON ({error}).", "Repair that line.") from error
            yield _as_row(row, f"{path.name}, line {number}")


def _read_json(path: Path) -> Iterator[Row]:
    """A list of objects, an object with one such list, or JSON lines."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError:
        yield from _read_json_lines(path)
        return
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        whole = lists[0] if len(lists) == 1 else [whole]
    for number, row in enumerate(whole if isinstance(whole, list) else [whole], 1):
        row = _as_row(row, f"{path.name}, item {number}")
        yield from _questions(row) if isinstance(row.get("paragraphs"), list) else [row]


def _questions(article: Row) -> Iterator[Row]:
    """The questions of an article as SQuAD's own files nest them."""
    for paragraph in article["paragraphs"]:
        for question in paragraph.get("qas", ()):
            yield {"context": paragraph.get("context"), "question": question.get("question")} | {
                "answers": question.get("answers"),
            }


def _as_row(value: Any, place: str) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise BadFile(f"{place} is no object.", 'Write one {"text": ..., "label": ...} per example.')
    return value


def _read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise BadFile(f"{path.name} is not a sound Parquet file ({error}).", "Write it again.") from error


def _parquet_names(path: Path) -> dict[str, list[str]]:
    """Label names that `datasets` wrote into the file."""
    from datasets import Features
    from pyarrow.parquet import read_schema

    schema = read_schema(path)
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    return _names(Features.from_arrow_schema(schema))


def _names(features: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Label names of the columns that hold class labels or lists of them."""
    found = {}
    for column, feature in (features or {}).items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, list) and inner:
            inner = inner[0]
        names = getattr(inner, "names", None)
        if names:
            found[column] = list(names)
    return found


@dataclass(frozen=True)
class DatasetName:
    """A dataset on the Hub as people write it."""

    repo_id: str
    config: str | None
    split: str | None
    revision: str | None


def parse_dataset(text: str) -> DatasetName:
    """`user/dataset[:config][/split][@revision]`, or a link to a dataset. Raises `NotFound` on anything else."""
    name = text.strip()
    for prefix in ("hf://datasets/", f"{endpoint()}/datasets/", "https://huggingface.co/datasets/"):
        if name.startswith(prefix):
            name = re.sub(r"/(tree|blob)/([^/]+).*$", r"@\2", name.removeprefix(prefix).rstrip("/"))
    main, _, revision = name.partition("@")
    match = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?::([^/:]+))?(?:/([\w.-]+))?", main)
    if not match:
        raise NotFound(f"'{text}' names no data.", GRAMMAR)
    return DatasetName(match[1], match[2], match[3], revision or None)


def pinned_dataset(source: str, revision: str | None) -> DatasetName | None:
    """The dataset on the Hub that was read; None for local files, whose revision is no commit but a sha256."""
    return parse_dataset(source) if re.fullmatch(r"[0-9a-f]{40}", revision or "") else None


def split_named(source: str) -> str | None:
    """The split that a SOURCE names, or that its file is named after; None where it leaves that open."""
    path = local_path(source.strip())
    if path is not None and path.exists():
        return _split_of(Path(path.name))
    if path is not None and path.parent.is_dir() and str(path.parent) != "." and not path.suffix:
        named: str | None = path.name
    else:
        named = parse_dataset(source).split
    return next((split for split, aliases in SPLITS.items() if named in aliases), named)


def pinned_data(source: str, revision: str | None) -> str:
    """`source` with the commit that it was read at, if it is a dataset on the Hub; else as it is."""
    name = None if "@" in source else pinned_dataset(source, revision)
    if name is None:
        return source
    config, split = f":{name.config}" if name.config else "", f"/{name.split}" if name.split else ""
    return f"{name.repo_id}{config}{split}@{revision}"


def _open_dataset(text: str, default_split: str, token: str | None, images: bool) -> Table:
    """A split of a dataset on the Hub at the commit of this moment, read over the network as rows are asked for."""
    wanted = parse_dataset(text)
    with hub_errors(f"The dataset {wanted.repo_id}" + (f"@{wanted.revision}" if wanted.revision else "")):
        info = client(token).dataset_info(wanted.repo_id, revision=wanted.revision)
    _require_own_files(info)
    import datasets

    with _dataset_errors(wanted.repo_id):
        splits = datasets.load_dataset(info.id, wanted.config, revision=info.sha, token=token, streaming=True)
    split = split_among(wanted.split, default_split, list(splits), wanted.repo_id)
    stream = splits[split]
    rows = _stream(stream, wanted.repo_id, images)
    first = next(rows, None)
    if first is None:
        raise BadData(f"{wanted.repo_id}: the split {split} is empty.", "Name another split.")
    source = f"{info.id}{f':{wanted.config}' if wanted.config else ''}/{split}"
    columns = list(stream.features or first)
    return Table(source, columns, chain([first], rows), info.sha, split, _names(stream.features))


def _require_own_files(info: Any) -> None:
    """Raises `BadData` where the card of a dataset names files that are not its own.

    `datasets` would read an absolute path from the disk of this machine. Files of other hosts are fetched for a
    person, who could do so as well, and not by a machine that works for strangers.
    """
    configs = (info.card_data.to_dict() if info.card_data else {}).get("configs")
    for pattern in _patterns(configs if isinstance(configs, list) else []):
        scheme, separator, _ = pattern.partition("://")
        elsewhere = separator and scheme != "hf"
        absolute = not separator and (pattern.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:", pattern))
        if absolute or ".." in Path(pattern).parts or (elsewhere and is_confined()):
            raise BadData(
                f"{info.id}: its card names data that is not in its repo ({pattern[:200]}).",
                "Use a dataset whose files are in its own repo.",
            )


def _patterns(value: Any) -> Iterator[str]:
    """All names of files that the `configs` of a dataset's card hold, however they are nested."""
    waiting = [config.get(key) for config in value if isinstance(config, dict) for key in ("data_files", "data_dir")]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict):
            waiting += found.get("path", ()) if isinstance(found.get("path"), list) else [found.get("path")]
            waiting += [inner for key, inner in found.items() if key not in ("split", "path")]
        elif isinstance(found, list):
            waiting += found


def _stream(stream: Any, name: str, images: bool) -> Iterator[Row]:
    """The rows, without those columns that need decoding (sound, images); with `images`, these as they are stored."""
    kinds = {column: type(feature).__name__ for column, feature in (stream.features or {}).items()}
    with _dataset_errors(name):
        if images:
            from datasets import Image

            for column in [column for column, kind in kinds.items() if kind == "Image"]:
                stream = stream.cast_column(column, Image(decode=False))
        left_out = ("Audio", "Video", "Pdf", *(() if images else ("Image",)))
        media = [column for column, kind in kinds.items() if kind in left_out]
        yield from stream.remove_columns(media) if media else stream


@contextmanager
def _dataset_errors(name: str) -> Iterator[None]:
    """Turns what `datasets` raises while reading the dataset `name` into `FuseHubError`s."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    fix = "Does the dataset viewer of the Hub show it? If not, download it and give its files."
    with hub_errors(f"The dataset {name}"):
        try:
            yield
        except DatasetNotFoundError as error:
            raise NotFound(f"{name}: {_first_line(error)}", GRAMMAR) from error
        except (DatasetsError, FileNotFoundError) as error:
            raise BadData(f"{name} cannot be read as a dataset: {_first_line(error)}", fix) from error
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            raise BadData(
                f"{name} is a dataset with a loading script, and FuseHub never runs code of a repo.",
                f"Use the Hub's own Parquet copy: {name}@refs/convert/parquet",
            ) from error
        except ValueError as error:
            raise _config_error(name, error) from error


def _config_error(name: str, error: ValueError) -> Exception:
    """A missing or unknown config, told with those there are."""
    said = str(error)
    listed = re.search(r"(?:available configs|Available)\s*:\s*(\[.*?\])", said, re.DOTALL)
    if not listed:
        return BadData(f"{name} cannot be read as a dataset: {_first_line(error)}", GRAMMAR)
    configs = ", ".join(re.findall(r"'([^']+)'", listed[1]))
    what = "has several configs" if "missing" in said else "has no such config"
    return NotFound(f"{name} {what}.", f"Name one of {configs}: write {name}:CONFIG.")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

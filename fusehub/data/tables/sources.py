"""Where data comes from, before anyone asks what is text in it: a file, a folder or a dataset on the Hub.

    table = open_table("user/reviews:en/test@v2")

A SOURCE is one of

    reviews.csv                           .txt (a text a line), .csv, .tsv, .jsonl, .json, .parquet
    folder, folder/test                   such files; with a split, those that are named after it
    user/dataset[:config][/split][@rev]   a dataset on the Hub, or its link
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from fusehub.data.tables.files import SUFFIXES, hash_of, parquet_names, read_file
from fusehub.data.tables.hub_datasets import open_dataset, parse_dataset
from fusehub.data.tables.table import GRAMMAR, SPLITS, Draw, Table, split_among, split_of
from fusehub.errors import BadData, NotFound
from fusehub.hub.access import STORED, Access
from fusehub.utils.folders.places import require_ordinary
from fusehub.utils.reach import is_path, local_path


def open_table(
    source: str,
    *,
    default_split: str = "train",
    access: Access = STORED,
    images: bool = False,
    draw: Draw | None = None,
) -> Table:
    """The rows that `source` names; `default_split` where it names no split. Raises `NotFound` and `BadData`.

    With `images`, those of a dataset on the Hub are kept, not decoded; without, columns of images are left out.
    `draw` is a sample that will be drawn from the rows: of a large dataset on the Hub only parts are read then.
    """
    name = source.strip()
    if not name:
        raise NotFound("The data has an empty name.", GRAMMAR)
    path = local_path(name)
    if path is not None:
        require_ordinary(path)
    if path is not None and path.is_file():
        return _open_files(path.name, [path])
    if path is not None and path.is_dir():
        return _open_folder(path, None, default_split)
    if path is not None and path.parent.is_dir() and str(path.parent) != "." and not path.suffix:
        return _open_folder(path.parent, path.name, default_split)
    if Path(name).suffix.lower() in SUFFIXES or is_path(name):
        raise NotFound(f"There is no file or folder {name}.", GRAMMAR)
    return open_dataset(name, default_split, access, images=images, draw=draw)


def _open_folder(folder: Path, split: str | None, default: str) -> Table:
    """The files of one split of a folder; all files where none is named after a split."""
    files = [path for path in sorted(folder.rglob("*")) if _is_data(path.relative_to(folder)) and path.is_file()]
    if not files:
        raise NotFound(f"The folder {folder} holds no {', '.join(SUFFIXES)} file.", GRAMMAR)
    by_split: dict[str | None, list[Path]] = {}
    for path in files:
        by_split.setdefault(split_of(path.relative_to(folder)), []).append(path)
    if split is None and set(by_split) == {None}:
        return _open_files(folder.resolve().name, files, root=folder)
    known = [name for name in by_split if name]
    chosen = split_among(split, default, known, str(folder))
    table = _open_files(f"{folder.resolve().name}/{chosen}", by_split[chosen], split=chosen, root=folder)
    table.splits = known
    return table


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    # What `save_to_disk` and dataset repos keep beside their data.
    aside = path.name in ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
    return path.suffix.lower() in SUFFIXES and not hidden and not aside


def _open_files(source: str, files: list[Path], *, split: str | None = None, root: Path | None = None) -> Table:
    """The rows of local files, one after the other. All must have the columns of the first."""
    rows = chain.from_iterable(read_file(path) for path in files)
    first = next(rows, None)
    if first is None:
        raise BadData(f"{source} is empty.", "Give data with at least one text.")
    names = parquet_names(files[0]) if files[0].suffix.lower() == ".parquet" else {}
    home = root or files[0].parent
    return Table(source, list(first), chain([first], rows), hash_of(files, root), split, names, home)


def split_named(source: str) -> str | None:
    """The split that a SOURCE names, or that its file is named after; None where it leaves that open."""
    path = local_path(source.strip())
    if path is not None and path.exists():
        return split_of(Path(path.name))
    if path is not None and path.parent.is_dir() and str(path.parent) != "." and not path.suffix:
        named: str | None = path.name
    else:
        named = parse_dataset(source).split
    return next((split for split, aliases in SPLITS.items() if named in aliases), named)

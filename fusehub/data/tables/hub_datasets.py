"""Datasets on the Hub: their names as people write them, and their rows, streamed at one commit.

parse_dataset("user/reviews:en/test@v2")     # DatasetName("user/reviews", "en", "test", "v2")
open_dataset("user/reviews/test", "train", Access())
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fusehub.data.tables.table import GRAMMAR, Draw, Row, Table, label_names, part_not_found, split_among
from fusehub.errors import BadData, NotFound, Offline
from fusehub.hub.access import Access
from fusehub.hub.client import client, cut_token, endpoint, hub_errors
from fusehub.hub.verified import fetch
from fusehub.utils.extras import needs
from fusehub.utils.reach import is_confined

PARTS = 64
"""So many parts of a dataset are read, at least, for a sample of it: what is in one of 64 rows or more is met."""
HELD = 64 * 2**20
"""Bytes of a split that are downloaded whole, so that they can be held to their hashes."""
_REPO = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_TABLES = ("csv", "json", "text", "parquet", "arrow")
GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class DatasetName:
    """A dataset on the Hub as people write it."""

    repo_id: str
    config: str | None
    split: str | None
    revision: str | None

    def __str__(self) -> str:
        parts = ((":", self.config), ("/", self.split), ("@", self.revision))
        return self.repo_id + "".join(mark + part for mark, part in parts if part)


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


def trained_on(card: Mapping[str, Any]) -> list[str]:
    """The datasets on the Hub that a model's card names, `user/dataset`; what is no such name is left out."""
    named = card.get("datasets")
    names = named if isinstance(named, list) else [named]
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and _REPO.fullmatch(name)))


def pinned_dataset(source: str, revision: str | None) -> DatasetName | None:
    """The dataset on the Hub that was read; None for local files, whose revision is no commit but a sha256."""
    return parse_dataset(source) if re.fullmatch(r"[0-9a-f]{40}", revision or "") else None


def pinned_data(source: str, revision: str | None) -> str:
    """`source` with the commit that it was read at, if it is a dataset on the Hub; else as it is."""
    name = None if "@" in source else pinned_dataset(source, revision)
    if name is None:
        return source
    return str(replace(name, revision=revision))


def open_dataset(
    text: str, default_split: str, access: Access, *, images: bool = False, draw: Draw | None = None
) -> Table:
    """A split of a dataset on the Hub at the commit of this moment.

    Where its files are small, they are downloaded and held to their hashes; else rows are read over the network as
    they are asked for, and of bytes that are a part of a file no hash is known.
    """
    wanted = parse_dataset(text)
    if access.local_files_only:
        raise Offline(
            f"The dataset {wanted.repo_id} is on the Hub, and only what is on this machine may be read.",
            "Give a file or a folder of it, or leave out local_files_only.",
        )
    with hub_errors(f"The dataset {wanted.repo_id}" + (f"@{wanted.revision}" if wanted.revision else "")):
        info = client(access.token).dataset_info(wanted.repo_id, revision=wanted.revision, files_metadata=True)
    _require_own_files(info)
    with needs("collect", "Datasets of the Hub"):
        import datasets

    with _dataset_errors(wanted.repo_id):
        builder = datasets.load_dataset_builder(
            info.id, wanted.config, revision=info.sha, token=cut_token(access.token)
        )
        known = builder.config.data_files or builder.info.splits
    split = split_among(wanted.split, default_split, list(known), wanted.repo_id)
    with _dataset_errors(wanted.repo_id):
        _bring_small_files(builder, split, info, access)
        stream = builder.as_streaming_dataset(split=split)
    rows = _stream(stream, wanted.repo_id, images, draw)
    first = next(rows, None)
    if first is None:
        raise BadData(f"{wanted.repo_id}: the split {split} is empty.", "Name another split.")
    source = f"{info.id}{f':{wanted.config}' if wanted.config else ''}/{split}"
    columns = list(stream.features or first)
    return Table(
        source, columns, chain([first], rows), info.sha, split, label_names(stream.features),
        config=builder.config.name, configs=list(builder.builder_configs), splits=list(known),
    )  # fmt: skip


def _bring_small_files(builder: Any, split: str, info: Any, access: Access) -> None:
    """Has `builder` read a split from files on this machine that were held to their hashes, where they are small."""
    from datasets.data_files import DataFilesList

    known = {file.rfilename: file for file in info.siblings or []}
    # Their addresses escape what a path in a repo may hold.
    place = f"hf://datasets/{info.id}@{info.sha}/"
    addresses = (builder.config.data_files or {}).get(split, [])
    names = [unquote(address.removeprefix(place)) for address in addresses]
    files = [known[name] for name in names if name in known]
    # Of pictures in folders, the way there says what they are.
    if type(builder).__module__.rpartition(".")[2] not in _TABLES or len(files) < len(names):
        return
    if sum(file.size or HELD + 1 for file in files) > HELD:
        return
    paths = [
        fetch(
            info.id, name, repo_type="dataset", revision=info.sha, access=access, name=f"The dataset {info.id}",
            claim=file.lfs.sha256 if file.lfs else file.blob_id,
        )
        for name, file in zip(names, files, strict=True)
    ]  # fmt: skip
    builder.config.data_files[split] = DataFilesList([str(path) for path in paths], addresses.origin_metadata)


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


def _stream(stream: Any, name: str, images: bool, draw: Draw | None) -> Iterator[Row]:
    """The rows, without those columns that need decoding (sound, images); with `images`, these as they are stored."""
    kinds = {column: type(feature).__name__ for column, feature in (stream.features or {}).items()}
    with _dataset_errors(name):
        if images:
            from datasets import Image

            for column in [column for column, kind in kinds.items() if kind == "Image"]:
                stream = stream.cast_column(column, Image(decode=False))
        left_out = ("Audio", "Video", "Pdf", *(() if images else ("Image",)))
        media = [column for column, kind in kinds.items() if kind in left_out]
        if media:
            stream = stream.remove_columns(media)
        yield from _from_all_parts(stream, draw) if draw else stream


def _from_all_parts(stream: Any, draw: Draw) -> Iterator[Row]:
    """Rows of parts that lie all over the split, at least twice as many as are drawn; all rows where it has few parts.

    A part is a row group of a Parquet file, which is fetched by itself, or a whole file of another kind. Of many parts
    those are read whose numbers are the steps of the golden ratio from a start that the seed decides: however many are
    taken, they are evenly spread, so that a split that is sorted by label gives rows of every label.
    """
    parts = stream.reshard()
    count = parts.num_shards
    if count <= PARTS:
        yield from stream
        return
    start = random.Random(draw.seed).random()
    order = sorted(range(count), key=lambda part: (start + part * GOLDEN_RATIO) % 1)
    read = 0
    for number, part in enumerate(sorted(order[:PARTS]) + order[PARTS:]):
        if number >= PARTS and read >= 2 * draw.limit:
            return
        for row in parts.shard(num_shards=count, index=part):
            read += 1
            yield row


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
            if not _is_about_a_script(error):
                raise
            raise BadData(
                f"{name} is a dataset with a loading script, and FuseHub never runs code of a repo.",
                f"Use the Hub's own Parquet copy: {name}@refs/convert/parquet",
            ) from error
        except ValueError as error:
            raise _config_error(name, error) from error


def _is_about_a_script(error: RuntimeError) -> bool:
    """Whether `datasets` refuses a loading script, which it tells by no kind of its own."""
    return "scripts are no longer supported" in str(error)


def _config_error(name: str, error: ValueError) -> Exception:
    """A missing or unknown config, told with those there are."""
    configs, is_missing = _configs_in(error)
    if not configs:
        return BadData(f"{name} cannot be read as a dataset: {_first_line(error)}", GRAMMAR)
    what = "has several configs" if is_missing else "has no such config"
    return part_not_found(
        "config", configs, f"{name} {what}.", f"Name one of {', '.join(configs)}: write {name}:CONFIG."
    )


def _configs_in(error: ValueError) -> tuple[list[str], bool]:
    """The configs that `datasets` lists, and whether none was named: it tells both by the text alone."""
    said = str(error)
    listed = re.search(r"(?:available configs|Available)\s*:\s*\[([^\]]*)", said)
    return re.findall(r"'([^']+)'", listed[1]) if listed else [], "missing" in said


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

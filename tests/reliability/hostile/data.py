"""Rows of data and images that are larger than they look, or than a model takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.reliability.hostile.inputs import Command, Hostile, listed

HOSTILE: list[Hostile] = []
hostile = listed(HOSTILE)


def _table(folder: Path, sound: Path, name: str, text: str) -> Command:
    """Collecting statistics with a table."""
    (folder / name).write_text(text, encoding="utf-8")
    return ["collect", sound, "--data", folder / name, "--out", folder / "out"]


# --- Rows ---


@hostile("a line of 10 MB of words in a CSV", "TOKEN_CHARACTERS", "1 texts, 64 tokens", "75 s, 2.9 GB", is_cut=True)
def _line(folder: Path, sound: Path) -> Command:
    return _table(folder, sound, "texts.csv", "text,label\n" + "the movie was great " * 500_000 + ",positive\n")


@hostile("a line of 34 million characters", "CELL_CHARACTERS", "line 1 has more than 33,554,432 characters")
def _long_line(folder: Path, sound: Path) -> Command:
    return _table(folder, sound, "texts.txt", "x" * 34_000_000)


@hostile("a value of 34 million characters over many lines", "CELL_CHARACTERS", "field larger than field limit")
def _long_field(folder: Path, sound: Path) -> Command:
    return _table(folder, sound, "texts.csv", 'text,label\n"' + ("x" * 999 + "\n") * 34_000 + '",positive\n')


@hostile("a CSV of 1,000,000 columns", "COLUMNS", "has 1,000,000 columns", "10 s for 20 rows")
def _columns(folder: Path, sound: Path) -> Command:
    return _table(folder, sound, "texts.csv", "text" + "," * 999_999 + "\nFine.\n")


@hostile(
    "a label that is a list of 3,000,000 items", "ITEMS", "a list of 3,000,000 items", "12 s, 920 MB for 10,000,000"
)
def _items(folder: Path, sound: Path) -> Command:
    return _table(folder, sound, "texts.jsonl", '{"text": "Fine.", "label": [' + "1," * 2_999_999 + "1]}\n")


@hostile(
    "a list of 10 MB as Python writes it", "LITERAL_CHARACTERS", "no more than 1,048,576 are read", "23 s, 2.1 GB"
)
def _literal(folder: Path, sound: Path) -> Command:
    return _table(folder, sound, "texts.csv", "text,label\nFine.,\"['a'" + ", 'a'" * 2_000_000 + ']"\n')


@hostile("a .json file of 1.1 GB", "TABLE_BYTES", "no more than 1,073,741,824 are read")
def _json_table(folder: Path, sound: Path) -> Command:
    command = _table(folder, sound, "texts.json", "[")
    with (folder / "texts.json").open("r+b") as file:
        file.truncate(1_100_000_000)
    return command


@hostile("a question about a text of 1.2 million characters", "QUESTION_CHARACTERS", "is an answer looked for")
def _question(folder: Path, sound: Path) -> Command:
    from tests.unit.tiny import tiny_model

    model = tiny_model(folder / "reader", task="question-answering")
    row = {"question": "Who?", "context": "Anna lives in Paris. " * 57_000}
    return _table(folder, model, "texts.jsonl", json.dumps(row))


@hostile("a Parquet file of 50 KB that unpacks to 100 MB", "PARQUET_BYTES", "unpacks to")
def _parquet(folder: Path, sound: Path) -> Command:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    path = folder / "texts.parquet"
    write_table(pa.table({"text": ["x" * 100_000_000], "label": ["positive"]}), path, compression="zstd")
    return ["collect", sound, "--data", path, "--out", folder / "out"]


@hostile("a text of 1 MB that a Parquet file has once for 300 rows", "PARQUET_ROWS", "from 20 texts", is_cut=True)
def _repeated(folder: Path, sound: Path) -> Command:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    path = folder / "texts.parquet"
    texts = pa.array(["the movie was great " * 50_000] * 2).dictionary_encode()
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), texts.dictionary)
    write_table(pa.table({"text": rows, "label": ["positive"] * 300}), path)
    return ["collect", sound, "--data", path, "--limit", 20, "--out", folder / "out"]


# --- Images ---


def _images(folder: Path, make: Callable[[Path], None], **processor: Any) -> Command:
    """Collecting statistics of a model of images with one image."""
    from tests.unit.tiny import tiny_model

    model = tiny_model(folder / "vit", "vit", task="image-classification")
    path = model / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | processor))
    for label in ("negative", "positive"):
        (folder / "images" / label).mkdir(parents=True)
        make(folder / "images" / label / "1.png")
    return ["collect", model, "--data", folder / "images", "--out", folder / "out"]


def _png(path: Path, width: int, height: int) -> None:
    """An image whose head states these sides, and that holds nothing."""
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


@hostile("an image of 100 bytes, said to be of 12,000 by 12,000 pixels", "IMAGE_PIXELS", "12,000 by 12,000 pixels")
def _large_image(folder: Path, sound: Path) -> Command:
    return _images(folder, lambda path: _png(path, 12_000, 12_000))


@hostile("an image of 1 by 1,000,000,000 pixels", "IMAGE_PIXELS", "1.png is no image that can be read")
def _line_of_pixels(folder: Path, sound: Path) -> Command:
    return _images(folder, lambda path: _png(path, 1, 10**9))


@hostile("an image of 1 by 60,000 pixels", "IMAGE_RATIO", "60,000 by 1 pixels")
def _thin_image(folder: Path, sound: Path) -> Command:
    return _images(folder, lambda path: _png(path, 1, 60_000))


@hostile("a processor that makes images of 1,000,000 by 1,000,000", "IMAGE_SIDE", "makes images of 1,000,000 pixels")
def _side(folder: Path, sound: Path) -> Command:
    return _images(folder, lambda path: _png(path, 20, 20), size={"height": 10**6, "width": 10**6})

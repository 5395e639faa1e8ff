"""Images as examples: where they are, read only when a model is about to look at them.

table = open_pictures("photos/test")            # folders named after labels, as `datasets` reads an imagefolder
next(table.rows)["image"], next(table.rows)["label"]
picture_of("cat.png", Path("photos"), "row 1").open()        # a PIL image in RGB
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.data.tables.files import hash_of
from fusehub.data.tables.sources import open_table
from fusehub.data.tables.table import Draw, Table, split_among
from fusehub.errors import Action, BadData, BadFile, NotFound
from fusehub.hub.access import STORED, Access
from fusehub.models.tensor_files import sha256_of
from fusehub.utils.extras import needs
from fusehub.utils.reach import is_confined, local_path
from fusehub.utils.untrusted.limits import IMAGE_PIXELS, IMAGE_RATIO

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Picture:
    """An image that has not been decoded: its name for a person, and its file, its address, or its bytes."""

    name: str
    path: str | None = None
    data: bytes | None = None

    def open(self) -> Image:
        """The image in RGB. Raises `BadFile` where it is none."""
        self._require_reachable()
        with needs("images", "Images"):
            from datasets import Image as Feature
            from PIL import UnidentifiedImageError
        from PIL.Image import DecompressionBombError

        try:
            self._require_small()
            # It also reads addresses on the Hub.
            image = Feature().decode_example({"path": self.path, "bytes": self.data})
            return image if image.mode == "RGB" else image.convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, DecompressionBombError) as error:
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise BadFile(
                f"{self.name} is no image that can be read ({said}).", "Repair it or leave it out."
            ) from error

    def _require_small(self) -> None:
        """Raises `BadFile` by what the head of an image says of its size, before it is decoded.

        Of one on the Hub Pillow itself refuses what is much too large.
        """
        from PIL.Image import open as open_head

        source: io.BytesIO | str
        if self.data is not None:
            source = io.BytesIO(self.data)
        elif self.path and Path(self.path).is_file():
            source = self.path
        else:
            return
        with open_head(source) as image:
            short, long = sorted(image.size)
        if short * long > IMAGE_PIXELS or long > IMAGE_RATIO * short:
            raise BadFile(
                f"{self.name} is said to be of {long:,} by {short:,} pixels; no more than {IMAGE_PIXELS:,} are read, "
                f"and nothing that is more than {IMAGE_RATIO} times as long as wide.",
                "Make it smaller or leave it out.",
            )

    def digest(self) -> str:
        """A hash of the image as it is stored; of one that is on the Hub its address, which names the commit."""
        self._require_reachable()
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        assert self.path is not None  # One of both is there.
        path = Path(self.path)
        return sha256_of(path) if path.is_file() else self.path

    def _require_reachable(self) -> None:
        """Raises `BadFile` for an image that a table only names, where it is at a place that may not be read."""
        if self.data is not None or self.path is None or not is_confined() or self.path.startswith("hf://"):
            return
        path = local_path(self.path)
        if path is None or not path.is_file():
            raise BadFile(f"{self.name} is not in the data itself.", "Put the images into the dataset.")


def picture_of(value: Any, root: Path | None, place: str) -> Picture | None:
    """The picture that a value of a table means: a file's name, or what `datasets` keeps of an image.

    None for an empty value. Raises `BadData` for anything else, and `NotFound` for a file that is not there.
    """
    if value is None or value == "":
        return None
    if isinstance(value, Mapping) and set(value) <= {"bytes", "path"} and any(value.values()):
        name = Path(value.get("path") or "").name or place
        return Picture(name, value.get("path"), value.get("bytes"))
    if not isinstance(value, str):
        raise BadData(
            f"{place} holds {type(value).__name__}, not images.",
            "Name the one with the images: --text-column NAME",
            actions=[Action("name-columns")],
        )
    named = Path(value).expanduser()
    path = local_path(str(named if named.is_absolute() or root is None else root.resolve() / named))
    if path is None or not path.is_file():
        raise NotFound(
            f"{place} names the image {value}, which is not there.",
            "Write names of images as they are seen from the folder of the table.",
        )
    return Picture(value, str(path))


def open_pictures(
    source: str, *, default_split: str = "train", access: Access = STORED, draw: Draw | None = None
) -> Table:
    """Images with their labels: a folder of images, or any table with a column of images or of their names."""
    path = local_path(source.strip())
    if path is None:
        return open_table(source, default_split=default_split, access=access, images=True, draw=draw)
    folder, asked = (path, None) if path.is_dir() else (path.parent, path.name)
    local = path.is_dir() or (not path.exists() and not path.suffix and folder.is_dir() and str(folder) != ".")
    if source.strip() and local and any(_images(folder)):
        return _open_folder(folder, asked, default_split)
    return open_table(source, default_split=default_split, access=access, images=True, draw=draw)


def _images(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _open_folder(folder: Path, asked: str | None, default: str) -> Table:
    """A folder of images as `datasets` reads it: labels from the folders' names, or from a metadata.csv."""
    with needs("images", "Images"):
        import datasets
        import PIL  # noqa: F401  # `datasets` wants it late, without words.
        from datasets.exceptions import DatasetsError

    name = folder.resolve().name
    try:
        splits = datasets.load_dataset("imagefolder", data_dir=str(folder), streaming=True)
        # A folder without splits is read as one that has only "train".
        whole = asked is None and list(splits) == ["train"]
        split = "train" if whole else split_among(asked, default, list(splits), str(folder))
        stream = splits[split]
        stream = stream.cast_column("image", datasets.Image(decode=False))
    except (DatasetsError, ValueError, OSError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadData(f"{folder} cannot be read as a folder of images: {said}", "One folder a label?") from error
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {column: list(feature.names) for column, feature in stream.features.items() if hasattr(feature, "names")}
    source = name if whole else f"{name}/{split}"
    return Table(
        source, list(stream.features), iter(stream), hash_of(files, folder), split, names, folder,
        splits=() if whole else list(splits),
    )  # fmt: skip

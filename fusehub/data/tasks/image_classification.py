"""Image classification: images, and one label, several, or a number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fusehub.data.columns import LABEL_COLUMNS, Columns, Guesses
from fusehub.data.images import Picture, open_pictures, picture_of
from fusehub.data.tables.table import Draw, Row, Table
from fusehub.data.tasks.labelled import LabelledData
from fusehub.data.tasks.task import PROBE_BATCH, Given, Prepared
from fusehub.data.tokenizing import Text, groups
from fusehub.data.values import Label, value_of
from fusehub.hub.access import Access
from fusehub.models.loading import load_processor, strange_files
from fusehub.models.tasks import load_config
from fusehub.utils.extras import needs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from fusehub.models.resolve import ModelRef

_IMAGE_COLUMNS = ("image", "img", "picture", "photo", "pixel_values", "file_name", "file", "path", "image_path")


class ImageClassificationData(LabelledData):
    """Images, each with its labels."""

    kinds = (Picture,)
    columns = Guesses(
        "images",
        texts=_IMAGE_COLUMNS,
        targets=(*LABEL_COLUMNS, "fine_label", "species", "breed"),
        labels_named=True,
        bits=True,
    )
    word = "image"
    one_word = "an image"

    def open(self, source: str, *, default_split: str, access: Access, draw: Draw | None) -> Table:
        """A folder of images, or a table that names them."""
        return open_pictures(source, default_split=default_split, access=access, draw=draw)

    def read_inputs(self, row: Row, columns: Columns, table: Table, place: str) -> Picture | None:
        """The image, not yet opened."""
        return picture_of(value_of(row, columns.texts[0]), table.root, f"{place}: the column {columns.described}")

    def prepare(
        self,
        ref: ModelRef,
        examples: Given,
        *,
        max_length: int | None,
        seed: int,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> Prepared:
        """The images, each under `picture`, with the model's own processor."""
        encodings = [{"picture": picture} for picture in examples.texts]
        return Prepared(examples.task, None, encodings, load_processor(ref), _patches(load_config(ref)))

    def tokens(self, inputs: Prepared) -> int:
        """The tokens that all images become."""
        return len(inputs) * inputs.patches

    def batches(
        self, inputs: Prepared, *, batch_tokens: int | None, batch_size: int | None
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """(indices of images, their `pixel_values`)."""
        for group in groups([(inputs.patches,)] * len(inputs), batch_size=batch_size, batch_tokens=batch_tokens):
            yield group, _look_at(inputs, [inputs.encodings[index]["picture"] for index in group])

    def probe(self, inputs: Prepared) -> dict[str, Tensor]:
        """3 images."""
        return _look_at(inputs, [inputs.encodings[0]["picture"]] * PROBE_BATCH)

    def example(self) -> tuple[Text, Label | None]:
        """A plain image."""
        from io import BytesIO

        with needs("images", "Images"):
            from PIL import Image

        file = BytesIO()
        Image.new("RGB", (64, 64), (200, 120, 40)).save(file, "PNG")
        return Picture("a plain image", data=file.getvalue()), None


def _look_at(inputs: Prepared, pictures: Sequence[Picture]) -> dict[str, Tensor]:
    opened = [picture.open() for picture in pictures]
    with strange_files("The model", "its preprocessor_config.json"):
        return {"pixel_values": inputs.processor(images=opened, return_tensors="pt")["pixel_values"]}


def _patches(config: PretrainedConfig) -> int:
    """Tokens that an image becomes: its patches and one for the whole; of other models those of the usual 16 by 16."""
    sides = [getattr(config, "image_size", None) or 224, getattr(config, "patch_size", None) or 16]
    image, patch = (side[0] if isinstance(side, list | tuple) else side for side in sides)
    return (int(image) // int(patch)) ** 2 + 1

"""What FuseHub asks of a task's data: how rows are read, how examples become inputs, what is predicted of them.

Nothing asks which task it is. What is the same for most is done here; a task is a file beside this one, which says
what is its own, and a line in `fusehub.data.tasks`.
"""

from __future__ import annotations

import itertools
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from fusehub.data.chats import Chat
from fusehub.data.columns import Columns, Guesses
from fusehub.data.images import Picture
from fusehub.data.tables.sources import open_table
from fusehub.data.tables.table import Draw, Row, Table
from fusehub.data.tokenizing import Text, batches, encode, max_length_of, require_rows
from fusehub.data.values import Label, is_nan, label_of, require_characters, value_of
from fusehub.errors import Action, BadData
from fusehub.hub.access import Access
from fusehub.models.layout import layout_of
from fusehub.models.loading import load_tokenizer
from fusehub.models.tasks import TASKS, load_config

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedTokenizerBase

    from fusehub.models.resolve import ModelRef

PROBE_BATCH, PROBE_LENGTH, PROBE_DECODER_LENGTH = 3, 11, 7
SENTENCE = "This is one sentence, to see that the model answers."


class Given(Protocol):
    """Examples, as far as models are given them (see `fusehub.data.examples.Examples`)."""

    @property
    def task(self) -> str:
        """The Hub's name of what they are for."""

    @property
    def texts(self) -> Sequence[Text]:
        """What a model is given."""

    @property
    def labels(self) -> Sequence[Label] | None:
        """What is right, where every example says it."""

    @property
    def source(self) -> str:
        """Where they are from."""


@dataclass(frozen=True)
class Prepared:
    """Examples as one model takes them. `encodings` has one dict a row; `len` is the number of rows.

    A row is an example; in question answering a window of one, whose index is under `example`. What is to be told is
    under `labels` for masked language models and sequence to sequence. `max_length` is None for images.
    """

    task: str
    max_length: int | None
    encodings: list[dict[str, Any]]
    processor: PreTrainedTokenizerBase | BaseImageProcessor
    patches: int = 0
    """Of a model of images, the number of tokens that one becomes, for bounding batches."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor of any model but one of images."""
        from transformers import PreTrainedTokenizerBase

        assert isinstance(self.processor, PreTrainedTokenizerBase)
        return self.processor

    def __len__(self) -> int:
        return len(self.encodings)


class RowWatch(Protocol):
    """Looks at the rows of a table while they are read, for what no row tells alone."""

    def see(self, value: object) -> None:
        """The value of a row's column of texts."""

    def require_sound(self) -> None:
        """Raises `BadData` where the rows together are not what they were read as."""


class TaskData(ABC):
    """The data of one task; as it stands here, of one that is given one text and says something of the whole."""

    kinds: ClassVar[tuple[type, ...]] = (str,)
    """The types of what a model is given."""
    columns: ClassVar[Guesses]
    """Where it is looked for in a table."""
    word: ClassVar[str] = "text"
    """What a model is given, for a person: "12 rows without text"."""
    one_word: ClassVar[str] = "text"
    one_choice: ClassVar[bool] = True
    """A model makes one choice an example, and not one a token."""
    chooses_label: ClassVar[bool] = False
    """It chooses among the labels of the config, by its `problem_type`: one, several, or a number."""

    # Rows of a table

    def open(self, source: str, *, default_split: str, access: Access, draw: Draw | None) -> Table:
        """The table that `source` names."""
        return open_table(source, default_split=default_split, access=access, draw=draw)

    def watch(self, table: Table, columns: Columns) -> RowWatch | None:
        """What looks at all the rows while they are read; None where each row tells all."""
        return None

    def read_inputs(self, row: Row, columns: Columns, table: Table, place: str) -> Text | None:
        """What a model is given of a row; None where there is nothing. Raises `BadData` for something else."""
        text = self._read_text(row, columns, place)
        require_characters(text, columns.described, place)
        return text

    def read_label(
        self, row: Row, columns: Columns, table: Table, text: Text, place: str, *, needed: bool
    ) -> Label | None:
        """The label of a row, its list of answers, or its target text; None where it has none."""
        label = None
        if columns.label is not None:
            names = table.names.get(columns.label)
            label = self._read_label(value_of(row, columns.label), names, columns, row, text, place, needed=needed)
        require_characters(label, columns.label, place)
        return label

    def _read_text(self, row: Row, columns: Columns, place: str) -> Text | None:
        parts = []
        for column in columns.texts:
            value = value_of(row, column)
            if value is None or is_nan(value):
                return None
            if (odd := self._read_odd(value, place)) is not None:
                return odd
            if not isinstance(value, str):
                raise BadData(
                    f"{place}: the column {column} holds {type(value).__name__}, not text.",
                    f"The columns are {', '.join(map(str, row))}. Name the one with the texts: --text-column NAME",
                    actions=[Action("name-columns")],
                )
            parts.append(value)
        if not all(part.strip() for part in parts):
            return None
        return parts[0] if len(parts) == 1 else (parts[0], parts[1])

    def _read_odd(self, value: Any, place: str) -> Text | None:
        """What a value means that is no plain text; None where it should be one."""
        return None

    def _read_label(
        self,
        value: Any,
        names: Sequence[str] | None,
        columns: Columns,
        row: Row,
        text: Text,
        place: str,
        *,
        needed: bool,
    ) -> Label | None:
        """What the value in the column of labels means, by the `names` that the data gives to numbers."""
        return label_of(value, names)

    # What a model is given

    def require_kind(self, task: str, texts: Sequence[Any]) -> None:
        """Raises `BadData` unless the examples of a model of `task` are what it takes."""
        if not texts:
            raise BadData("There is no example.", "Give at least one.")
        odd = next((text for text in texts if not isinstance(text, self.kinds)), None)
        if odd is not None:
            raise BadData(
                f"A model for {task} cannot take {_kind_of(odd)}.", f"It takes {TASKS[task].data}: give it those."
            )

    def prepare(
        self,
        ref: ModelRef,
        examples: Given,
        *,
        max_length: int | None,
        seed: int,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> Prepared:
        """The examples as the model `ref` takes them: see `fusehub.data.inputs.Inputs.of`."""
        config = load_config(ref)
        if tokenizer is None:
            tokenizer = load_tokenizer(ref)
        length = max_length_of(tokenizer, config, max_length)
        encodings = self.encode(examples, tokenizer, config, max_length=length, seed=seed)
        layout = layout_of(config)
        for parameter in layout.embeddings[:1]:
            require_rows(ref.name, layout.shapes[parameter][0], encodings, tokenizer)
        return Prepared(examples.task, length, encodings, tokenizer)

    def encode(
        self,
        examples: Given,
        tokenizer: PreTrainedTokenizerBase,
        config: PretrainedConfig,
        *,
        max_length: int,
        seed: int,
    ) -> list[dict[str, Any]]:
        """One dict of token ids a row, cut to `max_length` tokens; `seed` decides what is drawn of each text."""
        return encode(examples.texts, tokenizer, max_length=max_length)

    def tokens(self, inputs: Prepared) -> int:
        """Real tokens in all rows, the decoder's too, padding not among them."""
        return sum(
            len(encoding["input_ids"]) + len(encoding.get("decoder_input_ids", ())) for encoding in inputs.encodings
        )

    def batches(
        self, inputs: Prepared, *, batch_tokens: int | None, batch_size: int | None
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """(indices of rows, their tensors) until every row was in one batch: see `fusehub.data.inputs.Inputs`."""
        return batches(inputs.encodings, inputs.tokenizer, batch_size=batch_size, batch_tokens=batch_tokens)

    def probe(self, inputs: Prepared) -> dict[str, Tensor]:
        """A batch of 3 rows, of length 11 and 7 in the decoder, without padding: numbers by which axes can be told."""
        import torch

        made: dict[str, Tensor] = {}
        for side, length in (("", PROBE_LENGTH), ("decoder_", PROBE_DECODER_LENGTH)):
            if ids := inputs.encodings[0].get(f"{side}input_ids"):
                rows = torch.tensor(_of_length(ids, length)).repeat(PROBE_BATCH, 1)
                made |= {f"{side}input_ids": rows, f"{side}attention_mask": torch.ones_like(rows)}
        return made

    def example(self) -> tuple[Text, Label | None]:
        """What a model is tried with, and what is to be told of it where it must be given that."""
        return SENTENCE, None

    # What is predicted

    def logits(self, outputs: Any) -> list[Tensor]:
        """What the model's choices are made by: [batch, ...] each."""
        return [outputs.logits]

    def predicted(self, logits: Tensor, batch: Mapping[str, Tensor], mask_token_id: int | None) -> Tensor:
        """Which elements of `logits` [batch, ...] begin a prediction, or for spans may be chosen: bool.

        [batch, positions] for tokens; as `logits` where one choice is made by all of them.
        """
        return real_tokens(logits, batch, "attention_mask")


def real_tokens(logits: Tensor, batch: Mapping[str, Tensor], mask: str) -> Tensor:
    """[batch, positions], bool: what is no padding, by the `mask` of the batch."""
    import torch

    found = batch.get(mask)
    return (torch.ones(logits.shape[:2], device=logits.device) if found is None else found).bool()


def _kind_of(value: Any) -> str:
    kinds = {
        str: "a text",
        tuple: "a pair of texts",
        list: "a list of words",
        Picture: "an image",
        Chat: "a conversation",
    }
    return kinds.get(type(value), type(value).__name__)


def _of_length(ids: list[int], length: int) -> list[int]:
    """`ids` repeated or cut to `length`. The last stays the last: some models look for the one end of a text."""
    *body, last = ids
    return [*itertools.islice(itertools.cycle(body or ids), length - 1), last]

"""What tasks have in common that label an example as a whole: by one label, by several, or by a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fusehub.data.columns import Columns
from fusehub.data.tables.table import Row, Table
from fusehub.data.tasks.task import TaskData
from fusehub.data.tokenizing import Text
from fusehub.data.values import Label, bit_of, label_of, require_characters, value_of
from fusehub.errors import Action, BadData

if TYPE_CHECKING:
    from torch import Tensor


class LabelledData(TaskData):
    """Examples that are labelled as a whole; also by columns of 0 and 1, one a label."""

    chooses_label = True

    def read_label(
        self, row: Row, columns: Columns, table: Table, text: Text, place: str, *, needed: bool
    ) -> Label | None:
        """The label of a row, or the labels whose columns hold 1; None where it has none."""
        if not columns.bits:
            return super().read_label(row, columns, table, text, place, needed=needed)
        bits = [bit_of(value_of(row, column)) for column in columns.bits]
        wrong = [column for column, bit in zip(columns.bits, bits, strict=True) if bit is None]
        values = [label_of(value_of(row, column), None) for column in wrong]
        if needed and any(value is not None for value in values):
            raise BadData(
                f"{place}: the column {wrong[0]} is called after a label and holds {values[0]}, not 0 or 1.",
                "Write 0 or 1 in it, or name the column with the labels: --label-column NAME",
                actions=[Action("name-columns")],
            )
        told = None if wrong else [column for column, bit in zip(columns.bits, bits, strict=True) if bit]
        require_characters(told, None, place)
        return told

    def predicted(self, logits: Tensor, batch: Mapping[str, Tensor], mask_token_id: int | None) -> Tensor:
        """All of the logits, [batch, labels]."""
        import torch

        return torch.ones_like(logits, dtype=torch.bool)

"""Causal language models: texts or conversations, of which each token is told from those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusehub.data.chats import Chat, is_chat, read_chat
from fusehub.data.columns import TEXT_COLUMNS, Guesses
from fusehub.data.tasks.task import TaskData

if TYPE_CHECKING:
    from torch import Tensor


class TextGenerationData(TaskData):
    """Texts or conversations."""

    kinds = (str, Chat)
    columns = Guesses("text", texts=TEXT_COLUMNS, chats=True)
    one_choice = False

    def predicted(self, logits: Tensor, batch: Mapping[str, Tensor], mask_token_id: int | None) -> Tensor:
        """Each token predicts the one after it; the last predicts none that the text has."""
        import torch

        real = super().predicted(logits, batch, mask_token_id)
        following = torch.zeros_like(real)
        following[:, :-1] = real[:, 1:]
        return real & following

    def _read_odd(self, value: Any, place: str) -> Chat | None:
        return read_chat(value, place) if is_chat(value) else None

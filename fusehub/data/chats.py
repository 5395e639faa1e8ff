"""Conversations as data: read from the shapes in which they are published, and put into words by the model's template.

    chat = read_chat([{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}], "row 1")
    put_into_words([chat], tokenizer)              # ["<|im_start|>user\\nHi.<|im_end|>..."]

The shapes are `messages` (role, content) and ShareGPT's `conversations` (from, value).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.data.chat_rendering import render
from fusehub.data.literals import read_list
from fusehub.errors import Action, BadData, Incompatible

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASSISTANT = "assistant"
# ShareGPT's names for who speaks.
_ROLES = {"human": "user", "gpt": ASSISTANT, "chatgpt": ASSISTANT, "bot": ASSISTANT}


@dataclass(frozen=True)
class Chat:
    """A conversation: who speaks ("user", "assistant", "system"), and what, turn by turn."""

    turns: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The conversation as a person reads it."""
        return "\n".join(f"{role}: {text}" for role, text in self.turns)


def is_chat(value: Any) -> bool:
    """Whether a value of a table is a conversation, or one that was written as text."""
    if isinstance(value, str):
        value = read_list(value)
    if not isinstance(value, list) or not value or not isinstance(value[0], Mapping):
        return False
    return {"role", "content"} <= set(value[0]) or {"from", "value"} <= set(value[0])


def read_chat(value: Any, place: str) -> Chat:
    """The conversation that a value of a table is. Raises `BadData` for a turn that is no text."""
    turns = []
    for number, turn in enumerate((read_list(value) or ()) if isinstance(value, str) else value, 1):
        said = turn if isinstance(turn, Mapping) else {}
        role, content = said.get("role", said.get("from")), said.get("content", said.get("value"))
        if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
            content = "".join(str(part["text"] or "") for part in content)
        if not isinstance(role, str) or not isinstance(content, str):
            raise BadData(
                f"{place}: turn {number} of the conversation has no role or no text.",
                'Write turns as {"role": "user", "content": "..."}; leave out those that call tools or hold images.',
            )
        turns.append((_ROLES.get(role.casefold(), role), content))
    return Chat(tuple(turns))


def put_into_words(chats: Sequence[Chat], tokenizer: PreTrainedTokenizerBase, *, reply: bool = False) -> list[str]:
    """Conversations as the model was trained on them, special tokens included.

    With `reply`, up to where the assistant is to speak: its last turn is left out if the conversation ends with one.
    Raises `Incompatible` where the tokenizer has no template, `BadData` where a template refuses a conversation.
    """
    if not tokenizer.chat_template:
        raise Incompatible(
            "The data are conversations, and the model's tokenizer has no chat template to put them into words.",
            "Use a model that has one, or name a column of plain texts: --text-column NAME",
            actions=[Action("name-columns")],
        )
    conversations = []
    for chat in chats:
        turns = chat.turns[:-1] if reply and len(chat.turns) > 1 and chat.turns[-1][0] == ASSISTANT else chat.turns
        conversations.append([{"role": role, "content": text} for role, text in turns])
    return render(tokenizer.get_chat_template(), conversations, tokenizer.special_tokens_map, reply=reply)

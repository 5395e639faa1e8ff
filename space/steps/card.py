"""The card of a merge that is to be pushed: written by the package, changed by hand, and following what is typed.

    draft.take(typed)        # what the visitor made of it
    draft.write(written)     # what FuseHub writes now: wherever he changed nothing, that is in the card

What FuseHub writes depends on the name, the license and the scores, which change after the visitor has begun to
write. Lines that he changed stay his; all others are always what FuseHub writes at this moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any


@dataclass
class Draft:
    """The card of one merge. `repo` and `license` are as they were typed; `facts` tell of the licenses."""

    repo: str
    license: str = ""
    written: str = ""
    """What FuseHub writes."""
    text: str = ""
    """What is to be pushed."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Any = None
    """The scores that are in it."""
    public: bool = False
    named: int = 0
    """How often something else than the visitor's hand changed the name."""
    version: int = 0
    """How often something else than the visitor's hand changed the text."""
    shown: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    """What the page was last given and may not have shown yet when it tells what is in its box, and what it told
    before: what was made of that is not taken back by a page that still shows it."""

    def write(self, written: str) -> None:
        """What FuseHub writes from now on; what the visitor changed of it before stays as it is."""
        text = followed(self.text, self.written, written) if self.written else written
        self.version += text != self.text
        if self.text:
            self.shown.append(self.text)
        self.text, self.written = text, written
        self.shown.append(text)

    def take(self, text: str | None) -> None:
        """What is in the page's box, which the visitor may have changed; nothing where the box is not open."""
        if text and text not in self.shown:
            self.text = text


def followed(text: str, before: str, after: str) -> str:
    """`text`, which somebody made of `before`, as if it had been made of `after`: what he changed stays changed."""
    old, new = before.split("\n"), after.split("\n")
    lines = text.split("\n")
    kept = {
        block.a + offset: block.b + offset
        for block in SequenceMatcher(None, old, lines, autojunk=False).get_matching_blocks()
        for offset in range(block.size)
    }
    # From the end, so that places before stay what they are.
    for start, end, replacement in reversed(list(_changes(old, new))):
        if start == end:
            # Lines come in after another one, or before all.
            place = kept.get(start - 1, -1 if start == 0 else None)
            if place is not None:
                lines[place + 1 : place + 1] = replacement
            continue
        places = [kept.get(number) for number in range(start, end)]
        first = places[0]
        if first is not None and places == list(range(first, first + len(places))):
            lines[first : first + len(places)] = replacement
    return "\n".join(lines)


def _changes(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[int, int, list[str]]]:
    """Which lines of `old` are which others in `new`; line by line where as many stand in their place."""
    for kind, start, end, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        if end - start == last - first:
            yield from ((start + at, start + at + 1, [new[first + at]]) for at in range(end - start))
        else:
            yield start, end, list(new[first:last])

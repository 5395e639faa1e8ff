"""One choice a label, where models call theirs differently: which of another model's labels each of them is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from fusehub.models.label_names import are_generic, key_of

from ..visit import Picked
from . import html

# More are no choice by hand.
_MOST = 30
# All choices go together; the button has the focus again when the page is painted anew.
CHOICES = """
let pressed = false;
element.addEventListener('click', (event) => {
  if (!event.target.closest('button[data-act="labels"]')) return;
  const said = {};
  for (const one of element.querySelectorAll('select')) (said[one.dataset.model] ||= []).push(one.value);
  pressed = true;
  trigger('click', {act: 'labels', id: '', value: JSON.stringify(said)});
});
watch('value', () => {
  if (!pressed || (document.activeElement && document.activeElement !== document.body)) return;
  const again = element.querySelector('button[data-act="labels"]');
  if (again) again.focus();
});
"""


def to_map(picks: Sequence[Picked]) -> tuple[Picked | None, list[Picked]]:
    """Whose labels the others' are held against, and the models of its task that have others; (None, []) where all
    labels match by name, where none have names, and where there are too many to choose by hand."""
    named = [pick for pick in picks if pick.labels and not are_generic(list(pick.labels))]
    if not named or len({pick.task for pick in picks}) > 1 or max(len(pick.labels) for pick in picks) > _MOST:
        return None, []
    first = named[0]
    own = set(map(key_of, first.labels))
    others = [pick for pick in picks if pick is not first and pick.labels and set(map(key_of, pick.labels)) != own]
    return (first, others) if others else (None, [])


def labels_html(picks: Sequence[Picked], chosen: Mapping[str, Sequence[str]]) -> str:
    """The choices, with what is `chosen` by model; empty where there is nothing to choose."""
    first, others = to_map(picks)
    if first is None:
        return ""
    own = set(map(key_of, first.labels))
    # Who has some of the labels and no others calls none differently.
    others = [pick for pick in others if pick.name in chosen or not own.issuperset(map(key_of, pick.labels))]
    if not others:
        return ""
    parts = [
        "<h3>Labels that are called differently</h3>"
        f"<p class='fh-intro'>Labels are matched by name, and not all of these are called as those of "
        f"{html.esc(first.name)}. Where one means the same, say so; what stays is a label of its own.</p>"
    ]
    for pick in others:
        said = chosen.get(pick.name, pick.labels)
        rows = "".join(
            _row(pick, row, label, said[row] if row < len(said) else label, first)
            for row, label in enumerate(pick.labels)
        )
        parts.append(f'<fieldset class="fh-labels"><legend>{html.esc(pick.name)}</legend>{rows}</fieldset>')
    parts.append(f"<p>{html.button('labels', 'Use these names')}</p>")
    return "".join(parts)


def _row(pick: Picked, row: int, label: str, said: str, first: Picked) -> str:
    # By its own name it may be one of them already, in other letters.
    names = {label: f"{label} (as it is)"} | {own: own for own in first.labels if key_of(own) != key_of(label)}
    options = "".join(
        f'<option value="{html.esc(name)}"{" selected" if name == said else ""}>{html.esc(shown)}</option>'
        for name, shown in names.items()
    )
    place = (
        f'class="fh-input" data-model="{html.esc(pick.name)}" aria-label="{html.esc(label)} of {html.esc(pick.name)}"'
    )
    return f"<label><span>{html.esc(label)}</span> <select {place}>{options}</select></label>"


def labels_said(said: str, picks: Sequence[Picked]) -> dict[str, list[str]]:
    """Model -> the names of its labels, of what the page sends; what is none of its choices is passed over."""
    try:
        sent = json.loads(said)
    except ValueError:
        return {}
    first, others = to_map(picks)
    found: dict[str, list[str]] = {}
    for pick in others:
        names = sent.get(pick.name) if isinstance(sent, dict) else None
        known = {*pick.labels, *(first.labels if first else ())}
        if not isinstance(names, list) or len(names) != len(pick.labels) or names == list(pick.labels):
            continue
        if all(isinstance(name, str) and name in known for name in names):
            found[pick.name] = names
    return found

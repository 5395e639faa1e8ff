"""Pieces of the page as HTML: cards, notices, tables, code, all text in them escaped. And numbers as people read them.

Buttons and links carry what they do in `data-act` and `data-id`; `PRESS` is the script that tells the server.
"""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusehub.errors import Action, FuseHubError, Incompatible
from fusehub.utils.formats import size
from fusehub.utils.markdown import without_paths
from fusehub.utils.reach import is_confined

from .offers import LOG_IN, OFFERS, fix_of

# One listener on the whole piece, as what is in it changes. A pressed button has the focus again when repainted.
PRESSING = """
window.fusehub.press = (element, trigger, watch) => {
let last = null;
element.addEventListener('click', (event) => {
  const pressed = event.target.closest('button[data-act]');
  if (!pressed || pressed.getAttribute('aria-disabled') === 'true') return;
  // The second half of a double click.
  if (event.detail > 1 && last && last.act === pressed.dataset.act && last.id === (pressed.dataset.id || '')) return;
  if (pressed.dataset.act === 'copy') {
    const code = pressed.closest('figure').querySelector('code');
    // Where a page may not write to the clipboard, as on one that is not served by https, all of it is selected.
    const select = () => { getSelection().selectAllChildren(code); pressed.innerText = 'Selected: press Ctrl+C'; };
    const copied = () => { pressed.innerText = 'Copied'; };
    navigator.clipboard ? navigator.clipboard.writeText(code.innerText).then(copied, select) : select();
    return;
  }
  const written = pressed.parentElement.querySelector('input');
  last = {act: pressed.dataset.act, id: pressed.dataset.id || '', value: written ? written.value : ''};
  trigger('click', last);
});
element.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !event.target.matches('input')) return;
  event.target.parentElement.querySelector('button[data-act]').click();
});
watch('value', () => {
  if (!last || (document.activeElement && document.activeElement !== document.body)) return;
  const same = [...element.querySelectorAll('button[data-act]')];
  const next = same.find((b) => b.dataset.act === last.act && b.dataset.id === last.id) || same[0];
  if (next) next.focus();
});
return {forget: () => { last = null; }};
};
"""
# The page has that once, and each piece calls it.
PRESS = "const pressed = window.fusehub.press(element, trigger, watch);"


def esc(text: Any) -> str:
    return html.escape(str(text))


def button(act: str, label: str, id_: str = "", *, kind: str = "", says: str | None = None) -> str:
    """A button that the server hears of; `says` is what a screen reader reads where the label alone is too little."""
    spoken = f' aria-label="{esc(says)}"' if says else ""
    does = f'data-act="{act}" data-id="{esc(id_)}"{spoken}'
    return f'<button type="button" class="fh-button {kind}" {does}>{esc(label)}</button>'


def notice(text: str, kind: str = "note", fix: str = "", offered: str = "") -> str:
    """A message in the place that it is about, with the buttons `offered`. Errors are read out at once.

    An "answer" is one too that is not what was hoped for: nothing has failed where models are found not to fit.
    """
    role = "alert" if kind in ("error", "answer") else "status"
    mark = {"error": "Error: ", "warning": "Note: "}.get(kind, "")
    said = f'<strong class="fh-mark">{mark}</strong>' if mark else ""
    lines = "<br>".join(esc(line) for line in text.splitlines())
    todo = "".join(f'<p class="fh-fix">{esc(line.strip())}</p>' for line in fix.splitlines() if line.strip())
    return f'<div class="fh-notice fh-{kind}" role="{role}"><p>{said}{lines}</p>{todo}{offered}</div>'


def told(error: FuseHubError) -> FuseHubError:
    """`error` as a visitor may hear it: of a machine that strangers share, nobody is told where what lies."""
    if not is_confined():
        return error
    return error.retold(without_paths(error.what), without_paths(error.own_fix))


def problem(error: FuseHubError, log_in: str = LOG_IN) -> str:
    """An error in its place on the page; `log_in` says how the visitor logs in."""
    error = told(error)
    kind = "answer" if isinstance(error, Incompatible) else "error"
    return notice(error.what, kind, fix_of(error, log_in), offers(error.actions, loud=kind == "answer"))


def offers(actions: Iterable[Action], *, loud: bool = False) -> str:
    """A button for each action that the app has one for; the first is `loud` where it is what comes next."""
    offered = [action for action in dict.fromkeys(actions) if OFFERS[action.code].step is not None]
    shown = [
        button(
            action.code,
            OFFERS[action.code].label_for(action.models),
            "\n".join(action.models),
            kind="fh-loud" if loud and place == 0 else "fh-small",
        )
        for place, action in enumerate(offered)
    ]
    return f'<p class="fh-offers">{"".join(dict.fromkeys(shown))}</p>' if shown else ""


def empty(text: str) -> str:
    """What stands where nothing is yet: what to do."""
    return f'<p class="fh-empty">{esc(text)}</p>'


def tag(text: str, kind: str = "", meaning: str = "") -> str:
    """A word or two about something; `meaning` is told to whoever points at it or comes to it by the keyboard."""
    if not meaning:
        return f'<span class="fh-tag {kind}">{esc(text)}</span>'
    return (
        f'<span class="fh-tag fh-tip {kind}" tabindex="0" role="note" aria-label="{esc(text)}: {esc(meaning)}">'
        f'{esc(text)}</span><span class="fh-tip-text" aria-hidden="true">{esc(meaning)}</span>'
    )


def facts(pairs: Mapping[str, str | None]) -> str:
    """Facts in one flowing line: term and value."""
    shown = "".join(
        f"<div><dt>{esc(term)}</dt><dd>{esc(value)}</dd></div>" for term, value in pairs.items() if value is not None
    )
    return f'<dl class="fh-facts">{shown}</dl>'


def cards(items: Iterable[str], label: str) -> str:
    return f'<ul class="fh-cards" aria-label="{esc(label)}">{"".join(f"<li>{item}</li>" for item in items)}</ul>'


def card(title: str, body: str, *, link: str | None = None, action: str = "", kind: str = "") -> str:
    name = f'<a href="{esc(link)}" target="_blank" rel="noopener">{esc(title)}</a>' if link else esc(title)
    return f'<article class="fh-card {kind}"><header><h3>{name}</h3>{action}</header>{body}</article>'


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str,
    numbers: Sequence[int] = (),
    heads: Sequence[str] = (),
    kinds: Sequence[str] = (),
    kinds_of_columns: Sequence[str] = (),
) -> str:
    """A table whose cells are HTML already; those in columns `numbers` stand to the right.

    `heads` are further columns, whose names are HTML too. Rows and columns look like what they are of by `kinds` and
    `kinds_of_columns`, classes of the page's style.
    """

    def line(cells: Sequence[str], head: bool = False) -> str:
        return "".join(
            f'<th scope="col"{_classes(place, numbers, kinds_of_columns)}>{cell}</th>'
            if head
            else f'<th scope="row">{cell}</th>'
            if place == 0
            else f"<td{_classes(place, numbers, kinds_of_columns)}>{cell}</td>"
            for place, cell in enumerate(cells)
        )

    named = [*(esc(column) for column in columns), *heads]
    body = "".join(f"<tr{_class(kinds[at]) if kinds else ''}>{line(row)}</tr>" for at, row in enumerate(rows))
    return (
        f'<div class="fh-scroll" tabindex="0" role="region" aria-label="{esc(caption)}"><table class="fh-table">'
        f"<caption><span>{esc(caption)}</span></caption><thead><tr>{line(named, True)}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _classes(place: int, numbers: Sequence[int], kinds: Sequence[str]) -> str:
    return _class(" ".join(filter(None, ("fh-number" * (place in numbers), kinds[place] if kinds else ""))))


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def folded(label: str, body: str, *, kind: str = "") -> str:
    """What opens when its `label` is pressed; the body is HTML already."""
    return f'<details class="{f"fh-fold {kind}".strip()}"><summary>{esc(label)}</summary>{body}</details>'


def code(text: str, label: str) -> str:
    """Text to copy, with a button that does."""
    copy = button("copy", "Copy", kind="fh-small", says="Copy: " + label)
    return (
        f'<figure class="fh-code"><figcaption><span>{esc(label)}</span>{copy}</figcaption>'
        f'<pre tabindex="0" role="region" aria-label="{esc(label)}"><code>{esc(text)}</code></pre></figure>'
    )


def download(name: str, content: str, kind: str, label: str) -> str:
    """A link that saves `content` as a file. It is in the page itself: nothing of it lies on the server."""
    data = base64.b64encode(content.encode()).decode()
    return f'<a class="fh-button" download="{esc(name)}" href="data:{kind};base64,{data}">{esc(label)}</a>'


def files(paths: Mapping[str, str], label: str) -> str:
    """Uploaded files, id -> path, each with a button that takes it away; nothing where there are none."""
    rows = "".join(
        f"<li>{esc(Path(path).name)} <small>{size(Path(path).stat().st_size)}</small> "
        f"{button('drop', 'Remove', name, kind='fh-small', says='Remove ' + Path(path).name)}</li>"
        for name, path in paths.items()
    )
    return f'<ul class="fh-files" aria-label="{esc(label)}">{rows}</ul>' if rows else ""


def csv_of(rows: list[dict[str, Any]]) -> str:
    """Rows as a CSV file, with a header."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()


def progress(share: float | None, label: str) -> str:
    """A bar of the share of the whole that is done, in [0, 1]; without one it only says that something goes on."""
    known = "" if share is None else f' aria-valuenow="{100 * share:.0f}"'
    bar = f'role="progressbar" aria-valuemin="0" aria-valuemax="100"{known} aria-label="{esc(label)}"'
    if share is None:
        return f'<div class="fh-progress fh-moving" {bar}><span></span></div>'
    return f'<div class="fh-progress" {bar}><span style="width: {100 * share:.1f}%"></span></div>'


def seconds(value: float | None) -> str:
    """A time as people say it: 12 s, 3 min."""
    if value is None:
        return "?"
    if value < 10:
        return f"{value:.1f} s" if value < 1 else f"{value:.0f} s"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def roughly(seconds: float) -> str:
    """A time that is not known to the second, as one says what somebody will need."""
    if seconds < 15:
        return "a few seconds"
    if seconds < 55:
        return f"about {10 * round(seconds / 10)} seconds"
    return f"about {count(max(1, round(seconds / 60)), 'minute')}"


def number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def count(value: int, one: str, many: str | None = None) -> str:
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def amount(value: int, unit: str) -> str:
    """`value` with its unit; bytes as MB and GB."""
    return size(value) if unit == "bytes" else f"{value:,} {unit}"


def short(model: str) -> str:
    """A model's name without its owner and its commit."""
    return model.partition("@")[0].rstrip("/").rpartition("/")[2] or model

"""What models say about texts, as the page shows it: a table of all answers, and on demand each text with bars; of
entities and written texts each text as it is marked or written. To save too."""

from __future__ import annotations

import json
from collections import Counter
from textwrap import shorten
from typing import Any

from fusehub.comparing.tasks import answers_of
from fusehub.models.tasks import TASKS

from . import html, plots
from .kinds import kind_of, named

# Longer texts than this fold, in characters.
LONG = 200
_CELL = 80


def answers_html(found: dict[str, Any]) -> str:
    texts = [text for text in found["texts"] if text["differs"]] if found.get("only") else found["texts"]
    labels = list(
        dict.fromkeys(label for text in found["texts"] for a in text["answers"] for label in a["probabilities"])
    )
    kinds = {entity["label"] for text in found["texts"] for a in text["answers"] for entity in a["entities"]}
    colours = plots.colours_of(labels or sorted(kinds))
    differing = sum(text["differs"] for text in found["texts"])
    is_written, of_words = TASKS[found["task"]].writes, TASKS[found["task"]].of_words
    parts = [
        f'<p class="fh-summary fh-compared" data-texts="{len(found["texts"])}">'
        f"{html.count(len(found['texts']), _asked_about(found))}; the models disagree on {differing}.</p>"
    ]
    if texts and not is_written:
        parts.append(_entities_html(found, texts) if of_words else _overview_html(found, texts))
    each = "".join(_text_html(text, colours, found["experts"]) for text in texts)
    if is_written or of_words:
        parts += [plots.legend(colours) if kinds else "", each]
    elif texts:
        one = _asked_about(found)
        bars = (plots.legend(colours) if labels else "") + each
        parts.append(html.folded(f"Bars of all answers, {one} by {one}", bars))
    if not texts:
        parts.append(html.empty(f"They all agree on every {_asked_about(found)}."))
    parts.append(_downloads(found))
    return "".join(parts)


def _asked_about(found: dict[str, Any]) -> str:
    """What one thing is called that all models were asked about."""
    return answers_of(found["task"]).one


def _overview_html(found: dict[str, Any], texts: list[dict[str, Any]]) -> str:
    """All answers in one table, in which those that most models do not give stand out."""
    rows = []
    for text in texts:
        said = [_said(answer) for answer in text["answers"]]
        counts = Counter(said)
        times = max(counts.values())
        cells = []
        for label, answer in zip(said, text["answers"], strict=True):
            odd = counts[label] < times
            sure = html.percent(answer["probability"])
            shown = folding(label)
            told = f"<strong>≠ {shown}</strong>" if odd else shown
            cells.append(f"{told} <small>{sure}</small>" if sure else told)
        rows.append([_asked(text), *cells])
    return _table(found, rows, "Answer and its probability; ≠: not the one that is given most often")


def _asked(text: dict[str, Any]) -> str:
    """What was asked, at the beginning of a row: a text, or an image with its name."""
    shown = folding(text["text"], _CELL)
    if not (picture := text.get("picture")):
        return shown
    return f'<img class="fh-thumbnail" src="{html.esc(picture)}" alt="">{shown}'


def _entities_html(found: dict[str, Any], texts: list[dict[str, Any]]) -> str:
    """What most models mark, and by what each differs from that: + what it marks alone, − what it does not mark."""
    rows = []
    for text in texts:
        own = [{_key(entity): entity for entity in answer["entities"]} for answer in text["answers"]]
        common = _common(text)
        every = {key: entity for entities in own for key, entity in entities.items()}
        cells = [", ".join(_entity(every[key]) for key in sorted(common)) or "none"]
        for entities in own:
            more = [f"<strong>+ {_entity(entities[key])}</strong>" for key in sorted(set(entities) - common)]
            less = [f"<del>− {_entity(every[key])}</del>" for key in sorted(common - set(entities))]
            cells.append("<br>".join(more + less) or '<span class="fh-same">the same</span>')
        rows.append([folding(text["text"], _CELL), *cells])
    caption = "Entities that most models mark, and what each model marks beside them (+) or not (−)"
    return _table(found, rows, caption, "Most")


def _common(text: dict[str, Any]) -> set[tuple[int, int, str]]:
    """The entities that more than half of the models mark."""
    times = Counter(_key(entity) for answer in text["answers"] for entity in answer["entities"])
    return {key for key, count in times.items() if 2 * count > len(text["answers"])}


def _key(entity: dict[str, Any]) -> tuple[int, int, str]:
    return entity["start"], entity["end"], entity["label"]


def _entity(entity: dict[str, Any]) -> str:
    return html.esc(f"{entity['text']} ({entity['label']})")


def _table(found: dict[str, Any], rows: list[list[str]], caption: str, *before: str) -> str:
    """A table of texts by models, whose columns look like what the models are."""
    kinds = [kind_of(model, found["experts"]) for model in found["models"]]
    heads = [named(model, kind) for model, kind in zip(found["models"], kinds, strict=True)]
    columns = ["", *("" for _ in before), *(f"fh-{kind}" for kind in kinds)]
    first = _asked_about(found).capitalize()
    return html.table((first, *before), rows, caption=caption, heads=heads, kinds_of_columns=columns)


def _said(answer: dict[str, Any]) -> str:
    """An answer in one line."""
    if answer["label"] is None:
        return ", ".join(f"{entity['text']} ({entity['label']})" for entity in answer["entities"]) or "none"
    label = ", ".join(answer["label"]) if isinstance(answer["label"], list) else answer["label"]
    return f"{label:.3f}" if isinstance(label, float) else label or "none"


def folding(text: str, most: int = LONG) -> str:
    """A text as HTML; of one that is longer than `most` characters the beginning, which opens to the whole."""
    if len(text) <= most:
        return html.esc(text)
    return html.folded(_start(text, most), html.esc(text), kind="fh-long")


def _start(text: str, most: int) -> str:
    """The text, or its first words and a sign that there are more; of one long word its first letters."""
    if len(text) <= most:
        return text
    start = shorten(text, most, placeholder=" …")
    return start if len(start) > 2 else f"{text[:most]} …"


def _text_html(text: dict[str, Any], colours: dict[str, int], experts: list[str]) -> str:
    rows = []
    common = _common(text)
    for answer in text["answers"]:
        kind = kind_of(answer["model"], experts)
        row = f'<li class="fh-{kind}"><span>{named(answer["model"], kind)}</span>'
        if answer["label"] is None:
            odd = [entity for entity in answer["entities"] if _key(entity) not in common]
            told = plots.marked(text["text"], answer["entities"], colours, odd)
            rows.append(f'{row}<p class="fh-marked">{told}</p></li>')
            continue
        label = _said(answer)
        if isinstance(answer["label"], str) and answer["probability"] is None:
            rows.append(f'{row}<div class="fh-written">{folding(label)}</div></li>')
            continue
        sure = html.percent(answer["probability"])
        rows.append(
            f'{row}<span class="fh-label">{html.esc(label)} <small>{sure}</small></span>'
            f"{plots.probabilities(answer['probabilities'], colours)}</li>"
        )
    differs = html.tag("they disagree", "fh-warning") if text["differs"] else ""
    whole = text["text"]
    rest = html.folded("The whole text", f"<p>{html.esc(whole)}</p>") if len(whole) > LONG else ""
    return (
        f'<article class="fh-text"><h3>{html.esc(_start(whole, LONG))} {differs}</h3>{rest}'
        f'<ul class="fh-answers">{"".join(rows)}</ul></article>'
    )


def _downloads(found: dict[str, Any]) -> str:
    rows = [
        {
            "text": text["text"],
            "model": answer["model"],
            "label": answer["marked"] if answer["label"] is None else answer["label"],
            "probability": answer["probability"],
            "differs": text["differs"],
        }
        for text in found["texts"]
        for answer in text["answers"]
    ]
    # A picture is on the page, and no part of what was answered.
    told = found | {"texts": [{key: own for key, own in text.items() if key != "picture"} for text in found["texts"]]}
    return (
        '<p class="fh-downloads">'
        + html.download("comparison.csv", html.csv_of(rows), "text/csv", "Download as CSV")
        + html.download("comparison.json", json.dumps(told, indent=1), "application/json", "Download as JSON")
        + "</p>"
    )

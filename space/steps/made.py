"""What was merged in a visit: a card each, to be renamed, downloaded, and deleted with a way back.

Merges of other models than those that are picked now stay, apart from these. What is deleted can be brought back for
some minutes; its files count among the visit's until they go for good, then or when the visit ends.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusehub.errors import FuseHubError
from fusehub.methods import METHODS
from fusehub.utils.formats import size

from ..render import html
from ..render.reproduce import recipe_text
from ..visit import Made, Visit
from .options import changed_options

# A name that can be a folder's and a repo's.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


def pressed(visit: Visit, act: str, name: str, value: str) -> None:
    """What a button on the list does; `value` is what is written beside it."""
    if act == "delete":
        visit.delete(name)
    elif act == "undo":
        visit.restore(name)
    elif act == "purge":
        require_rest(visit)
        visit.purge(name)
    elif act == "rename":
        require_rest(visit)
        rename(visit, name, value.strip())


def require_rest(visit: Visit) -> None:
    """Raises `FuseHubError` while work or a download goes on, which may read what would be moved or go."""
    if visit.job is not None and visit.job.is_open:
        raise FuseHubError(f"{visit.job.title} is still going on.", "Wait for it, or cancel it.")
    if visit.users:
        raise FuseHubError("A merge of this visit is being downloaded.", "Wait until that has ended.")


def rename(visit: Visit, name: str, new: str) -> None:
    """Calls a merge, its folder and what is known of it `new`. Raises `FuseHubError` for a name that cannot be."""
    made = visit.merges.get(name)
    if made is None or new == name:
        return
    if not _NAME.fullmatch(new):
        raise FuseHubError(
            f"'{new[:60]}' cannot be the name of a merge.", "Use up to 60 letters, digits, dots and dashes."
        )
    if new in visit.merges or new in visit.deleted:
        raise FuseHubError(f"There is another merge called {new}.", "Choose another name.")
    before, after = made.folder, made.folder.with_name(new)
    before.rename(after)
    made.name, made.folder = new, after
    visit.merges = {own.name: own for own in visit.merges.values()}
    if name in visit.cards:
        visit.cards[new] = visit.cards.pop(name)
    if name in visit.layers:
        visit.layers[new] = visit.layers.pop(name)
    if visit.pushing == name:
        visit.pushing = new
    if visit.published and visit.published["made"] == name:
        visit.published["made"] = new
    visit.comparison = None
    if visit.evaluation is not None:
        visit.evaluation = _renamed(visit.evaluation, name, new, before, after) if not made.parts else None


def _renamed(scored: Mapping[str, Any], name: str, new: str, before: Path, after: Path) -> dict[str, Any]:
    """Scores of a merge that is called otherwise now, and lies elsewhere."""

    def called(model: str) -> str:
        return new if model == name else model

    scores = [
        score
        | {"model": called(score["model"])}
        | ({"model_id": str(after)} if score["model_id"] == str(before) else {})
        for score in scored["scores"]
    ]
    changed: dict[str, Any] = {"models": [called(model) for model in scored["models"]], "scores": scores}
    for key in ("mean", "mean_intervals"):
        changed[key] = {called(model): value for model, value in scored[key].items()}
    changed["differences"] = [
        own | {"model": called(own["model"]), "against": called(own["against"])} for own in scored["differences"]
    ]
    # What was said of it has its old name: see `space.render.scores`, which says it anew.
    return {**scored, **changed, "summary": []}


def same_as(visit: Visit, recipe: Mapping[str, Any]) -> Made | None:
    """The merge of the visit that was made by the same recipe, whatever it is called; None where there is none."""
    wanted = _told_apart_by(recipe)
    return next((made for made in visit.merges.values() if _told_apart_by(made.asked) == wanted), None)


def _told_apart_by(recipe: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in recipe.items() if key not in ("name", "out")}
    return own | {"parameters": changed_options(recipe["method"], recipe["parameters"])}


def made_html(visit: Visit, undo: float) -> str:
    """The merges of the picked models, those of others, and what can be brought back for `undo` seconds, if any."""
    these = visit.merges_of_picks()
    others = [made for made in visit.merges.values() if made.name not in these]
    parts = []
    if these:
        cards = html.cards([_card_html(made) for made in these.values()], "Merged models")
        parts.append(f"<h3>Merged in this visit</h3>{cards}")
    if others:
        cards = html.cards([_card_html(made) for made in others], "Merges of other models")
        said = html.count(len(others), "merge of other models", "merges of other models")
        parts.append(f"<details><summary>{said}</summary>{cards}</details>")
    return "".join([*parts, *(_deleted_html(name, undo) for name in visit.deleted)])


def _card_html(made: Made) -> str:
    asked = made.asked
    body = html.facts(
        {
            "Models": ", ".join(asked["models"]),
            "Method": METHODS[made.method].title,
            "Options": made.options,
            "Base": asked["base_model"],
            "Made": time.strftime("%H:%M UTC", time.gmtime(made.at)),
            "Took": html.seconds(made.seconds),
            "Heads": "one for each expert: " + ", ".join(made.parts) if made.parts else None,
        }
    )
    if made.notes:
        notes = "".join(f"<li>{html.esc(note)}</li>" for note in made.notes)
        body += f"<details><summary>{html.count(len(made.notes), 'note')}</summary><ul>{notes}</ul></details>"
    recipe = recipe_text(made.recipe, asked)
    body += f"<details><summary>Recipe</summary>{html.code(recipe, 'Recipe of ' + made.name)}</details>"
    body += _files_html(made) + _rename_html(made)
    delete = html.button("delete", "Delete", made.name, kind="fh-small", says=f"Delete {made.name}")
    return html.card(made.name, body, action=delete)


def _files_html(made: Made) -> str:
    """Links to all files in one, and to each."""
    rows = "".join(
        f'<li><a href="{html.esc(made.address)}/{html.esc(name)}" download>{html.esc(name)}</a> '
        f"<small>{size(nbytes)}</small></li>"
        for name, nbytes in made.files()
    )
    whole = (
        f'<a class="fh-button fh-small" href="{html.esc(made.address)}.zip" download '
        f'aria-label="Download {html.esc(made.name)} (zip)">Download (zip)</a>'
    )
    return f"<details><summary>Download</summary><p>{whole}</p><ul>{rows}</ul></details>"


def _rename_html(made: Made) -> str:
    name = html.esc(made.name)
    box = f'<input class="fh-input" type="text" value="{name}" maxlength="60" aria-label="New name of {name}">'
    press = html.button("rename", "Rename", made.name, kind="fh-small", says=f"Rename {made.name}")
    return f'<details><summary>Rename</summary><p class="fh-rename">{box} {press}</p></details>'


def _deleted_html(name: str, undo: float) -> str:
    back = html.button("undo", "Undo", name, kind="fh-small", says=f"Undo: bring {name} back")
    gone = html.button("purge", "Delete for good", name, kind="fh-small", says=f"Delete {name} for good")
    said = f"{html.esc(name)} was deleted. It can be brought back for {undo / 60:.0f} minutes."
    return f'<div class="fh-notice" role="status"><p>{said} {back} {gone}</p></div>'

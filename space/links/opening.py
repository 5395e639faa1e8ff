"""A recipe that is opened in the app: what it says is filled in, as by a link, and nothing is computed.

What the app has no field for (a dtype, options layer by layer) is told, and left to the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusehub.errors import BadRecipe, FuseHubError, together
from fusehub.merging.sources import is_place
from fusehub.methods import METHODS
from fusehub.utils.side_by_side import side_by_side

from ..frame import Frame
from ..render import html
from ..render.address import GO_ON
from ..render.nav import STEPS
from ..steps.options import options_of
from ..visit import CHECK, Picked, Visit
from .recipes import ReadRecipe, read_recipe
from .sharing import described

# What the sliders of shares go to.
_MOST_SHARE = 2.0


def open_recipe(frame: Frame, visit: Visit, token: str | None, said: str) -> str:
    """Takes the recipe that is `said`, or that is in the repo which is, into the visit; returns what there is to say.

    Raises a `FuseHubError`, and leaves the visit as it was, where the recipe or one of its models cannot be read.
    """
    if not said.strip():
        raise BadRecipe("There is no recipe.", "Paste its text, or write the repo that holds one.")
    read = read_recipe(said, frame.setting, token)
    if len(read.models) > frame.setting.most_models:
        raise BadRecipe(
            f"The recipe names {len(read.models)} models: {frame.setting.most_models} fit here.",
            "Merge by it on the command line.",
        )
    found = side_by_side(lambda model: described(model, token), read.models)
    if problems := [one for one in found if isinstance(one, FuseHubError)]:
        raise together(problems)
    picks = {model: pick for model, pick in zip(read.models, found, strict=True) if isinstance(pick, Picked)}
    names = {model: pick.name for model, pick in picks.items()}
    visit.picks = list(picks.values())
    visit.changed_models()
    visit.base, visit.base_is_said = read.base or "", bool(read.base)
    visit.heads = read.heads
    visit.labels = {names[model]: list(labels) for model, labels in read.labels.items()}
    visit.statistics |= {names[model]: _source(source) for model, source in read.statistics.items()}
    visit.linked = [read.method]
    visit.options = {read.method: {name: value for name, value in read.options.items() if _fits(read, name)}}
    shares = {names[model]: weight for model, weight in read.weights.items()}
    visit.shares = shares if all(0 <= share <= _MOST_SHARE for share in shares.values()) else {}
    return _said(read, shares if not visit.shares else {}, [name for name in read.options if not _fits(read, name)])


def _source(said: str) -> dict[str, Any]:
    return {"source": said, "free": True} | ({"place": said} if is_place(said) else {})


def _fits(read: ReadRecipe, option: str) -> bool:
    """Whether the app has a field for that option, which takes what the recipe says of it."""
    return option in options_of(METHODS[read.method]) and not isinstance(read.options[option], list | tuple | dict)


def _said(read: ReadRecipe, shares: Mapping[str, float], options: list[str]) -> str:
    lead = html.button(GO_ON, f"Go on to {STEPS[CHECK]}", str(CHECK), kind="fh-small")
    filled = f"{html.count(len(read.models), 'model')} and {METHODS[read.method].title}"
    told = html.notice(
        f"The recipe has filled in {filled}. Nothing was computed.", offered=f'<p class="fh-offers">{lead}</p>'
    )
    left = [*read.left_out, *(f"{name}: {read.options[name]}" for name in options)]
    # One that is 1 is as it is here.
    left += [f"weight of {name}: {share:g}" for name, share in shares.items() if share != 1]
    if left:
        told += html.notice(
            f"The recipe also says what cannot be said here: {'; '.join(left)}.", "warning",
            "A merge of this visit goes without it. The command line merges by the whole recipe.",
        )  # fmt: skip
    return told + "".join(html.notice(note) for note in read.notes)

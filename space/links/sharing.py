"""Links to the app: filling in what one says, and the button that copies one.

A link that is opened fills a new visit in and computes nothing: what it leads to is one press away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from fusehub.errors import FuseHubError, together
from fusehub.methods import METHODS
from fusehub.utils.side_by_side import side_by_side

from .. import dock
from ..events import shown, text_of
from ..frame import Frame
from ..render import html
from ..render.address import GO_ON
from ..render.nav import STEPS
from ..steps.options import changed_options
from ..steps.pick import describe
from ..visit import PICK, Picked, Visit
from .link import Link, link_of, read_link

# Where a page may not write to the clipboard, as on one that is not served by https, the link is shown to be copied.
_COPY = """(query) => {
  const url = location.origin + location.pathname + (query ? '?' + query : '');
  const show = () => { prompt('Copy this link', url); };
  navigator.clipboard ? navigator.clipboard.writeText(url).catch(show) : show();
}"""


def fill_in(frame: Frame, visit: Visit, token: str | None) -> None:
    """Takes what the link says that a visit was opened by into it, and tells so. The Hub is asked as ever."""
    query, visit.opened_by = visit.opened_by, ""
    if not query:
        return
    link = read_link(query, frame.setting)
    problems = list(link.problems)
    for found in side_by_side(lambda model: described(model, token), link.models):
        if isinstance(found, FuseHubError):
            problems.append(found)
        elif all(found.id != pick.id for pick in visit.picks):
            visit.picks.append(found)
    visit.changed_models()
    visit.base = link.base
    visit.options = {name: dict(options) for name, options in link.options.items()}
    visit.linked = list(link.options) or None
    if len(link.shares) == len(visit.picks):
        visit.shares = {pick.name: share for pick, share in zip(visit.picks, link.shares, strict=True)}
    visit.typed = list(link.texts)
    visit.notices[PICK] = dock.message(_said(frame, visit, link, problems))


def described(model: str, token: str | None) -> Picked | FuseHubError:
    """The model of a link or a recipe, under its plain name where that is still the commit that it names."""
    try:
        name, _, commit = model.partition("@")
        if commit and "+" not in model:
            newest = describe(name, token)
            if newest.id == model:
                return newest
        return describe(model, token)
    except FuseHubError as error:
        return error


def _said(frame: Frame, visit: Visit, link: Link, problems: Sequence[FuseHubError]) -> str:
    """What was filled in, what could not be, and the button that leads on."""
    parts = [html.count(len(visit.picks), "model")] if visit.picks else []
    parts += [METHODS[name].title for name in link.options]
    parts += [html.count(len(link.texts), "text")] if link.texts else []
    said = ""
    if parts:
        goes = link.step != PICK
        lead = html.button(GO_ON, f"Go on to {STEPS[link.step]}", str(link.step), kind="fh-small") if goes else ""
        said = html.notice(
            f"A link has filled in {', '.join(parts)}. Nothing was computed.", "note", offered=_offered(lead)
        )
    return said + (frame.problem(together(problems)) if problems else "")


def _offered(button: str) -> str:
    return f'<p class="fh-offers">{button}</p>' if button else ""


class Sharing:
    """The button that copies a link to what the visit has, and what is typed and not used yet."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        with gr.Row(elem_classes="fh-share"):
            self.press = gr.Button("Copy link", size="sm", elem_id="copy-link")
            self.query = gr.Textbox(visible="hidden", elem_id="link")

    def wire(self, merge: Any, compare: Any) -> None:
        """`merge` and `compare` are the steps whose inputs go into a link."""
        self.merge, self.texts = merge, compare.texts
        self.inputs = [*merge.options.values(), *merge.shares, compare.texts]

        def copied(request: gr.Request, key: str, *values: Any) -> list[str]:
            visit = self.frame.visit_of(request, key)
            self._take(visit, values)
            link = link_of(visit)
            message = dock.message(html.notice(_told(visit, link), "done"))
            visit.notices[visit.step] = message
            return [message, link.query()]

        self.press.click(
            shown(copied), [self.frame.key, *self.inputs], [self.frame.message, self.query], **self.frame.hidden
        ).then(None, [self.query], None, js=_COPY)  # fmt: skip

    def filled(self, visit: Visit) -> list[Any]:
        """What the inputs show of a visit that a link has filled in, or that a reloaded page shows again."""
        options = [
            str(visit.options[method][name])
            if isinstance(box, gr.Radio) and name in visit.options.get(method, {})
            else visit.options.get(method, {}).get(name, gr.skip())
            for (method, name), box in self.merge.options.items()
        ]
        shares = [
            visit.shares.get(visit.picks[place].name, gr.skip()) if place < len(visit.picks) else gr.skip()
            for place in range(len(self.merge.shares))
        ]
        return [*options, *shares, "\n".join(visit.typed) if visit.typed else gr.skip()]

    def _take(self, visit: Visit, values: Sequence[Any]) -> None:
        """What stands in the inputs, into the visit; a part of the page that was never shown gives nothing."""
        count = len(self.merge.options)
        for name in visit.chosen or visit.options:
            own = {
                option: value
                for (method, option), value in zip(self.merge.options, values[:count], strict=True)
                if method == name and value not in (None, "")
            }
            if own:
                visit.options[name] = changed_options(name, own)
        shares = values[count : count + len(visit.picks)]
        if None not in shares:
            visit.shares = {pick.name: float(share) for pick, share in zip(visit.picks, shares, strict=True)}
        if lines := [line.strip() for line in text_of(values[-1]).splitlines() if line.strip()]:
            visit.typed = lines


def _told(visit: Visit, link: Link) -> str:
    """What is in a link that was copied, and what is not."""
    parts = [html.count(len(link.models), "model") + " at their commits"] if link.models else []
    parts += [METHODS[name].title for name in link.options]
    parts += [html.count(len(link.shown_texts), "text")] if link.shown_texts else []
    said = (
        f"A link to this step was copied{', with ' if parts else ''}{', '.join(parts)}. No token and no file is in it."
    )
    if local := [pick.name for pick in visit.picks if pick.url is None]:
        said += f" Not on the Hub, and so not in it: {', '.join(local)}."
    if any("data" in known for known in visit.statistics.values()):
        said += " Statistics that you made here are not in it."
    if len(link.shown_texts) < len(link.texts):
        said += f" Of {len(link.texts)} texts the first {len(link.shown_texts)} fit into it."
    return said

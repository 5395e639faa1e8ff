"""In step 6, after a push that everybody can see: telling the owners of the models, one by one.

The words are shown first and can be changed. Nothing is sent without a press for that one owner.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from fusehub.errors import FuseHubError
from fusehub.methods import METHODS
from fusehub.publishing.telling import Letter, letter_to, tell_owner

from ..render.published import expert_repos
from ..visit import Visit


class Telling:
    """Whose model, a title and words; and the press that opens one discussion."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="telling") as self.form:
            gr.HTML(
                "<h3>Tell the owners</h3><p class='fh-intro'>A discussion is opened at the model's repo, as you, with "
                "the words below. Each owner is told by a press of its own.</p>"
            )
            self.whom = gr.Dropdown([], label="The owner of", elem_id="tell-whom")
            self.title = gr.Textbox(label="Title", max_lines=1, elem_id="tell-title")
            self.words = gr.Textbox(label="Words", lines=5, max_lines=12, elem_id="tell-words")
            with gr.Row(elem_classes="fh-actions"):
                self.press = gr.Button("Open the discussion", elem_id="tell")
        self.painted = [self.form, self.whom, self.title, self.words]
        self.inputs = [self.whom, self.title, self.words]

    def show(self, visit: Visit) -> list[Any]:
        letters, published = letters_of(visit), visit.published
        left = [repo for repo in letters if repo not in visit.told]
        if not left or published is None:
            return [gr.Column(visible=False), *[gr.skip()] * 3]
        before, chosen = visit.telling, visit.telling[1]
        whom = chosen if chosen in left else left[0]
        visit.telling = now = (visit.page, whom, published["url"])
        # What is typed at this moment is not painted over.
        fresh = before != now
        return [
            gr.Column(visible=True),
            gr.Dropdown(left, value=whom),
            letters[whom].title if fresh else gr.skip(),
            letters[whom].text if fresh else gr.skip(),
        ]


def letters_of(visit: Visit) -> dict[str, Letter]:
    """Repo -> the words for its owner, of the models in the merge that was pushed where everybody can see it; none of
    one's own."""
    published = visit.published
    if not published or published["private"] or published["pull_request_url"]:
        return {}
    own = published["repo_id"].partition("/")[0]
    everyone = expert_repos(published["asked"])
    title = METHODS[published["asked"]["method"]].title
    repos = [repo for repo in everyone if repo.partition("/")[0] != own]
    return {repo: letter_to(repo, everyone, title, published["url"]) for repo in repos}


def tell(visit: Visit, token: str | None, whom: str | None, title: str, words: str) -> None:
    """Opens the discussion that was asked for."""
    if whom not in letters_of(visit):
        raise FuseHubError("No owner was chosen.", "Choose one whose model is in the merge.")
    if whom in visit.told:
        raise FuseHubError(f"The owner of {whom} was told already: {visit.told[whom]}", "Choose another one.")
    visit.told[whom] = tell_owner(whom, title, words, token=token)

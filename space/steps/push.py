"""Step 6: a merged model goes to the Hub, with a card that follows what is typed and that the visitor can change."""

from __future__ import annotations

from typing import Any

import gradio as gr

from fusehub.errors import AccessDenied, FuseHubError
from fusehub.hub.repos import pushes_as
from fusehub.publishing.naming import suggested_name
from fusehub.utils.untrusted.yaml_text import split_front_matter

from ..events import any_of, typed
from ..render import html
from ..render.published import is_pushed, published_html
from ..signing import sign_in_button
from ..step import Step, folded, not_yet
from ..visit import MERGE, PICK, PUSH, Made, Visit
from .card import Draft
from .telling import Telling, tell

PRIVATE, PUBLIC = "Private: only I can see it", "Public: everybody can"
NEW, PROPOSE = "A new repo", "A pull request to a repo that is there"
# Pixels of the preview, beyond which it scrolls.
_PREVIEW = 420


class Push(Step):
    """Which merge, where to, as whom; the card and its preview; and what came of it."""

    title = "Push to the Hub"
    intro = "The model is loaded and asked before anything is uploaded, and compared with what was sent afterwards."

    def layout(self) -> None:
        self.nothing = gr.HTML("", js_on_load=html.PRESS)
        self.offering = [self.nothing]
        self.who = gr.HTML("", elem_id="push-who")
        if self.frame.setting.signs_in:
            sign_in_button()  # Before anything is merged, too: private models are picked by whoever may read them.
        with gr.Column(visible=False) as self.form:
            self._fields()
        self.done = gr.HTML("", js_on_load=html.PRESS)
        self.telling = Telling()
        with folded("Model card", elem_id="card", visible=False) as self.card_part, gr.Tabs():
            with gr.Tab("Preview"):
                self.preview = gr.Markdown("", elem_id="preview", sanitize_html=True, max_height=_PREVIEW)
            with gr.Tab("Edit"):
                self.card = gr.Textbox(
                    label="Card (Markdown)", lines=16, max_lines=16, elem_id="push-card",
                    info="What you change stays as you wrote it. All else follows the name and the license above.",
                )  # fmt: skip
        self.painted = [
            self.which, self.nothing, self.form, self.card_part, self.who, self.repo, self.license, self.why,
            self.card, self.preview, self.done, self.pasted, *self.telling.painted,
        ]  # fmt: skip
        self.result_by_work = {"push": self.done, "recipe": self.done}
        self.own = [self.go]

    def _fields(self) -> None:
        self.which = gr.Dropdown([], label="Merged model", elem_id="push-which")
        self.pasted = gr.Textbox(
            label="Token", type="password", visible=not self.frame.setting.signs_in, elem_id="push-token",
            info="Needs the right to write. It is asked whose it is, used for this one push, and kept nowhere.",
        )  # fmt: skip
        with gr.Row():
            self.repo = gr.Textbox(
                label="Name on the Hub", max_lines=1, placeholder="you/merged-model", elem_id="push-repo", scale=2
            )
            self.kind = gr.Radio([NEW, PROPOSE], value=NEW, label="As", elem_id="push-kind")
        with gr.Row():
            self.seen = gr.Radio([PRIVATE, PUBLIC], value=PRIVATE, label="Who can see it", elem_id="push-seen")
            self.license = gr.Textbox(label="License", max_lines=1, elem_id="push-license")
        self.demo = gr.Checkbox(
            label="With a demonstration", elem_id="push-demo",
            info="A Space beside the model, called as it is and -demo, shows what it answers. It is private where the "
            "model is.",
        )  # fmt: skip
        self.why = gr.HTML("")
        with gr.Row(elem_classes="fh-actions"):
            self.go = gr.Button("Push", variant="primary", elem_id="push")
            self.recipe = gr.Button("Publish the recipe only", elem_id="push-recipe")
        gr.HTML(
            "<p class='fh-intro'>The recipe alone goes to a repo of its own, called as above and -recipe: how the "
            "merge is made, and no weights. Whoever may see it makes the same model with one command.</p>"
        )

    def wire(self) -> None:
        frame = self.frame
        frame.on(self.which.input, self, self._choose, [self.which])
        told = [frame.key, self.repo, self.license, self.seen, self.card]
        any_of([typed(self.repo), typed(self.license), self.seen.change])(
            self._follow, told, [self.card, self.preview, self.why], trigger_mode="always_last", **frame.hidden
        )
        typed(self.card)(self._edit, [frame.key, self.card], self.preview, trigger_mode="always_last", **frame.hidden)
        self.pasted.blur(self._ask_whose, [frame.key, self.pasted], self.who, **frame.hidden)
        frame.on(
            self.go.click,
            self,
            self._push,
            [self.which, self.pasted, self.repo, self.kind, self.seen, self.license, self.card, self.demo],
        )

        frame.on(self.recipe.click, self, self._publish_recipe, [self.which, self.pasted, self.repo, self.seen])
        frame.on(self.telling.whom.input, self, self._choose_owner, [self.telling.whom])
        frame.on(self.telling.press.click, self, self._tell, [self.pasted, *self.telling.inputs])

    def show(self, visit: Visit, token: str | None) -> list[Any]:
        names = list(visit.merges)
        if not names:
            step = MERGE if len(visit.picks) > 1 else PICK
            nothing = not_yet("Nothing is merged yet. Merge first; then push the result here.", step)
            away = [gr.Column(visible=False), gr.Accordion(visible=False)]
            return [
                gr.skip(), nothing, *away, *[gr.skip()] * 6, published_html(visit), gr.skip(),
                *self.telling.show(visit),
            ]  # fmt: skip
        emptied, who = self._emptied(visit), self._who(visit, token)
        if visit.pushing not in visit.merges:
            visit.pushing = names[0]
        draft = self._draft(visit)
        # What is typed at this moment is not painted over.
        before, now = visit.painted_card, (visit.page, visit.pushing, draft.named, draft.version)
        renamed, fresh = before[:3] != now[:3], before != now
        visit.painted_card = now
        return [
            gr.Dropdown([(_called(visit.merges[name]), name) for name in names], value=visit.pushing),
            "",
            gr.Column(visible=True),
            gr.Accordion(visible=True),
            who,
            draft.repo if renamed else gr.skip(),
            draft.license if renamed else gr.skip(),
            why_html(draft),
            draft.text if fresh else gr.skip(),
            without_front_matter(draft.text),
            published_html(visit),
            emptied,
            *self.telling.show(visit),
        ]

    def is_done(self, visit: Visit) -> bool:
        return is_pushed(visit)

    def _emptied(self, visit: Visit) -> Any:
        if not visit.token_given:
            return gr.skip()
        visit.token_given, visit.pushes_as = False, None
        return gr.Textbox(value="")

    def _choose(self, visit: Visit, token: str | None, data: Any, name: str) -> None:
        visit.pushing = name

    def _draft(self, visit: Visit) -> Draft:
        """The draft of the merge that is shown, with the scores that there are now."""
        made = visit.merges[visit.pushing]
        draft: Draft | None = visit.cards.get(made.name)
        if draft is None:
            owner = f"{visit.pushes_as[1]}/" if visit.pushes_as else ""
            draft = Draft(owner + suggested_name(made.asked["models"], made.method))
            draft.facts, draft.evaluation = self._written(visit, made, draft.repo, None), visit.evaluation
            draft.license = draft.facts["license"] or ""
            draft.write(draft.facts["text"])
            visit.cards[made.name] = draft
        elif draft.evaluation is not visit.evaluation:
            self._rewrite(visit, draft)
        return draft

    def _rewrite(self, visit: Visit, draft: Draft) -> None:
        """Has the card follow what is typed and scored by now."""
        made, repo = visit.merges[visit.pushing], _whole(draft.repo, visit)
        draft.facts, draft.evaluation = self._written(visit, made, repo, draft.license), visit.evaluation
        draft.write(draft.facts["text"])

    def _written(self, visit: Visit, made: Made, repo: str, license: str | None) -> dict[str, Any]:
        """What the package writes for a merge of that name and license; None for the license that follows."""
        # Scores are of the models that are picked, and of the merges of them that there were at the time.
        scored = visit.evaluation if made.name in visit.merges_of_picks() else None
        if scored and (made.parts or all(score["model_id"] != str(made.folder) for score in scored["scores"])):
            scored = None
        asked = {"folder": str(made.folder), "repo_id": repo or None, "evaluation": scored, "license": license}
        told: dict[str, Any] = self.frame.worker.ask("card", asked)
        return told

    def _follow(self, key: str, repo: str | None, license: str | None, seen: str, text: str | None) -> list[Any]:
        """Card, preview and words on licenses after something was typed."""
        visit = self.frame.visits.find(key)
        draft: Draft | None = visit.cards.get(visit.pushing) if visit is not None else None
        # The page fills its boxes one after the other, and tells of the first where there is nothing in the next yet.
        if visit is None or draft is None or repo is None or license is None:
            return [gr.skip()] * 3
        repo, license = repo.strip(), license.strip()
        changed = (draft.repo, draft.license) != (repo, license)
        draft.repo, draft.license, draft.public = repo, license, seen == PUBLIC
        draft.take(text)
        try:
            if changed:
                self._rewrite(visit, draft)
        except FuseHubError as error:
            return [gr.skip(), gr.skip(), html.problem(error)]
        # The page has it by this answer: what is typed into it meanwhile is not painted over.
        visit.painted_card = (*visit.painted_card[:3], draft.version)
        return [draft.text if changed else gr.skip(), without_front_matter(draft.text), why_html(draft)]

    def _edit(self, key: str, text: str | None) -> str:
        """The preview of what the visitor wrote."""
        visit = self.frame.visits.find(key)
        draft: Draft | None = visit.cards.get(visit.pushing) if visit is not None else None
        if draft is None:
            return without_front_matter(text or "")
        draft.take(text)
        return without_front_matter(draft.text)

    def _ask_whose(self, key: str, pasted: str | None) -> Any:
        visit = self.frame.visits.find(key)
        own = (pasted or "").strip()
        return self._who(visit, own) if visit is not None and own else gr.skip()

    def _who(self, visit: Visit, token: str | None) -> str:
        """As whom the visitor pushes, as HTML; asks the Hub once a token."""
        setting = self.frame.setting
        if token is None and setting.signs_in:
            visit.pushes_as = None
            return "<p class='fh-intro'>Sign in with Hugging Face to push as yourself.</p>"
        try:
            if token is not None or (not setting.shared and _stored()):
                self._account(visit, token)
        except FuseHubError as error:
            return html.notice(html.told(error).what, "warning")
        if visit.pushes_as is None:
            return "<p class='fh-intro'>Nobody is logged in here: paste a token of yours.</p>"
        return f"<p class='fh-intro'>You push as <strong>{html.esc(visit.pushes_as[1])}</strong>.</p>"

    def _account(self, visit: Visit, token: str | None) -> str:
        """Whose token it is. Raises `AccessDenied` where it may not push."""
        known = hash(token)
        if visit.pushes_as is None or visit.pushes_as[0] != known:
            visit.pushes_as = None
            visit.pushes_as = (known, pushes_as(token))
        return visit.pushes_as[1]

    def _push(
        self, visit: Visit, token: str | None, data: Any, which: str, pasted: str, repo: str, kind: str, seen: str,
        license: str, card: str, demo: bool,
    ) -> None:  # fmt: skip
        made, own = self._as_asked(visit, token, which, pasted, repo)
        visit.pushing = made.name
        draft = self._draft(visit)
        draft.repo, draft.license, draft.public = _whole(repo.strip(), visit), license.strip(), seen == PUBLIC
        draft.take(card)
        self._rewrite(visit, draft)
        # The whole name is shown, and what is pushed.
        draft.named += 1
        start_push(
            self.frame, visit, made, draft.repo, draft.text,
            public=seen == PUBLIC, pull_request=kind == PROPOSE, demo=demo, token=own,
        )  # fmt: skip

    def _publish_recipe(
        self, visit: Visit, token: str | None, data: Any, which: str, pasted: str, repo: str, seen: str
    ) -> None:
        made, own = self._as_asked(visit, token, which, pasted, repo)
        visit.pushing = made.name
        name = f"{_whole(repo.strip(), visit)}-recipe"

        def keep(visit: Visit, published: dict[str, Any]) -> None:
            visit.published_recipe = published

        asked = {"folder": str(made.folder), "repo_id": name, "public": seen == PUBLIC}
        self.frame.start(visit, "recipe", f"Publishing the recipe of {made.name}", asked, own, keep)

    def _choose_owner(self, visit: Visit, token: str | None, data: Any, whom: str | None) -> None:
        visit.telling = (None, whom or "", "")

    def _tell(
        self, visit: Visit, token: str | None, data: Any, pasted: str, whom: str | None, title: str, words: str
    ) -> None:
        visit.token_given, own = True, pasted.strip() or token
        if own is None and self.frame.setting.shared:
            raise AccessDenied("Nobody is signed in.", "Sign in with Hugging Face above, then tell them.")
        tell(visit, own, whom, title, words)

    def _as_asked(
        self, visit: Visit, token: str | None, which: str, pasted: str, repo: str
    ) -> tuple[Made, str | None]:
        """The merge, and the token that it is pushed with. Raises where one of them is missing, or a name."""
        visit.token_given = True
        made = visit.merges.get(which or "")
        if made is None:
            raise FuseHubError("No merged model was chosen.", "Merge in step 4, then choose it here.")
        if not repo.strip():
            raise FuseHubError("The model has no name yet.", "Write you/name, or a name for a repo of your own.")
        own = pasted.strip() or token
        if own is None and self.frame.setting.shared:
            raise AccessDenied("Nobody is signed in.", "Sign in with Hugging Face above, then push.")
        self._account(visit, own)
        return made, own


def start_push(
    frame: Any,
    visit: Visit,
    made: Made,
    repo: str,
    card: str,
    *,
    public: bool,
    pull_request: bool,
    demo: bool,
    token: str | None,
) -> None:
    """Puts the push of a merge with that card into the queue, and of a demonstration of it if there is to be one."""
    arguments = {
        "folder": str(made.folder), "repo_id": repo, "card": card, "public": public, "pull_request": pull_request,
        "demo": demo,
    }  # fmt: skip

    def keep(visit: Visit, published: dict[str, Any]) -> None:
        kept = {"made": made.name, "asked": made.asked, "recipe": made.recipe}
        visit.published, visit.told = published | kept, {}
        if published["failed"] is not None:
            visit.notices[PUSH] = frame.problem(published["failed"])

    frame.start(visit, "push", f"Pushing {made.name}", arguments, token, keep)


def _whole(repo: str, visit: Visit) -> str:
    """`repo` with its owner, where that is known."""
    return repo if not repo or "/" in repo or visit.pushes_as is None else f"{visit.pushes_as[1]}/{repo}"


def _stored() -> bool:
    """Whether somebody is logged in on this machine."""
    from huggingface_hub import get_token

    return get_token() is not None


def without_front_matter(text: str) -> str:
    """A card as a reader sees it."""
    return split_front_matter(text or "")[1]


def _called(made: Made) -> str:
    return f"{made.name} ({made.options})"


def why_html(draft: Draft) -> str:
    """What follows from the licenses of what went in, and what speaks against what was chosen."""
    facts = draft.facts
    if facts["forbidden"]:
        return html.notice(f"This merge may not be published: {facts['why']}.", "warning")
    parts = [html.notice(f"This merge may not be shared: {conflict}.", "warning") for conflict in facts["conflicts"]]
    if facts["license"]:
        parts.append(html.notice(f"{facts['license']}: {facts['why']}. This is no legal advice."))
    elif not facts["conflicts"]:
        parts.append(html.notice("No model says what its license is: ask their owners before you publish.", "warning"))
    if facts["loosened"]:
        parts.append(
            html.notice(f"What is typed asks for less than {facts['license']}, and will be refused.", "warning")
        )
    parts += [html.notice(warning, "warning") for warning in facts["warnings"]]
    if facts["restricted"]:
        names = ", ".join(facts["restricted"])
        said = "gated or private, so the result has to stay private."
        parts.append(html.notice(f"{names}: {said}", "error" if draft.public else "warning"))
    return "".join(parts)

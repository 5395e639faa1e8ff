"""Step 6: a merged model goes to the Hub, with a card that the visitor can change; then how to do the same again."""

from __future__ import annotations

from typing import Any

import gradio as gr

from fusehub.errors import AccessDenied, FuseHubError
from fusehub.utils.yaml_text import split_front_matter

from ..frame import Step, typed
from ..render import html, reproduce
from ..visits import Made, Visit

PRIVATE, PUBLIC = "Private: only I can see it", "Public: everybody can"
NEW, PROPOSE = "A new repo", "A pull request to a repo that is there"


class Push(Step):
    """Which merge, where to, as whom; the card and its preview; and what came of it."""

    title = "Push to the Hub"
    intro = "The model is loaded and asked before anything is uploaded, and compared with what was sent afterwards."

    def layout(self) -> None:
        self.which = gr.Dropdown([], label="Merged model", elem_id="push-which")
        self.who = gr.HTML("")
        if self.frame.setting.signs_in:
            gr.LoginButton()
        self.pasted = gr.Textbox(
            label="Token", type="password", visible=not self.frame.setting.signs_in, elem_id="push-token",
            info="Needs the right to write. It is used for this one push and kept nowhere. Empty: the token that is "
            "stored on this machine.",
        )  # fmt: skip
        with gr.Row():
            self.repo = gr.Textbox(
                label="Name on the Hub", max_lines=1, placeholder="you/merged-model", elem_id="push-repo", scale=2
            )
            self.kind = gr.Radio([NEW, PROPOSE], value=NEW, label="As", elem_id="push-kind")
        self.seen = gr.Radio([PRIVATE, PUBLIC], value=PRIVATE, label="Who can see it", elem_id="push-seen")
        self.license = gr.Textbox(label="Licence", max_lines=1, elem_id="push-license")
        self.why = gr.HTML("")
        with gr.Accordion("Model card", open=False, elem_id="card"), gr.Row():
            self.card = gr.Textbox(label="Card (Markdown)", lines=18, max_lines=30, elem_id="push-card")
            with gr.Column():
                gr.HTML("<p class='fh-label-like'>Preview</p>")
                self.preview = gr.Markdown("", elem_id="preview", sanitize_html=True)
        with gr.Row(elem_classes="fh-actions"):
            self.go = gr.Button("Push", variant="primary", elem_id="push")
        self.done = gr.HTML("", js_on_load=html.PRESS)
        self.painted = [self.which, self.who, self.license, self.why, self.card, self.preview, self.done, self.pasted]
        self.result_by_work = {"push": self.done}

    def wire(self) -> None:
        frame = self.frame
        frame.on(self.which.input, self, self._choose, [self.which])
        self.card.change(
            lambda text: without_front_matter(text),
            self.card, self.preview, show_progress="hidden", api_visibility="private", trigger_mode="always_last",
        )  # fmt: skip
        typed(self.license)(
            with_license, [self.card, self.license], self.card, show_progress="hidden", api_visibility="private",
            trigger_mode="always_last",
        )  # fmt: skip
        frame.on(
            self.go.click,
            self,
            self._push,
            [self.which, self.pasted, self.repo, self.kind, self.seen, self.card],
        )

    def show(self, visit: Visit, token: str | None) -> list:
        names = list(visit.merges)
        if not names:
            nothing = html.empty("Nothing is merged yet. Merge in step 4; then push the result here.")
            return [gr.Dropdown([], value=None), nothing, *[gr.skip()] * 4, _done_html(visit), gr.skip()]
        if visit.card_of not in visit.merges:
            self._make_card(visit, names[0])
        facts, made = visit.card, visit.merges[visit.card_of]
        fresh = facts.get("painted") != (made.name, bool(visit.evaluation))
        card = gr.skip() if not fresh else facts["text"]
        preview = gr.skip() if not fresh else without_front_matter(facts["text"])
        license = gr.skip() if not fresh else facts["license"] or ""
        facts["painted"] = (made.name, bool(visit.evaluation))
        return [
            gr.Dropdown([(_called(visit.merges[name]), name) for name in names], value=made.name),
            _who_html(self.frame.setting),
            license,
            _why_html(facts),
            card,
            preview,
            _done_html(visit),
            self._emptied(visit),
        ]

    def _emptied(self, visit: Visit) -> Any:
        if not visit.token_given:
            return gr.skip()
        visit.token_given = False
        return gr.Textbox(value="")

    def _choose(self, visit: Visit, token: str | None, data: Any, name: str) -> None:
        self._make_card(visit, name)

    def _make_card(self, visit: Visit, name: str) -> None:
        made = visit.merges[name]
        scored = visit.evaluation
        visit.card = self.frame.worker.ask(
            "card", {"folder": str(made.folder), "repo_id": None, "evaluation": scored if not made.parts else None}
        )
        visit.card_of = name

    def _push(
        self, visit: Visit, token: str | None, data: Any, which: str, pasted: str, repo: str, kind: str, seen: str,
        card: str,
    ) -> None:  # fmt: skip
        visit.token_given = True
        made = visit.merges.get(which or "")
        if made is None:
            raise FuseHubError("No merged model was chosen.", "Merge in step 4, then choose it here.")
        if not repo.strip():
            raise FuseHubError("The model has no name yet.", "Write you/name, or a name for a repo of your own.")
        own = pasted.strip() or token
        if own is None and self.frame.setting.shared:
            raise AccessDenied("Nobody is signed in.", "Sign in with Hugging Face above, then push.")
        arguments = {
            "folder": str(made.folder),
            "repo_id": repo.strip(),
            "card": card,
            "public": seen == PUBLIC,
            "pull_request": kind == PROPOSE,
        }

        def keep(visit: Visit, published: dict[str, Any]) -> None:
            visit.published = published | {"made": made.name}

        self.frame.start(visit, "push", f"Pushing {made.name}", arguments, own, keep)


def without_front_matter(text: str) -> str:
    """A card as a reader sees it."""
    return split_front_matter(text or "")[1]


def with_license(card: str, license: str) -> str:
    """The card with another licence in its front matter."""
    front, body = split_front_matter(card or "")
    if front is None:
        return card
    kept = [line for line in front.splitlines() if not line.startswith("license:")]
    said = [f"license: {license.strip()}"] if license.strip() else []
    return "---\n" + "\n".join([*said, *kept]) + "\n---\n" + body


def _called(made: Made) -> str:
    return f"{made.name} ({made.options})"


def _who_html(setting: Any) -> str:
    if setting.signs_in:
        return "<p class='fh-intro'>You push as yourself: sign in with Hugging Face.</p>"
    from huggingface_hub import get_token

    stored = get_token() if not setting.shared else None
    if stored:
        return "<p class='fh-intro'>A token is stored on this machine, and is used unless you paste another.</p>"
    return "<p class='fh-intro'>No token is stored on this machine: paste one.</p>"


def _why_html(facts: dict[str, Any]) -> str:
    if facts["forbidden"]:
        return html.notice(f"This merge may not be published: {facts['why']}.", "warning")
    parts = [html.notice(f"This merge may not be shared: {conflict}.", "warning") for conflict in facts["conflicts"]]
    if facts["license"]:
        parts.append(html.notice(f"{facts['license']}: {facts['why']}. This is no legal advice."))
    elif not facts["conflicts"]:
        parts.append(html.notice("No model says what its licence is: ask their owners before you publish.", "warning"))
    parts += [html.notice(warning, "warning") for warning in facts["warnings"]]
    if facts["restricted"]:
        names = ", ".join(facts["restricted"])
        parts.append(html.notice(f"{names}: gated or private, so the result has to stay private.", "warning"))
    return "".join(parts)


def _done_html(visit: Visit) -> str:
    published = visit.published
    made = visit.merges.get(published["made"]) if published else None
    if not published or made is None:
        return ""
    link = published["pull_request_url"] or published["url"]
    repo = published["repo_id"]
    kind = "The pull request is open" if published["pull_request_url"] else "The model is on the Hub"
    seen = "private" if published["private"] else "public"
    how = {"public": not published["private"], "pull_request": bool(published["pull_request_url"])}
    commands = f"{reproduce.command_lines(made.asked)}\n{reproduce.publish_command(repo, **how)}"
    python = reproduce.python_lines(made.asked, repo, **how)
    recipe = f"# fusehub merge fusehub_recipe.yaml --out merged\n{made.recipe}"
    return (
        f'<section class="fh-result" role="status"><h3>{kind}</h3><p><a href="{html.esc(link)}" target="_blank" '
        f'rel="noopener">{html.esc(link)}</a> ({seen}, commit {html.esc(published["commit"][:8])})</p>'
        f"<h3>The same again</h3>{html.code(commands, 'On the command line')}"
        f"{html.code(python, 'In Python')}{html.code(recipe, 'The recipe, fusehub_recipe.yaml')}</section>"
    )

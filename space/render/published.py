"""What came of a push: the page on the Hub, what can be done next, and how to do the same elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..visits import Visit
from . import html, reproduce


def published_html(visit: Visit) -> str:
    """Where it is, who can see it, and how to make the same again; nothing before anything was pushed."""
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
    recipe = html.code(f"# fusehub merge fusehub_recipe.yaml --out merged\n{made.recipe}", "fusehub_recipe.yaml")
    steps = "".join(f"<li>{step}</li>" for step in _next_steps(published, made.asked))
    return (
        f'<section class="fh-result" role="status"><h3>{kind}</h3><p><a href="{html.esc(link)}" target="_blank" '
        f'rel="noopener">{html.esc(link)}</a> ({seen}, commit {html.esc(published["commit"][:8])})</p>'
        f'<h3>What next</h3><ul class="fh-next">{steps}</ul>'
        f"<h3>The same again</h3>{html.code(commands, 'On the command line')}"
        f"{html.code(python, 'In Python')}<details><summary>The recipe</summary>{recipe}</details></section>"
    )


def _next_steps(published: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What can be done with what was pushed, as HTML."""
    owner, steps = html.esc(published["repo_id"].partition("/")[0]), []
    if published["pull_request_url"]:
        steps.append(f"The pull request is {owner}'s to decide on.")
    elif published["private"]:
        steps.append(f"Its page opens for {owner} alone, who signs in there; others see it once it is made public.")
    else:
        steps.append("Everybody can open its page: send the address.")
    if proposed := reproduce.propose_lines(asked):
        steps.append(
            "Statistics that you made here can be of use to others: propose them to the owners of the models."
            + html.code(proposed, "To propose statistics")
        )
    return steps

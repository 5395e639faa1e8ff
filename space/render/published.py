"""What came of a push: the page on the Hub, what can be done next, and how to do the same elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from fusehub.hub.client import endpoint
from fusehub.hub.names import plain, readings

from ..links.link import is_of_hub
from ..visit import Made, Visit
from . import html, reproduce


def published_html(visit: Visit) -> str:
    """What was pushed, the model and the recipe alone; nothing before anything was."""
    return _model_html(visit) + _recipe_html(visit)


def is_pushed(visit: Visit) -> bool:
    """Whether the merge that is shown is what was pushed last: then something else comes next."""
    made = pushed_merge(visit)
    return made is not None and visit.pushing in ("", made.name)


def pushed_merge(visit: Visit) -> Made | None:
    """The merge that was pushed last, while the visit has it: another may have its name by now."""
    if (published := visit.published) is None:
        return None
    made = visit.merges.get(published["made"])
    return made if made is not None and made.asked is published["asked"] else None


def _recipe_html(visit: Visit) -> str:
    """Where the recipe is that was published alone, and what makes the model from it."""
    if not (published := visit.published_recipe):
        return ""
    url, seen = html.esc(published["url"]), "private" if published["private"] else "public"
    command = shlex.join(["fusehub", "merge", published["repo_id"], "--out", reproduce.OUT])
    return (
        f'<section class="fh-result" role="status"><h3>The recipe is on the Hub</h3><p><a href="{url}" '
        f'target="_blank" rel="noopener">{url}</a> ({seen})</p>'
        f"{html.code(command, 'The same model from it')}</section>"
    )


def _model_html(visit: Visit) -> str:
    """Where the model is, who can see it, and how to make the same again."""
    if not (published := visit.published):
        return ""
    asked, made = published["asked"], pushed_merge(visit)
    link = published["pull_request_url"] or published["url"]
    repo = published["repo_id"]
    kind = "The pull request is open" if published["pull_request_url"] else "The model is on the Hub"
    opens = "Open the pull request" if published["pull_request_url"] else "Open the model"
    loud = "fh-loud" if is_pushed(visit) else ""
    seen = "private" if published["private"] else "public"
    how = {
        "public": not published["private"],
        "pull_request": bool(published["pull_request_url"]),
        "demo": bool(published["demo_url"]),
    }
    commands = f"{reproduce.command_lines(asked)}\n{reproduce.publish_command(repo, **how)}"
    python = reproduce.python_lines(asked, repo, **how)
    written = reproduce.recipe_text(published["recipe"], asked)
    recipe = html.code(f"# fusehub merge fusehub_recipe.yaml --out merged\n{written}", "fusehub_recipe.yaml")
    if made is not None:
        file = html.esc(f"{made.address}/fusehub_recipe.yaml")
        recipe += f'<p><a class="fh-button fh-small" href="{file}" download>Download the recipe alone</a></p>'
    steps = "".join(f"<li>{step}</li>" for step in _next_steps(published, asked, visit.told))
    return (
        f'<section class="fh-result" role="status"><h3>{kind}</h3><p><a href="{html.esc(link)}" target="_blank" '
        f'rel="noopener">{html.esc(link)}</a> ({seen}, commit {html.esc(published["commit"][:8])})</p>'
        f'<p class="fh-offers"><a class="fh-button {loud}" href="{html.esc(link)}" target="_blank" rel="noopener">'
        f"{opens}</a></p>{_demo_html(published)}"
        f'<h3>What next</h3><ul class="fh-next">{steps}</ul>'
        f"<h3>The same again</h3>{html.code(commands, 'On the command line')}"
        f"{html.code(python, 'In Python')}<details><summary>The recipe</summary>{recipe}</details></section>"
    )


def _demo_html(published: Mapping[str, Any]) -> str:
    """Where the demonstration is, and what it needs."""
    if not (url := published["demo_url"]):
        return ""
    shown = f'<a href="{html.esc(url)}" target="_blank" rel="noopener">{html.esc(url)}</a>'
    needs = (
        f' It can read the model only with a token that may: give it a secret called HF_TOKEN in <a href="'
        f'{html.esc(url)}/settings" target="_blank" rel="noopener">its settings</a>, or make model and Space public.'
        if published["demo_needs_token"]
        else ""
    )
    return f"<p>The demonstration is a Space: {shown}.{needs}</p>"


def _next_steps(published: Mapping[str, Any], asked: Mapping[str, Any], told: Mapping[str, str]) -> list[str]:
    """What can be done with what was pushed, as HTML."""
    owner, steps = html.esc(published["repo_id"].partition("/")[0]), []
    if published["pull_request_url"]:
        steps.append(f"The pull request is {owner}'s to decide on.")
    elif published["private"]:
        steps.append(f"Its page opens for {owner} alone, who signs in there; others see it once it is made public.")
    else:
        steps.append("Everybody can open its page: send the address." + html.code(published["url"], "Address"))
        if repos := expert_repos(asked):
            steps.append(f"Tell the owners of the models in it, in the discussions of {_discussions(repos)}.")
        steps += [f"You have told the owner of {html.esc(repo)}: {_link(url)}" for repo, url in told.items()]
    if proposed := reproduce.propose_lines(asked):
        steps.append(
            "Statistics that you made here can be of use to others: propose them to the owners of the models."
            + html.code(proposed, "To propose statistics")
        )
    return steps


def expert_repos(asked: Mapping[str, Any]) -> list[str]:
    """The repos of the models in a merge, of those that are on the Hub."""
    names = [part for name in asked["models"] if is_of_hub(name) for part in name.split("+")]
    return list(dict.fromkeys(readings(plain(name))[0].repo_id for name in names))


def _discussions(repos: list[str]) -> str:
    """Links to the discussions of repos."""
    return ", ".join(_link(f"{endpoint()}/{repo}/discussions", repo) for repo in repos)


def _link(url: str, words: str | None = None) -> str:
    return f'<a href="{html.esc(url)}" target="_blank" rel="noopener">{html.esc(words or url)}</a>'

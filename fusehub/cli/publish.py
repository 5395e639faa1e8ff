"""Pushing a merge to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusehub.cli import console
from fusehub.cli.console import command, print_json, say
from fusehub.cli.options import (
    AllowFewRows,
    AllowOtherWeights,
    Branch,
    CommitDescription,
    CommitMessage,
    CreatePR,
    Json,
    OldAllowLicence,
    OldPublic,
    OldPullRequest,
    Private,
)
from fusehub.cli.program import app

_OF_A_RECIPE = (
    "folder", "repo", "recipe_only", "private", "public", "commit_message", "commit_description", "revision",
    "exist_ok", "allow_restricted", "as_json",
)  # fmt: skip


@app.command(epilog="Example: fusehub publish merged/ user/merged --results scores.json")
@command
def publish(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a merged model.", show_default=False)],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="user/name, or name for your own.", show_default=False)],
    private: Private = True,
    create_pr: CreatePR = False,
    commit_message: CommitMessage = None,
    commit_description: CommitDescription = None,
    revision: Branch = None,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="Push into a repo that is there; deletes nothing.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(help="Scores that `fusehub evaluate --out` wrote, for the card.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="The card's license, in the Hub's words; derived if not said.")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Make a Space too, REPO-demo, that shows what the model answers.")
    ] = False,
    recipe_only: Annotated[
        bool,
        typer.Option(
            "--recipe-only", help="Push how it is made, and no weights: `fusehub merge REPO` makes the same."
        ),
    ] = False,
    allow_license: Annotated[
        bool, typer.Option("--allow-license", help="Push although licenses of the experts forbid it.")
    ] = False,
    allow_restricted: Annotated[
        bool,
        typer.Option("--allow-restricted", help="With --no-private: push although an expert is gated or private."),
    ] = False,
    allow_few_rows: AllowFewRows = False,
    allow_other_weights: AllowOtherWeights = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the model card; push nothing.")] = False,
    as_json: Json = False,
    public: OldPublic = False,
    pull_request: OldPullRequest = False,
    allow_licence: OldAllowLicence = False,
) -> None:
    """Push a merged model to the Hub with a card that says how it was made, and verify what arrived."""
    import json

    from fusehub.errors import BadData
    from fusehub.publishing.cards.merge_card import model_card
    from fusehub.publishing.publish import publish as publish_model
    from fusehub.utils.folders.places import require_ordinary

    if recipe_only:
        _publish_recipe(context, folder, repo, as_json)
        return
    evaluation = None
    if results is not None:
        require_ordinary(results)
        try:
            evaluation = json.loads(results.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadData(f"{results} cannot be read ({error}).", "Write it with `fusehub evaluate --out`.") from error
    if dry_run:
        card = model_card(folder, repo_id=repo, evaluation=evaluation, license=license)
        print_json({"card": str(card)}) if as_json else console.out.print(str(card), markup=False)
        return
    published = publish_model(
        folder,
        repo,
        private=private and not public,
        create_pr=create_pr or pull_request,
        commit_message=commit_message,
        commit_description=commit_description,
        revision=revision,
        exist_ok=exist_ok,
        evaluation=evaluation,
        license=license,
        demo=demo,
        allow_license=allow_license or allow_licence,
        allow_restricted=allow_restricted,
        allow_few_rows=allow_few_rows,
        allow_other_weights=allow_other_weights,
    )
    if as_json:
        print_json(published.to_dict())
        return
    if published.pull_request_url:
        say(f"Pull request: {published.pull_request_url}", "green")
    else:
        say(f"Published ({'private' if published.private else 'public'}): {published.url}", "green")
    if published.demo_url:
        say(f"Demonstration: {published.demo_url}", "green")
    if published.demo_needs_token:
        say(
            f"Its Space can read the model only with a secret HF_TOKEN: {published.demo_url}/settings. "
            "Or make model and Space public."
        )


def _publish_recipe(context: typer.Context, folder: Path, repo: str, as_json: bool) -> None:
    from fusehub.publishing.recipe_alone import publish_recipe

    said = context.params
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if source is not None and source.name == "COMMANDLINE" and param.name not in _OF_A_RECIPE:
            raise typer.BadParameter("is said of a model, and not of a recipe alone", param_hint=param.opts[0])
    published = publish_recipe(
        folder,
        repo,
        private=said["private"] and not said["public"],
        commit_message=said["commit_message"],
        commit_description=said["commit_description"],
        revision=said["revision"],
        exist_ok=said["exist_ok"],
        allow_restricted=said["allow_restricted"],
    )
    if as_json:
        print_json(published.to_dict())
        return
    say(f"Recipe published ({'private' if published.private else 'public'}): {published.url}", "green")
    say(f"Whoever may see it makes the same: fusehub merge {published.repo_id} --out merged")

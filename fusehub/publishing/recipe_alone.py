"""Pushes how a merge is made to the Hub, and none of its weights: whoever has the name makes the same model.

    published = publish_recipe("out/merged", "user/merged-recipe")
    fusehub.merge("user/merged-recipe", "again")

The repo has the recipe with everything resolved, and a card. A recipe copies nothing of the models that it names, so
that no license of theirs forbids to share it; what follows from them for the model that it makes is in the card.
"""

from __future__ import annotations

from pathlib import Path

from fusehub.errors import AccessDenied, Action, BadRecipe, NotFound, OutputExists
from fusehub.hub.access import Access
from fusehub.hub.client import fusehub_version, hub_errors
from fusehub.hub.repos import RECIPE_TAG
from fusehub.hub.upload import CARD, Published, Target
from fusehub.merging.recipe import FILENAME
from fusehub.publishing.cards.merge_card import recipe_card
from fusehub.publishing.merged_folder import MergedFolder, read_merge
from fusehub.utils.markdown import listed
from fusehub.utils.progress import Progress, silent


def publish_recipe(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    commit_message: str | None = None,
    commit_description: str | None = None,
    revision: str | None = None,
    exist_ok: bool = False,
    allow_restricted: bool = False,
    token: bool | str | None = None,
    progress: Progress = silent,
) -> Published:
    """Pushes the recipe of the merge in `folder` to a repo of its own, with a card and without weights.

    `fusehub.merge(repo_id, out)` and `fusehub merge REPO` make the same model from it.

    Args:
        folder: What `merge` wrote.
        repo_id: `user/name`, or `name` for one's own.
        private: Whether only its owner sees a repo that is made.
        commit_message: The commit's title, where FuseHub's is not wanted.
        commit_description: The commit's text.
        revision: The branch that is pushed to, which is made where it is not there.
        exist_ok: Replace the recipe in a repo that has one.
        allow_restricted: Go on where the names of private models would be shown to everyone.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        progress: Called with (done, total, what).

    Returns:
        Where it is, and the commit.

    Raises:
        NotFound: There is no finished merge in the folder.
        BadRecipe: The recipe names what is on this machine alone.
        OutputExists: The repo is there already.
        AccessDenied: The token may not write there, or everyone would see what private models are called.

    Examples:
        >>> merged = fusehub.merge(["user/expert-1", "user/expert-2"], "merged")
        >>> published = fusehub.publish_recipe(merged.folder, "you/merged-recipe", private=False)
        >>> fusehub.merge("you/merged-recipe", "once-more").hashes == merged.hashes
        True
    """
    folder = Path(folder)
    merge = read_merge(folder)
    if merge is None:
        raise NotFound(f"There is no finished merge in {folder}.", "Give the folder that `fusehub merge` wrote.")
    _require_for_all(merge)
    target = Target.of(repo_id, token, private=private, exist_ok=exist_ok, revision=revision)
    if target.info is not None and not target.is_empty and RECIPE_TAG not in (target.info.tags or []):
        raise OutputExists(
            f"{target.repo_id} exists already, and is no repo of a recipe alone.",
            "Choose another name.",
            actions=[Action("name-another")],
        )
    if not (target.private or allow_restricted) and (hidden := _hidden(merge)):
        raise AccessDenied(
            f"Everyone would see the names of what is private: {listed(hidden)}.",
            "Push to a private repo (leave --no-private out). If that is meant: --allow-restricted.",
            actions=[Action("keep-private")],
        )
    files: dict[str, Path | bytes] = {
        FILENAME: merge.public_recipe().encode(),
        CARD: str(recipe_card(merge, target.repo_id)).encode(),
    }
    experts = listed([source["short_name"] for source in merge.sources])
    message = commit_message or f"Recipe: {experts} by {merge.report['method']} (FuseHub {fusehub_version()})"
    return target.push(files, message, progress, description=commit_description)


def _require_for_all(merge: MergedFolder) -> None:
    """Raises `BadRecipe` where the recipe names what nobody else has."""
    if here := merge.local_folders:
        raise BadRecipe(
            f"The recipe of this merge names what is on this machine alone: {listed(sorted(set(here.values())))}.",
            "Publish that first, models and statistics, and merge by their names on the Hub.",
        )


def _hidden(merge: MergedFolder) -> list[str]:
    """The models in it whose repos not everyone can see; that of a gated one everyone can."""
    from huggingface_hub.errors import RepositoryNotFoundError

    nobody, found = Access(False), []
    for origin in merge.origins:
        if not (origin["private"] and origin.get("repo_id")):
            continue
        with hub_errors(origin["name"]):
            try:
                nobody.info(origin["repo_id"])
            except RepositoryNotFoundError:
                found.append(origin["name"])
    return found

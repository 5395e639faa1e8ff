"""Pushes a merged model to the Hub, and reads back what lies there.

    published = publish("out/merged", "user/merged", evaluation=evaluation)
    published.url, published.commit

The repo is made last: after the licenses allow it, the model was loaded and has answered, and the Hub has accepted
the card. Everything goes up in one commit, whose hashes are then compared with the files here. What this push did
not make is never deleted. Folders of this machine are taken out of recipe, report and card.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import AccessDenied, Action, BadData, BadFile, BadRecipe, LicenseForbids, NotFound, OutputExists
from fusehub.hub.access import Access
from fusehub.hub.client import fusehub_version
from fusehub.hub.licenses import license_of
from fusehub.hub.upload import CARD, Files, Published, Target
from fusehub.merging.provenance import REPORT_FILENAME
from fusehub.models.adapters.ref import CONFIG as ADAPTER_CONFIG
from fusehub.models.resolve import ModelRef, ref_of, resolve
from fusehub.models.side_files import legal_files
from fusehub.models.tensor_files import sha256_of
from fusehub.publishing.cards.merge_card import model_card
from fusehub.publishing.cards.statistics_card import statistics_card
from fusehub.publishing.demonstration import demonstration_of, half_of
from fusehub.publishing.loadable import require_loadable
from fusehub.publishing.merged_folder import MergedFolder, is_local, read_merge
from fusehub.statistics.file import METADATA_FILENAME, require_weights
from fusehub.statistics.inspection import require_sound
from fusehub.statistics.privacy import require_enough
from fusehub.statistics.shards import is_part
from fusehub.statistics.sources import FOLDER, TAG, open_statistics
from fusehub.utils.markdown import listed
from fusehub.utils.progress import Progress, silent
from fusehub.utils.renamed import Renamed, renamed
from fusehub.utils.untrusted.documents import check_adapter_config, read_object
from fusehub.utils.untrusted.yaml_text import load_yaml, split_front_matter

if TYPE_CHECKING:
    from fusehub.comparing.evaluation import Evaluation

_OLD: dict[str, str | Renamed] = {"public": Renamed("private", operator.not_), "pull_request": "create_pr"}


@renamed(**_OLD, allow_licence="allow_license")
def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    revision: str | None = None,
    exist_ok: bool = False,
    evaluation: Evaluation | Mapping[str, Any] | None = None,
    license: str | None = None,
    demo: bool = False,
    allow_license: bool = False,
    allow_restricted: bool = False,
    allow_few_rows: bool = False,
    allow_other_weights: bool = False,
    token: bool | str | None = None,
    progress: Progress = silent,
) -> Published:
    """Pushes the model in `folder` to a repo, with a card, and looks at what arrived.

    The repo is made where it is not there. A README.md in the folder is pushed as it is; else a card is written.

    Args:
        folder: What `merge` wrote, or another model's folder.
        repo_id: `user/name`, or `name` for one's own.
        private: Whether only its owner sees a repo that is made.
        create_pr: Propose it to the owner of a repo that is there.
        commit_message: The commit's title, where FuseHub's is not wanted.
        commit_description: The commit's text.
        revision: The branch that is pushed to, which is made where it is not there.
        exist_ok: Go on where the repo is there: files are added and replaced, none deleted.
        evaluation: Results for the card.
        license: The license that the card says, "" for none; None for what follows from those of the experts.
        demo: Make a Space too, `REPO-demo`, that shows what the model answers; private where the model is.
        allow_license: Go on where a license forbids it, two do not go together, or the card's asks for less.
        allow_restricted: Go on where an expert is not for everyone, in public.
        allow_few_rows: Go on where statistics in the folder are of few rows.
        allow_other_weights: Go on where statistics in the folder are of other weights.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        progress: Called with (done, total, what).

    Returns:
        Where it is, and the commit.

    Raises:
        NotFound: There is no finished model in the folder.
        OutputExists: The repo is there already.
        AccessDenied: The token may not write there, or the result may not be shown to everyone.
        Incompatible: A license speaks against it, or transformers cannot load the model.
        PartlyPublished: The model is there, and the demonstration could not be made.

    Examples:
        >>> merged = fusehub.merge(["user/expert-1", "user/expert-2"], "merged")
        >>> published = fusehub.publish(merged.folder, "you/merged")
        >>> published.repo_id, published.private
        ('you/merged', True)
    """
    folder = Path(folder)
    # What can be told without the Hub, and at once, comes before what cannot.
    if not folder.is_dir() or folder.resolve().name.endswith(".partial"):
        raise NotFound(f"There is no finished model in {folder}.", "Give the folder that `fusehub merge` wrote.")
    _require_base_for_all(folder)
    target = Target.of(repo_id, token, create_pr=create_pr, exist_ok=exist_ok, private=private, revision=revision)
    progress(0, 3, "checking the model")
    merge = _finished(folder)
    if merge is not None:
        if not allow_license:
            _require_license(merge, target)
        if not allow_restricted:
            _require_for_everyone([origin["name"] for origin in merge.origins if origin["private"]], target.private)
        for part in merge.configs:
            require_loadable(folder / part)
        files, experts = merge.public_files(), [source["short_name"] for source in merge.sources]
        message = f"Merge of {listed(experts)} by {merge.report['method']}"
    else:
        require_loadable(folder)
        files = _model_files(folder, allow_few_rows, allow_other_weights)
        message = "Upload an adapter" if ADAPTER_CONFIG in files else "Upload a model"
    card = _card_text(folder, target.repo_id, evaluation, license)
    if merge is not None and not allow_license:
        _require_no_less(merge, card)
    files[CARD] = card.encode()
    shown = demonstration_of(folder, merge, target, card=card, exist_ok=exist_ok, token=token) if demo else None
    tell = half_of(progress, 0) if shown else progress
    published = target.push(files, commit_message or _signed(message), tell, description=commit_description)
    return shown.push(published, half_of(progress, 1)) if shown else published


@renamed(**_OLD)
def publish_statistics(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    model: str | ModelRef,
    private: bool = True,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    revision: str | None = None,
    exist_ok: bool = True,
    allow_restricted: bool = False,
    allow_few_rows: bool = False,
    allow_other_weights: bool = False,
    token: bool | str | None = None,
    progress: Progress = silent,
) -> Published:
    """Pushes the statistics in `folder` into the repo of `model` under `fusehub/`, where merges find them.

    Args:
        folder: What `collect` wrote.
        repo_id: Another repo, a companion with a card of its own, for models that one does not own.
        model: The model on the Hub that they are of.
        private: Whether only its owner sees a companion that is made.
        create_pr: Propose them to the owner of the repo.
        commit_message: The commit's title, where FuseHub's is not wanted.
        commit_description: The commit's text.
        revision: The branch that is pushed to, which is made where it is not there.
        exist_ok: Go on where the companion is there.
        allow_restricted: Go on where a gated or private model's would be public.
        allow_few_rows: Go on where they are of so few texts that they would tell what is in them.
        allow_other_weights: Go on where they were made for other weights than the repo has now.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        progress: Called with (done, total, what).

    Returns:
        Where they are, and the commit.

    Raises:
        NotFound: There are no statistics in the folder, or no such model on the Hub.
        BadStatistics: They are of other weights, or of too few texts.
        AccessDenied: The token may not write there, or a gated or private model's would be public.

    Examples:
        >>> statistics = fusehub.collect("user/expert-1", "user/texts", "statistics")
        >>> published = fusehub.publish_statistics(
        ...     "statistics", "you/expert-1-statistics", model="user/expert-1", allow_few_rows=True
        ... )
        >>> published.repo_id
        'you/expert-1-statistics'
    """
    folder = Path(folder)
    ref = ref_of(model, Access(token))
    if ref.repo_id is None or ref.subfolder:
        raise NotFound(f"{ref.name} is not a model on the Hub with a repo of its own.", "Publish the model first.")
    # Statistics belong to what the repo holds now, whatever commit `model` names.
    ref = resolve(f"{ref.parts.base.id}+{ref.repo_id}" if ref.parts else ref.repo_id, token=token)
    assert ref.repo_id is not None and ref.commit is not None
    metadata = _checked_statistics(folder, ref, allow_few_rows, allow_other_weights)
    files = _statistics_files(folder)
    own = repo_id in (None, ref.repo_id)
    target = Target.of(
        repo_id or ref.repo_id, token, create_pr=create_pr, exist_ok=own or exist_ok, private=private,
        revision=revision,
    )  # fmt: skip
    if not own:
        _require_companion(target, ref)
        if not allow_restricted:
            _require_for_everyone([ref.name] if ref.private or ref.gated else [], private)
        files[CARD] = str(statistics_card(metadata, ref.repo_id, ref.commit, repo_id=target.repo_id)).encode()
    return target.push(
        files, commit_message or _signed(f"Statistics of {ref.repo_id}"), progress, description=commit_description,
        replaced=_replaced(target, files),
    )  # fmt: skip


def _signed(message: str) -> str:
    return f"{message} (FuseHub {fusehub_version()})"


def _require_base_for_all(folder: Path) -> None:
    """Raises `NotFound` for an adapter whose base is a folder of this machine."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return
    said = check_adapter_config(read_object(folder / ADAPTER_CONFIG, str(folder)), str(folder))
    base = said.get("base_model_name_or_path")
    if not base or is_local(base):
        raise NotFound(
            f"The adapter in {folder} is on a base that nobody else has: {base or 'it names none'}.",
            "Publish the base first, and name it where you merge: USER/BASE+ADAPTER. Or publish a whole model: merge "
            "without --as-adapter.",
            actions=[Action("merge-whole")],
        )


def _finished(folder: Path) -> MergedFolder | None:
    """The merge in `folder`, complete and unchanged; None for another model's folder."""
    merge = read_merge(folder)
    for name, sha256 in (merge.report["sha256"] if merge else {}).items():
        if not (folder / name).is_file():
            raise NotFound(f"The merge in {folder} lacks {name}.", "Merge again.")
        if sha256_of(folder / name) != sha256:
            raise BadFile(
                f"{folder / name} is not what the merge wrote: its sha256 differs from {REPORT_FILENAME}.",
                f"Merge again; or, if you changed it on purpose, delete {REPORT_FILENAME} and write a README.md.",
            )
    return merge


def _model_files(folder: Path, few_rows: bool, other_weights: bool) -> Files:
    """What makes up a model in a folder where training may have left more: optimizer, checkpoints, logs."""
    ref = resolve(str(folder))
    if ref.parts:
        # The base has a repo of its own.
        own = ref.parts.adapter
        wanted = [*(["config.json"] if "config.json" in own.files else []), *own.side_files(), *ref.adapter_files()]
    else:
        own = ref
        wanted = ["config.json", *own.side_files(), *own.weight_files()]
        wanted += [name for name in own.files if name.endswith(".index.json")]
    wanted += legal_files(own.files)
    files: Files = {name: folder / name for name in dict.fromkeys(wanted)}
    # Half of them are not left out in silence.
    if statistics := _statistics_files(folder / FOLDER):
        _checked_statistics(folder / FOLDER, ref, few_rows, other_weights)
    return files | statistics


def _statistics_files(folder: Path) -> Files:
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return {f"{FOLDER}/{path.name}": path for path in there if is_part(path.name)}


def _replaced(target: Target, files: Files) -> list[str]:
    """What an earlier version left there and is not overwritten: its shards, or diagonals that this one lacks."""
    there = [path for path in target.files if path.startswith(f"{FOLDER}/") and path not in files]
    return [path for path in there if is_part(path.removeprefix(f"{FOLDER}/"))]


def _card_text(folder: Path, repo_id: str, evaluation: Any, license: str | None) -> str:
    """The README.md of the folder where somebody wrote one, else a card."""
    if not (folder / CARD).is_file():
        return str(model_card(folder, repo_id=repo_id, evaluation=evaluation, license=license))
    for given, what in ((evaluation, "results"), (license, "license")):
        if given is not None:
            raise BadData(
                f"{folder} has a {CARD} of its own, which is pushed as it is: the {what} would be lost.",
                f"Delete {CARD} to have the card written with them, or leave the {what} out.",
            )
    return (folder / CARD).read_text(encoding="utf-8")


def _require_license(merge: MergedFolder, target: Target) -> None:
    """Raises where a license forbids to share the merge, or two forbid to show it to everyone."""
    verdict = merge.license
    if verdict.forbids_publishing:
        raise LicenseForbids(
            f"This merge may not be published: {verdict.why}.",
            "Keep it to yourself, or leave that model out. If its owner has allowed it to you: --allow-license.",
            actions=[Action("keep-private")],
        )
    if verdict.conflicts and not target.private:
        raise LicenseForbids(
            f"This merge may not be shared: {'; '.join(verdict.conflicts)}.",
            "Push to a private repo (leave --no-private out), or leave one of them out. "
            "If an owner has allowed it to you: --allow-license.",
            actions=[Action("keep-private")],
        )


def _require_no_less(merge: MergedFolder, card: str) -> None:
    """Raises where the license that the card says asks for less than those of what went in."""
    try:
        front = load_yaml(split_front_matter(card)[0] or "", CARD)
    except BadRecipe:
        return  # Whether the Hub takes it as a card is asked later.
    said, verdict = license_of(front) if isinstance(front, Mapping) else None, merge.license
    if said and verdict.is_loosened_by(said):
        raise LicenseForbids(
            f"The card says {said}, and what went into the merge asks for more: {verdict.license}, because "
            f"{verdict.why}.",
            f"Say {verdict.license} or a stricter one. If the owners have allowed it to you: --allow-license.",
            actions=[Action("keep-private")],
        )


def _require_for_everyone(restricted: list[str], private: bool) -> None:
    """Raises where a model that is gated or private goes into what is `private` no more."""
    if restricted and not private:
        are = "are" if len(restricted) > 1 else "is"
        raise AccessDenied(
            f"{listed(restricted)} {are} gated or private, and what is made of it would be open to everyone.",
            "Push to a private repo (leave --no-private out). If the owner agrees: --allow-restricted.",
            actions=[Action("keep-private")],
        )


def _checked_statistics(folder: Path, ref: ModelRef, few_rows: bool, other_weights: bool) -> dict[str, Any]:
    """The metadata of the statistics in `folder`: of the weights of `ref`, unless `other_weights`, and of enough rows,
    unless `few_rows`."""
    from fusehub.models.checkpoints.checkpoint import weight_hashes

    if not (folder / METADATA_FILENAME).is_file():
        raise NotFound(
            f"There is no {METADATA_FILENAME} in {folder}.", "Give the folder that `fusehub collect` wrote."
        )
    with contextlib.closing(open_statistics(str(folder))) as statistics:
        metadata = statistics.metadata
        if not other_weights:
            require_weights(metadata, str(folder), ref.name, weight_hashes(ref))
        if not few_rows:
            require_enough(metadata, str(folder))
        require_sound(statistics)
    return metadata


def _require_companion(target: Target, ref: ModelRef) -> None:
    """Raises where the repo is there and is none of this model's statistics."""
    if target.info is None:
        return
    tags = target.info.tags or []
    if TAG not in tags or f"base_model:{ref.repo_id}" not in tags:
        raise OutputExists(
            f"{target.repo_id} exists already, and is not a repo of statistics of {ref.repo_id}.",
            "Choose another name.",
        )

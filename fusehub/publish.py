"""Pushes a merged model to the Hub, and reads back what lies there.

    published = publish("out/merged", "user/merged", evaluation=evaluation)
    published.url, published.commit

The repo is made last: after the licences allow it, the model was loaded and has answered, and the Hub has accepted
the card. Everything goes up in one commit, whose hashes are then compared with the files here. What this push did
not make is never deleted. Folders of this machine are taken out of recipe, report and card.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.card import model_card, statistics_card
from fusehub.errors import AccessDenied, BadData, BadFile, BadStatistics, FuseHubError, NotFound, OutputExists
from fusehub.hub import client, endpoint, fusehub_version, hub_errors
from fusehub.loading import require_loadable
from fusehub.markdown import listed
from fusehub.merged import MergedFolder, read_merge
from fusehub.progress import Progress, silent
from fusehub.provenance import REPORT_FILENAME
from fusehub.recipe import FILENAME as RECIPE_FILENAME
from fusehub.refs import SIDE_FILES, ModelRef, resolve
from fusehub.statistics.format import FILENAME, METADATA_FILENAME, Statistics, require_weights
from fusehub.statistics.sources import FOLDER, TAG

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

    from fusehub.evaluate import Evaluation

logger = logging.getLogger(__name__)

CARD = "README.md"
# A sum over fewer rows says too much about each of them.
MIN_ROWS = 100
# Path in the repo -> a file here, or its content.
Files = dict[str, Path | bytes]


@dataclass(frozen=True)
class Published:
    """What was pushed: the repo's page, the commit, and the pull request where it is one."""

    url: str
    commit: str
    repo_id: str
    private: bool
    pull_request_url: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    public: bool = False,
    pull_request: bool = False,
    exist_ok: bool = False,
    evaluation: Evaluation | Mapping[str, Any] | None = None,
    force: bool = False,
    token: str | None = None,
    progress: Progress = silent,
) -> Published:
    """Pushes the model in `folder` to the repo `repo_id` (`user/name`, or `name` for one's own).

    The repo is made, private unless `public`. One that is there is an error, unless `exist_ok` (files are added and
    replaced, none deleted) or `pull_request` (proposed to its owner). A README.md in the folder is pushed as it is;
    else a card is written, with the results of `evaluation`. `force` pushes although a licence or a gate of an
    expert speaks against it.
    """
    folder = Path(folder)
    target = _Target.of(repo_id, token, pull_request=pull_request, exist_ok=exist_ok, public=public)
    progress(0, 3, "checking the model")
    merge = _finished(folder)
    if merge is not None:
        if not force:
            _require_allowed(merge, target)
        for part in merge.configs:
            require_loadable(folder / part)
        files, experts = _merge_files(merge), [source["short_name"] for source in merge.sources]
        message = f"Merge of {listed(experts)} by {merge.report['method']}"
    else:
        require_loadable(folder)
        files, message = _model_files(folder), "Upload a model"
    files[CARD] = _card_text(folder, target.repo_id, evaluation).encode()
    return target.push(files, message, progress)


def publish_statistics(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    model: str | ModelRef,
    public: bool = False,
    pull_request: bool = False,
    exist_ok: bool = True,
    force: bool = False,
    token: str | None = None,
    progress: Progress = silent,
) -> Published:
    """Pushes the statistics in `folder` into the repo of `model` under `fusehub/`, where merges find them.

    With another `repo_id` they go into a companion repo with a card of its own, for models that one does not own.
    Raises `BadStatistics` where they were made for other weights than the repo has now, or of so few texts that they
    would tell what is in them (unless `force`).
    """
    folder = Path(folder)
    ref = resolve(model, token=token) if isinstance(model, str) else model
    if ref.repo_id is None or ref.subfolder:
        raise NotFound(f"{ref.name} is not a model on the Hub with a repo of its own.", "Publish the model first.")
    # Statistics belong to what the repo holds now, whatever commit `model` names.
    ref = resolve(ref.repo_id, token=token)
    metadata = _checked_statistics(folder, ref, force)
    files: Files = {f"{FOLDER}/{name}": folder / name for name in (FILENAME, METADATA_FILENAME)}
    own = repo_id in (None, ref.repo_id)
    target = _Target.of(
        repo_id or ref.repo_id, token, pull_request=pull_request, exist_ok=own or exist_ok, public=public
    )
    if not own:
        _require_companion(target, ref)
        if public and (ref.private or ref.gated) and not force:
            raise _restricted([ref.name])
        files[CARD] = str(statistics_card(metadata, ref.repo_id, ref.commit, repo_id=target.repo_id)).encode()
    return target.push(files, f"Statistics of {ref.repo_id}", progress)


# --- where it goes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """The repo that is pushed to; `info` is None where it is still to be made."""

    api: HfApi
    repo_id: str
    info: ModelInfo | None
    private: bool
    pull_request: bool

    @classmethod
    def of(cls, repo_id: str, token: str | None, *, pull_request: bool, exist_ok: bool, public: bool) -> _Target:
        """Raises where the token cannot write there, or the name is taken and nobody said that this is fine."""
        from huggingface_hub.errors import RepositoryNotFoundError
        from huggingface_hub.utils import validate_repo_id

        api = client(token.strip() if token else None)
        user = _writer(api)
        repo_id = repo_id if "/" in repo_id else f"{user}/{repo_id}"
        with hub_errors(repo_id):
            validate_repo_id(repo_id)
            try:
                info = api.model_info(repo_id, files_metadata=True)
            except RepositoryNotFoundError:
                info = None
        if info is None and pull_request:
            raise NotFound(
                f"{repo_id} does not exist, or is private: there is nothing to propose a pull request to.",
                "Check the spelling, or push without --pull-request, which makes the repo.",
            )
        if info is not None and not pull_request:
            if not exist_ok:
                raise OutputExists(
                    f"{repo_id} exists already on {endpoint()}.",
                    "Choose another name. To push into it all the same, say --exist-ok (nothing in it is deleted), "
                    "or --pull-request.",
                )
            _require_write(api, repo_id, user)
        private = bool(info.private) if info is not None else not public
        return cls(api, info.id if info is not None else repo_id, info, private, pull_request)

    @property
    def files(self) -> list[str]:
        """What lies there."""
        return [file.rfilename for file in self.info.siblings or []] if self.info else []

    def push(self, files: Files, message: str, progress: Progress) -> Published:
        """All files in one commit, read back and compared."""
        from huggingface_hub import CommitOperationAdd

        _require_not_shadowed(self, files)
        if CARD in files:
            self._require_card(files[CARD].decode())
        progress(1, 3, "uploading")
        operations = [CommitOperationAdd(path, content) for path, content in sorted(files.items())]
        with hub_errors(self.repo_id):
            if self.info is None:
                self.api.create_repo(self.repo_id, private=self.private)
            try:
                done = self._commit(operations, message)
            except BaseException:
                if self.info is None:
                    _delete_if_empty(self.api, self.repo_id)
                raise
            progress(2, 3, "reading back")
            self._verify(operations, done.oid)
        progress(3, 3, "done")
        return Published(f"{endpoint()}/{self.repo_id}", done.oid, self.repo_id, self.private, done.pr_url)

    def _commit(self, operations: list, message: str) -> Any:
        from huggingface_hub.errors import HfHubHTTPError

        head = self.info.sha if self.info is not None else self.api.model_info(self.repo_id).sha
        try:
            return self.api.create_commit(
                self.repo_id,
                operations,
                commit_message=f"{message} (FuseHub {fusehub_version()})",
                create_pr=self.pull_request,
                parent_commit=head,
            )
        except HfHubHTTPError as error:
            if error.response is not None and error.response.status_code == 412:
                raise OutputExists(
                    f"Somebody else changed {self.repo_id} during the upload.", "Look at it, then push again."
                ) from error
            raise

    def _verify(self, operations: list, commit: str) -> None:
        """Raises `BadFile` unless the commit has every file, with the sha256 (or git hash) of what was sent."""
        paths = [operation.path_in_repo for operation in operations]
        there = {}
        for start in range(0, len(paths), 200):
            found = self.api.get_paths_info(self.repo_id, paths[start : start + 200], revision=commit)
            there |= {item.path: (item.lfs.sha256 if item.lfs else item.blob_id, item.size) for item in found}
        wrong = [
            operation.path_in_repo
            for operation in operations
            if there.get(operation.path_in_repo)
            not in ((operation.upload_info.sha256.hex(), operation.upload_info.size), _git_identity(operation))
        ]
        if wrong:
            raise BadFile(
                f"{self.repo_id} at {commit[:8]}: {listed(wrong, 3)} arrived differently from what was sent.",
                "Push again with --exist-ok, and compare with the files here before you use it.",
            )

    def _require_card(self, text: str) -> None:
        """Raises `BadData` where the Hub would refuse the card, which it says only after the repo was made."""
        from huggingface_hub import ModelCard

        with hub_errors(self.repo_id):
            try:
                ModelCard(text, ignore_metadata_errors=True).validate(repo_type="model")
            except ValueError as error:
                said = re.findall(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', str(error))
                raise BadData(
                    f"The Hub refuses the front matter of {CARD}: {'; '.join(said) or error}.", "Correct it."
                ) from error


def _writer(api: HfApi) -> str:
    """The user that the token belongs to. Raises `AccessDenied` without one, or where it can only read."""
    with hub_errors("your account"):
        who = api.whoami()
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise AccessDenied(
            f"Your token can only read ({who['name']}).",
            f"Make one that can write on {endpoint()}/settings/tokens, then `hf auth login`.",
        )
    return who["name"]


def _require_write(api: HfApi, repo_id: str, user: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    with hub_errors(repo_id):
        try:
            api.auth_check(repo_id, write=True)
        except HfHubHTTPError as error:
            if error.response is None or error.response.status_code != 403:
                raise
            raise AccessDenied(
                f"{user} may not write to {repo_id}.",
                "Propose it to the owner with --pull-request, or choose a name of your own.",
            ) from error


def _delete_if_empty(api: HfApi, repo_id: str) -> None:
    """Takes back a repo that this push has just made, if nothing came into it meanwhile."""
    try:
        if len(api.list_repo_commits(repo_id)) == 1 and set(api.list_repo_files(repo_id)) <= {".gitattributes"}:
            api.delete_repo(repo_id)
    except Exception as error:
        logger.warning("%s was made and could not be taken back (%s).", repo_id, type(error).__name__)


def _git_identity(operation: Any) -> tuple[str, int]:
    """(git's hash, size) of a file, which is how the Hub knows what it does not keep as a large file."""
    info = operation.upload_info
    if info.size > 2**25:  # Never a regular file, and not worth reading again.
        return ("", -1)
    with operation.as_file() as file:
        content = file.read()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest(), info.size


def _require_not_shadowed(target: _Target, files: Files) -> None:
    """transformers prefers model.safetensors to shards: an old one beside them would be loaded instead of them."""
    for path in files:
        single = path.removesuffix(".index.json")
        if path.endswith("model.safetensors.index.json") and single not in files and single in target.files:
            raise OutputExists(
                f"{target.repo_id} has a {single}, which would be loaded instead of the shards of this model.",
                "Choose another name, or delete that file from the repo first.",
            )


# --- what is pushed --------------------------------------------------------------------------------------------------


def _finished(folder: Path) -> MergedFolder | None:
    """The merge in `folder`, complete and unchanged; None for another model's folder."""
    if not folder.is_dir() or folder.resolve().name.endswith(".partial"):
        raise NotFound(f"There is no finished model in {folder}.", "Give the folder that `fusehub merge` wrote.")
    merge = read_merge(folder)
    for name, sha256 in (merge.report["sha256"] if merge else {}).items():
        if not (folder / name).is_file():
            raise NotFound(f"The merge in {folder} lacks {name}.", "Merge again.")
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise BadFile(
                    f"{folder / name} is not what the merge wrote: its sha256 differs from {REPORT_FILENAME}.",
                    f"Merge again; or, if you changed it on purpose, delete {REPORT_FILENAME} and write a README.md.",
                )
    return merge


def _merge_files(merge: MergedFolder) -> Files:
    """Everything in the folder, hidden and unfinished files left out, and nobody's paths in it."""
    files: Files = {}
    for path in sorted(merge.path.rglob("*")):
        parts = path.relative_to(merge.path).parts
        if path.is_file() and not any(part.startswith(".") or part.endswith(".partial") for part in parts):
            files["/".join(parts)] = path
    files[REPORT_FILENAME] = merge.public_report().encode()
    files[RECIPE_FILENAME] = merge.public_recipe().encode()
    return files


def _model_files(folder: Path) -> Files:
    """What makes up a model in a folder where training may have left more: optimizer, checkpoints, logs."""
    ref = resolve(str(folder))
    wanted = ["config.json", *ref.side_files(), *ref.weight_files()]
    wanted += [name for name in ref.files if name.endswith(".index.json") and name not in SIDE_FILES]
    wanted += [name for name in ref.files if name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))]
    files: Files = {name: folder / name for name in dict.fromkeys(wanted)}
    statistics = [folder / FOLDER / name for name in (FILENAME, METADATA_FILENAME)]
    if all(path.is_file() for path in statistics):
        files |= {f"{FOLDER}/{path.name}": path for path in statistics}
    return files


def _card_text(folder: Path, repo_id: str, evaluation: Any) -> str:
    """The README.md of the folder where somebody wrote one, else a card."""
    if not (folder / CARD).is_file():
        return str(model_card(folder, repo_id=repo_id, evaluation=evaluation))
    if evaluation is not None:
        raise BadData(
            f"{folder} has a {CARD} of its own, which is pushed as it is: the results would be lost.",
            f"Delete {CARD} to have the card written with them, or leave the results out.",
        )
    return (folder / CARD).read_text(encoding="utf-8")


def _require_allowed(merge: MergedFolder, target: _Target) -> None:
    """Raises where a licence forbids to share the merge, or an expert that is not for everyone would be shown."""
    verdict = merge.licence
    if verdict.forbids_publishing:
        raise FuseHubError(
            f"This merge may not be published: {verdict.why}.",
            "Keep it to yourself, or leave that model out. If its owner has allowed it to you, say --force.",
        )
    restricted = [source["short_name"] for source in merge.sources if source["private"]]
    if restricted and not target.private:
        raise _restricted(restricted)


def _restricted(names: list[str]) -> FuseHubError:
    are = "are" if len(names) > 1 else "is"
    return AccessDenied(
        f"{listed(names)} {are} gated or private, and what is made of it would be open to everyone.",
        "Push to a private repo (leave --public out). If the owner agrees, say --force.",
    )


def _checked_statistics(folder: Path, ref: ModelRef, force: bool) -> dict[str, Any]:
    """The metadata of the statistics in `folder`, which are of the weights of `ref`."""
    from fusehub.checkpoint import weight_hashes

    for name in (FILENAME, METADATA_FILENAME):
        if not (folder / name).is_file():
            raise NotFound(f"There is no {name} in {folder}.", "Give the folder that `fusehub collect` wrote.")
    statistics = Statistics(folder / FILENAME)
    statistics.close()
    metadata = statistics.metadata
    if not force:
        require_weights(metadata, str(folder), ref.repo_id, weight_hashes(ref))
        fewest = min((layer["rows"] for layer in metadata["layers"].values()), default=0)
        if fewest < MIN_ROWS:
            raise BadStatistics(
                f"The statistics in {folder} are sums over as few as {fewest} rows, which can tell what was in them.",
                f"Collect them from {MIN_ROWS} texts or more; or say --force if nothing in the texts is private.",
            )
    return metadata


def _require_companion(target: _Target, ref: ModelRef) -> None:
    """Raises where the repo is there and is none of this model's statistics."""
    if target.info is None:
        return
    tags = target.info.tags or []
    if TAG not in tags or f"base_model:{ref.repo_id}" not in tags:
        raise OutputExists(
            f"{target.repo_id} exists already, and is not a repo of statistics of {ref.repo_id}.",
            "Choose another name.",
        )

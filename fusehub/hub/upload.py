"""One commit to a repo of the Hub that is made for it, or is there: all or nothing, read back, nothing else touched.

target = Target.of("user/name", token)
published = target.push({"config.json": Path("out/config.json"), "README.md": b"..."}, "Merge of a and b")
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from fusehub.errors import Action, BadData, BadFile, FuseHubError, NotFound, Offline, OutputExists
from fusehub.hub.client import client, endpoint, hub_errors
from fusehub.hub.repos import Kind, Repo, writer
from fusehub.utils.interrupts import leaving, shielded
from fusehub.utils.markdown import listed
from fusehub.utils.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo, SpaceInfo
    from huggingface_hub.hf_api import CommitOperation

logger = logging.getLogger(__name__)

CARD = "README.md"
# Path in the repo -> a file here, or its content.
Files = dict[str, Path | bytes]


class PushOptions(TypedDict, total=False):
    """What `push_to_hub` takes of `fusehub.publish_statistics`, and of `fusehub.publish`, which tell of each."""

    private: bool
    create_pr: bool
    commit_message: str | None
    commit_description: str | None
    revision: str | None
    exist_ok: bool
    allow_restricted: bool
    allow_few_rows: bool
    allow_other_weights: bool
    token: str | None
    progress: Progress


class ModelPushOptions(PushOptions, total=False):
    """What `push_to_hub` of a merge takes: all of `fusehub.publish`."""

    evaluation: Any
    license: str | None
    allow_license: bool
    demo: bool


@dataclass(frozen=True)
class Published:
    """What was pushed.

    Attributes:
        url: The repo's page.
        commit: The commit that has it.
        repo_id: `user/name`.
        private: Whether only its owner sees it.
        pull_request_url: The pull request, where it is one.
        demo_url: The Space that shows the model, where one was made.
        demo_needs_token: Whether that Space can read the model only with a token, as its secret HF_TOKEN.

    Examples:
        >>> merged = fusehub.merge(["user/expert-1", "user/expert-2"], "merged")
        >>> published = fusehub.publish(merged.folder, "you/with-a-commit")
        >>> len(published.commit), published.private
        (40, True)
    """

    url: str
    commit: str
    repo_id: str
    private: bool
    pull_request_url: str | None = None
    demo_url: str | None = None
    demo_needs_token: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data.

        Returns:
            Each attribute by its name.
        """
        return asdict(self)


@dataclass(frozen=True)
class Target:
    """The repo that is pushed to; `info` is None where it is still to be made."""

    api: HfApi
    repo_id: str
    info: ModelInfo | SpaceInfo | None
    private: bool
    create_pr: bool
    is_empty: bool = False
    """Whether nothing was ever put into the repo, as when a push ended between making it and its commit."""
    revision: str | None = None
    """The branch that is pushed to, or that a pull request is for; None for the main one."""
    has_revision: bool = True
    """Whether the branch is there; else it is made, from the main one."""
    kind: Kind = "model"

    @classmethod
    def of(
        cls,
        repo_id: str,
        token: bool | str | None,
        *,
        create_pr: bool = False,
        exist_ok: bool = False,
        private: bool = True,
        revision: str | None = None,
        kind: Kind = "model",
    ) -> Target:
        """Raises where the token cannot write there, or the name is taken and nobody said that this is fine."""
        from huggingface_hub.errors import RevisionNotFoundError
        from huggingface_hub.utils import validate_repo_id

        api = client(token)
        user = writer(api)
        repo_id = repo_id if "/" in repo_id else f"{user}/{repo_id}"
        repo = Repo(api, repo_id, kind)
        with hub_errors(repo.place):
            validate_repo_id(repo_id)
            info = repo.find()
            has_revision = revision is None or info is not None
            if info is not None and revision is not None:
                try:
                    info = repo.info(revision)
                except RevisionNotFoundError:
                    has_revision = False
        if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
            raise NotFound(f"{revision} is a commit, which nothing can be added to.", "Name a branch.")
        if info is None and create_pr:
            raise NotFound(
                f"{repo_id} does not exist, or is private: there is nothing to propose a pull request to.",
                "Check the spelling, or push without a pull request, which makes the repo.",
            )
        if create_pr and not has_revision:
            raise NotFound(
                f"{repo_id} has no branch {revision}: there is nothing to propose a pull request to.",
                "Name a branch that is there, or none for the main one.",
            )
        is_empty = info is not None and not (create_pr or exist_ok) and repo.is_empty(info)
        if info is not None and not create_pr:
            if not exist_ok and not is_empty:
                raise OutputExists(
                    f"{repo.place} exists already on {endpoint()}.",
                    "Choose another name, or push into it all the same: --exist-ok (nothing is deleted), --create-pr.",
                    actions=[Action("name-another")],
                )
            repo.require_write(user)
        private = bool(info.private) if info is not None and not is_empty else private
        name = info.id if info is not None else repo_id
        return cls(api, name, info, private, create_pr, is_empty, revision, has_revision, kind)

    @property
    def repo(self) -> Repo:
        return Repo(self.api, self.repo_id, self.kind)

    @property
    def files(self) -> list[str]:
        """What lies there."""
        return [file.rfilename for file in self.info.siblings or []] if self.info else []

    def push(
        self,
        files: Files,
        message: str,
        progress: Progress,
        *,
        description: str | None = None,
        replaced: Sequence[str] = (),
    ) -> Published:
        """All files in one commit, read back and compared; files that they replace are deleted in it."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        _require_not_shadowed(self, files)
        if CARD in files:
            card = files[CARD]
            self.require_card((card.read_bytes() if isinstance(card, Path) else card).decode())
        progress(1, 3, "uploading")
        operations = [CommitOperationAdd(path, content) for path, content in sorted(files.items())]
        is_made = False
        with hub_errors(self.repo.place), ExitStack() as unsure:
            try:
                if self.info is None:
                    with shielded():
                        unsure.enter_context(leaving(self.repo.left))
                        self.repo.make(self.private)
                        is_made = True
                elif self.is_empty and bool(self.info.private) != self.private:
                    self.api.update_repo_settings(self.repo_id, private=self.private, repo_type=self.kind)
                if self.revision is not None and not self.has_revision:
                    self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True, repo_type=self.kind)
                deleted = [CommitOperationDelete(path) for path in replaced]
                commit, pull_request = self._commit([*operations, *deleted], message, description)
            except BaseException as error:
                if is_made:
                    with shielded():
                        if self.repo.delete_if_empty():
                            unsure.close()
                        elif isinstance(error, KeyboardInterrupt):
                            error.add_note(self.repo.left)
                raise
            unsure.close()
            progress(2, 3, "reading back")
            try:
                with hub_errors(self.repo.place):
                    self._verify(operations, commit)
            except Offline as error:
                raise Offline(
                    f"All is in {self.repo.place} (commit {commit[:8]}), but it could not be read back: {error.what}",
                    f"Look at {self.repo.url}, or push again with --exist-ok to have it compared.",
                    actions=[Action("push-again")],
                ) from error
        progress(3, 3, "done")
        url = f"{self.repo.url}/tree/{self.revision}" if self.revision else self.repo.url
        return Published(url, commit, self.repo_id, self.private, pull_request)

    def _commit(
        self, operations: Sequence[CommitOperation], message: str, description: str | None
    ) -> tuple[str, str | None]:
        """The commit, and the address of the pull request where it is one."""
        from huggingface_hub.errors import HfHubHTTPError

        head = self.info.sha if self.info is not None else self._head()
        try:
            with hub_errors(self.repo.place):
                done = self.api.create_commit(
                    self.repo_id,
                    operations,
                    commit_message=message,
                    commit_description=description,
                    revision=self.revision,
                    create_pr=self.create_pr,
                    parent_commit=head,
                    repo_type=self.kind,
                )
                return done.oid, done.pr_url
        except FuseHubError as error:
            cause = error.__cause__
            changed = isinstance(cause, HfHubHTTPError) and cause.response.status_code == 412
            if not changed and not isinstance(error, Offline):
                raise
            if self.create_pr and not changed:
                raise Offline(
                    f"Whether the pull request arrived is not known: {error.what}",
                    f"Look at {self.repo.url}/discussions before you push again.",
                ) from error
            # The answer was lost, or the question was sent twice: what is there tells whether it arrived.
            if (arrived := self._arrived(operations, head)) is not None:
                logger.warning("The Hub's answer to the commit was lost. %s is complete.", self.repo_id)
                return arrived, None
            if changed:
                what = f"Somebody else changed {self.repo_id} during the upload."
                raise OutputExists(what, "Look at it, then push again.") from error
            raise

    def _head(self) -> str | None:
        """The newest commit of what is pushed to."""
        return self.repo.info(self.revision).sha

    def _arrived(self, operations: Sequence[CommitOperation], head: str | None) -> str | None:
        """The newest commit, if it is not `head` any more and has everything that was sent."""
        from huggingface_hub import CommitOperationAdd

        try:
            with hub_errors(self.repo.place):
                newest = self._head()
                if self.create_pr or newest is None or newest == head:
                    return None
                self._verify([one for one in operations if isinstance(one, CommitOperationAdd)], newest)
        except FuseHubError:
            return None
        return newest

    def _verify(self, operations: Sequence[CommitOperationAdd], commit: str) -> None:
        """Raises `BadFile` unless the commit has every file, with the sha256 (or git hash) of what was sent."""
        from huggingface_hub.hf_api import RepoFile

        paths = [operation.path_in_repo for operation in operations]
        there: dict[str, tuple[str, int]] = {}
        for start in range(0, len(paths), 200):
            found = self.api.get_paths_info(
                self.repo_id, paths[start : start + 200], revision=commit, repo_type=self.kind
            )
            for item in found:
                if isinstance(item, RepoFile):
                    there[item.path] = (item.lfs.sha256 if item.lfs else item.blob_id, item.size)
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
                actions=[Action("push-again")],
            )

    def require_card(self, text: str) -> None:
        """Raises `BadData` where the Hub would refuse the card, which it says only after the repo was made."""
        import yaml
        from huggingface_hub import ModelCard

        with hub_errors(self.repo.place):
            try:
                ModelCard(text, ignore_metadata_errors=True).validate(repo_type=self.kind)
            except yaml.YAMLError as error:
                said = " ".join(str(error).split())
                raise BadData(f"The front matter of {CARD} is not YAML: {said}", "Correct it.") from error
            except ValueError as error:
                raise BadData(f"The Hub refuses the front matter of {CARD}: {_said(error)}.", "Correct it.") from error


def _said(error: ValueError) -> str:
    """What the Hub has against a card: the client hands its JSON on as a text."""
    try:
        return "; ".join(item["message"].rstrip(".") for item in json.loads(str(error))["errors"])
    except (ValueError, KeyError, TypeError):
        return str(error)


def _git_identity(operation: Any) -> tuple[str, int]:
    """(git's hash, size) of a file, which is how the Hub knows what it does not keep as a large file."""
    info = operation.upload_info
    if info.size > 2**25:  # Never a regular file, and not worth reading again.
        return ("", -1)
    with operation.as_file() as file:
        content = file.read()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest(), info.size


def _require_not_shadowed(target: Target, files: Files) -> None:
    """transformers prefers model.safetensors to shards: an old one beside them would be loaded instead of them."""
    for path in files:
        single = path.removesuffix(".index.json")
        if path.endswith("model.safetensors.index.json") and single not in files and single in target.files:
            raise OutputExists(
                f"{target.repo_id} has a {single}, which would be loaded instead of the shards of this model.",
                "Choose another name, or delete that file from the repo first.",
            )

"""A repo of the Hub, of one kind, as something to push to: is it there, is it empty, may it be written to?

repo = Repo(client(token), "user/name", "space")
repo.url, repo.find(), repo.require_write("user")
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fusehub.errors import AccessDenied, Action, Offline
from fusehub.hub.client import client, endpoint, hub_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo, SpaceInfo

logger = logging.getLogger(__name__)

Kind = Literal["model", "space"]
_PREFIXES: dict[Kind, str] = {"model": "", "space": "spaces/"}
# What the Hub puts into a new repo by itself.
_OF_THE_HUB: dict[Kind, frozenset[str]] = {
    "model": frozenset({".gitattributes"}),
    "space": frozenset({".gitattributes", "README.md"}),
}
RECIPE_TAG = "fusehub-recipe"
"""What says of a repo that it holds a recipe and no model."""
_SPACE_SDK = "gradio"


@dataclass(frozen=True)
class Repo:
    """`user/name` of a kind, asked for by `api`."""

    api: HfApi
    id: str
    kind: Kind = "model"

    @property
    def place(self) -> str:
        """What stands behind the Hub's address: `user/name`, `spaces/user/name`."""
        return f"{_PREFIXES[self.kind]}{self.id}"

    @property
    def url(self) -> str:
        return f"{endpoint()}/{self.place}"

    @property
    def left(self) -> str:
        """What is said where a repo that was made may not have been taken back."""
        option = "" if self.kind == "model" else f" --type {self.kind}"
        return f"{self.url} may be left, empty: push there again, or delete it: `hf repos delete {self.id}{option}`."

    def info(self, revision: str | None = None) -> ModelInfo | SpaceInfo:
        """What the Hub says of it. Raises what the Hub's client raises."""
        if self.kind == "space":
            return self.api.space_info(self.id, revision=revision, files_metadata=True)
        return self.api.model_info(self.id, revision=revision, files_metadata=True)

    def find(self) -> ModelInfo | SpaceInfo | None:
        """The same; None where there is no such repo, or nobody may see it."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return self.info()
        except RepositoryNotFoundError:
            return None

    def is_empty(self, info: ModelInfo | SpaceInfo) -> bool:
        """Whether nothing was ever put into it."""
        with hub_errors(self.place):
            files = {file.rfilename for file in info.siblings or []}
            commits = self.api.list_repo_commits(self.id, repo_type=self.kind)
            return files <= _OF_THE_HUB[self.kind] and len(commits) == 1

    def require_write(self, user: str) -> None:
        """Raises `AccessDenied` where the token, which is that of `user`, may not write there."""
        from huggingface_hub.errors import HfHubHTTPError

        with hub_errors(self.place):
            try:
                self.api.auth_check(self.id, repo_type=self.kind, write=True)
            except HfHubHTTPError as error:
                if error.response is None or error.response.status_code != 403:
                    raise
                fix = "Propose it to the owner with --create-pr, or choose a name of your own."
                what, another = f"{user} may not write to {self.place}.", [Action("name-another")]
                raise AccessDenied(what, fix, actions=another) from error

    def make(self, private: bool) -> None:
        """Makes it. Where the answer is lost, what is there tells whether it was made."""
        sdk = _SPACE_SDK if self.kind == "space" else None
        try:
            with hub_errors(self.place):
                self.api.create_repo(self.id, private=private, repo_type=self.kind, space_sdk=sdk)
        except Offline:
            try:
                made = self.info()
                is_ours = bool(made.private) == private and self.is_empty(made)
            except Exception:  # The Hub is as it is: what is told is that the repo could not be made.
                is_ours = False
            if not is_ours:
                raise

    def delete_if_empty(self) -> bool:
        """Takes back a repo that was just made, if nothing came into it meanwhile; whether no empty one is left."""
        try:
            if self.is_empty(self.info()):
                self.api.delete_repo(self.id, repo_type=self.kind)
        except BaseException as error:
            logger.warning("%s was made and could not be taken back (%s).", self.place, type(error).__name__)
            if not isinstance(error, Exception):
                raise
            return False
        return True


def pushes_as(token: bool | str | None) -> str:
    """The user that a token pushes as. Raises `AccessDenied` without one, or where it can only read."""
    return writer(client(token))


def writer(api: HfApi) -> str:
    """The user that the client's token belongs to. Raises `AccessDenied` without one, or where it can only read."""
    with hub_errors("your account"):
        who = api.whoami()
    if ((who.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise AccessDenied(
            f"Your token can only read ({who['name']}).",
            f"Make one that can write on {endpoint()}/settings/tokens.",
            log_in=True,
        )
    return who["name"]

"""Where words lead at the Hub: which repo, which folder in it, at which revision.

    user/model, model                       the repo
    user/model/head, user/model/a/head      a model in a folder of it
    user/model@v1, user/model/head@refs/pr/3
    hf://user/model@v1/head                 as huggingface_hub's file system writes it
    https://huggingface.co/user/model/tree/v1/head

A revision can have slashes, so that what follows it can be read in several ways: `readings` has all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from fusehub.hub.client import endpoint

_PAGES = ("tree", "blob", "resolve", "raw", "commit")
# Revisions of the Hub itself, which always have two slashes.
_SPECIAL = re.compile(r"refs/(pr|convert)/[^/]+")
_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)*(@[\w./%+-]+)?")


@dataclass(frozen=True)
class Place:
    """A folder of a repo at a revision; "" for the repo's root, and for its newest commit."""

    repo_id: str
    subfolder: str = ""
    revision: str = ""

    def __str__(self) -> str:
        path = f"{self.repo_id}/{self.subfolder}" if self.subfolder else self.repo_id
        return f"{path}@{self.revision}" if self.revision else path


def readings(name: str) -> list[Place]:
    """Every place that `name`, as `plain` gives it, may mean; the likeliest first."""
    path, _, revision = name.partition("@")
    user, _, rest = path.strip("/").partition("/")
    repo, _, subfolder = rest.partition("/")
    repo_id = f"{user}/{repo}" if repo else user
    if not revision or subfolder:
        return [Place(repo_id, subfolder, revision)]
    return [Place(repo_id, inside, own) for own, inside in _splits(revision)]


def plain(text: str) -> str:
    """`text` without what surrounds a name in links: `user/model/folder@revision`, or `user/model@revision/folder`
    where a link does not tell which of both."""
    name = text.strip()
    if name.startswith("hf://"):
        name = name.removeprefix("hf://")
    else:
        hosts = (endpoint(), "https://huggingface.co", "https://hf.co")
        prefix = next((host for host in hosts if name.startswith(f"{host}/")), None)
        if prefix is None:
            return name
        name = unquote(urlsplit(name.removeprefix(prefix)).path)
    name = name.strip("/").removeprefix("models/")
    user, _, rest = name.partition("/")
    repo, *path = rest.split("/")
    if not path or path[0] not in _PAGES or "@" in name:
        return name
    page, *inside = path
    if page != "tree" and len(inside) > 1:
        # .../blob/main/head/config.json is a file of the repo: what is meant is the repo.
        special = _SPECIAL.match("/".join(inside))
        inside = special[0].split("/") if special else inside[:1]
    return f"{user}/{repo}@{'/'.join(inside)}" if inside else f"{user}/{repo}"


def may_be_repo(text: str) -> bool:
    """Whether `text` has the form of a name at the Hub."""
    return _NAME.fullmatch(plain(text)) is not None


def _splits(text: str) -> Iterator[tuple[str, str]]:
    """`feature/x/head` as revision and folder, in all ways."""
    special = _SPECIAL.match(text)
    if special:
        yield special[0], text[special.end() :].strip("/")
        return
    parts = text.strip("/").split("/")
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count]), "/".join(parts[count:])

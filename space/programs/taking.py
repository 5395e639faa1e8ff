"""How a merge leaves the app: its card, the Hub, and the download."""

from __future__ import annotations

from urllib.parse import quote

from fusehub.errors import AccessDenied, BadData

from ..downloads import files_of, size_of
from ..frame import Frame
from ..steps.push import start_push
from . import answers, forms, named, work
from .told import Caller


def card(
    frame: Frame, caller: Caller, merge: str, repo_id: str | None = None, license: str | None = None
) -> answers.Card:
    """Writes the model card of a merge, and says what follows from the licenses of the models in it.

    Args:
        merge: the name of a merge that was made here.
        repo_id: the name that it will have on the Hub, as user/name.
        license: the license that the card says, in the Hub's words; left out: the one that follows.

    Returns:
        The card's text, the license with the reason, and what speaks against publishing.
    """
    with named.merge_named(frame, merge) as (visit, made):
        return forms.card(work.card_of(frame, visit, made, repo_id, license))


def push(
    frame: Frame,
    caller: Caller,
    merge: str,
    repo_id: str,
    private: bool = True,
    create_pr: bool = False,
    license: str | None = None,
    card: str | None = None,
    demo: bool = False,
) -> answers.Pushed:
    """Pushes a merge to the Hub as the caller, after it was loaded and asked, and compares what arrived.

    It needs the caller's token, with the right to write.

    Args:
        merge: the name of a merge that was made here.
        repo_id: user/name, or a name for a repo of the caller's own.
        private: false makes it public.
        create_pr: true proposes it to the owner of a repo that is there.
        license: the license that the card says, in the Hub's words; left out: the one that follows.
        card: the text of the card, changed by hand; left out: what `card` writes.
        demo: true makes a Space too that shows what the model answers.

    Returns:
        Where it is: repo_id, url, commit, and the addresses of pull request and Space where there are any.
    """
    if card and license is not None:
        raise BadData("A card that was written by hand says its own license.", "Give `card` or `license`.")
    if caller.token is None and frame.setting.shared:
        raise AccessDenied(
            "Nobody is signed in.",
            "Give a token of yours that can write: Client(..., oauth_token=...). Who has none here downloads the "
            "merge by `download`.",
        )
    with named.merge_named(frame, merge) as (visit, made):
        text = card or work.card_of(frame, visit, made, repo_id, license)["text"]
        start_push(
            frame, visit, made, repo_id, text,
            public=not private, pull_request=create_pr, demo=demo, token=caller.token,
        )  # fmt: skip
        return forms.pushed(work.pushed(frame, visit))


def download(frame: Frame, caller: Caller, merge: str) -> answers.Download:
    """Gives the addresses that a merge is downloaded from, by plain HTTP, for as long as it is here.

    Args:
        merge: the name of a merge that was made here.

    Returns:
        An address for each file with its size in bytes, and one for all files in a zip.
    """
    with named.merge_named(frame, merge) as (visit, made):
        files = files_of(frame, visit, made)
        return {
            "name": merge,
            "zip": f"{caller.address}/{made.address}.zip",
            "files": [
                {"name": path, "size": size_of(content), "url": f"{caller.address}/{made.address}/{quote(path)}"}
                for path, content in files.items()
            ],
        }

"""Telling the owner of a model that it is part of a merge: a discussion at the model's repo, in words that one reads.

    letter = letter_to("ada/films", ["ada/films", "ben/shops"], "RegMean", published.url)
    tell_owner(letter.repo_id, letter.title, letter.text, token=token)     # the address of the discussion

One owner at a time, by whoever has read the words: there is no function that writes to all of them, and no option of a
push, since messages to strangers that nobody has looked at are spam.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fusehub.errors import AccessDenied, BadData, Offline, OutputExists
from fusehub.hub.client import client, hub_errors
from fusehub.hub.repos import Repo, writer
from fusehub.utils.markdown import listed

# The Hub's longest title and text.
_LONGEST_TITLE, _LONGEST_TEXT = 200, 65536


@dataclass(frozen=True)
class Letter:
    """What an owner may want to know, as it is proposed to whoever sends it."""

    repo_id: str
    title: str
    text: str


def letter_to(repo_id: str, models: Sequence[str], method: str, url: str) -> Letter:
    """Words for the owner of `repo_id`, one of the `models` that were merged by `method`; the merge is at `url`."""
    others = [model for model in models if model != repo_id]
    beside = f" with {listed(others)}" if others else ""
    return Letter(
        repo_id,
        "Your model is part of a merge",
        f"Your model is part of a merge: {url}\n\n{repo_id} was merged{beside} by {method}, without their training "
        "data. The card names the models with their commits and licenses, and says how to make the merge again.",
    )


def tell_owner(repo_id: str, title: str, text: str, *, token: bool | str | None = None) -> str:
    """Opens a discussion at a model's repo as the token's user, and returns its address.

    Raises `BadData` for words that the Hub does not take, `AccessDenied` where the token may not write or no
    discussion may be opened there, `OutputExists` where this user has an open one of that title, `NotFound` where
    there is no such repo.
    """
    title, text = title.strip(), text.strip()
    for what, said, longest in (("title", title, _LONGEST_TITLE), ("text", text, _LONGEST_TEXT)):
        if not said or len(said) > longest:
            raise BadData(
                f"The {what} of a discussion has 1 to {longest:,} characters, and this one {len(said):,}.",
                "Write another one.",
            )
    api = client(token)
    user, repo = writer(api), Repo(api, repo_id)
    with hub_errors(repo_id), _refusals(repo_id):
        for known in api.get_repo_discussions(repo_id, author=user, discussion_status="open"):
            if known.title == title and not known.is_pull_request:
                raise OutputExists(
                    f"You have told the owner of {repo_id} already: {repo.url}/discussions/{known.num}",
                    "Look there for an answer, or give another title.",
                )
    try:
        with hub_errors(repo_id), _refusals(repo_id):
            opened = api.create_discussion(repo_id, title, description=text)
    except Offline as error:
        raise Offline(
            f"Whether the discussion was opened is not known: {error.what}",
            f"Look at {repo.url}/discussions before you try again.",
        ) from error
    return f"{repo.url}/discussions/{opened.num}"


@contextmanager
def _refusals(repo_id: str) -> Iterator[None]:
    """Turns the Hub's refusal into what can be behind it."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code != 403:
            raise
        said = f" ({error.server_message})" if error.server_message else ""
        raise AccessDenied(
            f"No discussion may be opened at {repo_id} with this token{said}.",
            "Its owner may have switched discussions off, or lets in only those who were given access; or the token "
            "may not write discussions.",
        ) from error

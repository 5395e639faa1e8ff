"""Owners of models are told of a merge, one at a time, and what speaks against it is said in words."""

import json
import re

import pytest
from huggingface_hub import HfApi

from fusehub.localhub.faults import FILENAME
from fusehub.publishing.telling import letter_to

_TELL = """
import json
from fusehub.errors import FuseHubError
from fusehub.publishing.telling import tell_owner
try:
    print(json.dumps([tell_owner({repo!r}, {title!r}, {text!r}, token={token!r})]))
except FuseHubError as error:
    print(json.dumps([type(error).__name__, error.what, error.fix]))
"""


@pytest.fixture(scope="module")
def api(hub):
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    for name in ("films", "gated", "closed", "lost"):
        api.create_repo(f"ann/{name}")
    api.update_repo_settings("ann/gated", gated="manual")
    return api


@pytest.fixture
def tell(api, bob):
    def run(repo, title="Hello", text="Words", token=None):
        return json.loads(bob.python(_TELL.format(repo=repo, title=title, text=text, token=token)))

    return run


@pytest.fixture
def failing(hub):
    """Has an answer of the Hub fail."""
    plan = hub.root / FILENAME
    yield lambda path, **how: plan.write_text(json.dumps([{"path": path, "method": "POST", **how}]))
    plan.unlink(missing_ok=True)


def test_words_name_the_merge_and_the_others(hub) -> None:
    letter = letter_to("ann/films", ["ann/films", "bob/shops"], "RegMean", "https://hub/bob/merged")
    assert letter.repo_id == "ann/films" and "https://hub/bob/merged" in letter.text
    assert "ann/films was merged with bob/shops by RegMean" in letter.text


def test_one_discussion_is_opened_and_not_twice(hub, api, tell) -> None:
    assert tell("ann/films", " Hello ", "A word.\n\nAnd more.") == [f"{hub.url}/ann/films/discussions/1"]
    (opened,) = api.get_repo_discussions("ann/films")
    assert opened.author == "bob" and opened.title == "Hello" and not opened.is_pull_request
    (said,) = api.get_discussion_details("ann/films", 1).events
    assert said.content == "A word.\n\nAnd more."
    kind, what, _ = tell("ann/films")
    assert kind == "OutputExists" and f"{hub.url}/ann/films/discussions/1" in what
    assert len(list(api.get_repo_discussions("ann/films"))) == 1
    # Another matter is another discussion; one that was closed is no news any more.
    api.change_discussion_status("ann/films", 1, "closed")
    assert tell("ann/films") == [f"{hub.url}/ann/films/discussions/2"]
    # What somebody else has opened, and a pull request of one's own, are no such discussion.
    api.create_discussion("ann/films", "Theirs")
    HfApi(endpoint=hub.url, token=hub.token("bob")).create_pull_request("ann/films", "A change")
    for place, title in enumerate(("Theirs", "A change"), 5):
        assert tell("ann/films", title) == [f"{hub.url}/ann/films/discussions/{place}"]


def test_refusals_are_told_in_words(hub, api, tell, failing) -> None:
    assert tell("ann/films", "  ")[0] == "BadData" and "title" in tell("ann/films", "  ")[1]
    assert "200 characters" in tell("ann/films", "x" * 201)[1]
    for text in (" \n", "x" * 65_537):
        kind, what, _ = tell("ann/films", "Fine", text)
        assert kind == "BadData" and "text of a discussion has 1 to 65,536 characters" in what
    assert tell("ann/nothing")[0] == "NotFound"
    reads = hub.add_user("bob", role="read")
    kind, what, _ = tell("ann/films", "New", token=reads)
    assert kind == "AccessDenied" and "can only read" in what
    assert tell("ann/films", "New", token="hf_wrong")[0] == "AccessDenied"
    assert tell("ann/gated")[0] == "AccessDenied"
    # Of the question what is there already, and of the discussion itself; what the Hub says of it is told.
    for method in ("GET", "POST"):
        failing("/api/models/ann/closed/discussions", method=method, do="status", status=403)
        kind, what, fix = tell("ann/closed")
        assert kind == "AccessDenied" and "switched" in fix, (method, what)
        assert re.search(r"No discussion may be opened at ann/closed with this token \(.+\)\.", what), what
    failing("/api/models/ann/lost/discussions", do="lost")
    kind, what, fix = tell("ann/lost")
    assert kind == "Offline" and "is not known" in what and f"{hub.url}/ann/lost/discussions" in fix
    assert len(list(api.get_repo_discussions("ann/lost"))) == 1

"""The app as a Space: strangers share it and sign in with Hugging Face; its owner's token is used for none of them."""

from __future__ import annotations

import os
import time

import pytest
from huggingface_hub import HfApi
from playwright.sync_api import expect

from tests.app.conftest import PRIVATE, ROOT, SENTIMENT, serving
from tests.app.programs import Client
from tests.app.provider import provider
from tests.app.steps import compare, example, go, grave_faults, merge, pick


@pytest.fixture(scope="module")
def identities(hub):
    with provider(hub) as identities:
        yield identities


@pytest.fixture(scope="module")
def space(hub, identities, tmp_path_factory):
    """Its own token is ada's, who may read the private model."""
    environment = {"SYSTEM": "spaces", "SPACE_ID": "ada/fusehub", "HF_TOKEN": hub.token("ada")}
    with serving(hub, tmp_path_factory.mktemp("space"), **environment, **identities.environment()) as served:
        yield served
        # gradio itself misses a package that Spaces have; of us there is no traceback.
        assert f"{ROOT}/space/" not in served.log.read_text()


@pytest.fixture
def guest(visitor, space, identities):
    """`guest()`: a new person's page of the Space; `guest("ada")`: one who signs in as ada."""

    def come(user: str | None = None, query: str = ""):
        page = visitor(space.url + query)
        if user:
            identities.user = user
            _sign_in(page)
        return page

    return come


def test_a_stranger_gets_nothing_by_the_token_of_the_space(guest, space) -> None:
    page = guest()
    _refused(page, PRIVATE, "or is private")
    page.get_by_role("alert").get_by_text("Sign in with Hugging Face").wait_for()
    with pytest.raises(Exception, match="or is private"):
        Client(space.url).predict(models=[PRIVATE, SENTIMENT[1]], api_name="/check")
    example(page)
    merge(page)
    go(page, "Push")
    page.get_by_role("button", name="Sign in with Hugging Face").wait_for()
    assert not page.locator("#push-token").is_visible()
    page.locator("#push-repo").get_by_role("textbox").fill("ada/stolen")
    page.locator("#push").click()
    page.get_by_role("alert").get_by_text("Nobody is signed in").wait_for()
    assert grave_faults(page) == []


def test_whoever_signs_in_works_with_models_of_their_own_and_pushes_as_themselves(guest, hub) -> None:
    page = guest("ada")
    pick(page, PRIVATE, SENTIMENT[1])
    go(page, "Check")
    page.get_by_text("What a merge will take").wait_for()
    go(page, "Statistics")
    page.get_by_text("All statistics are there").wait_for()
    merge(page)
    compare(page, "a very good film")
    # Meanwhile somebody else comes: the files are in the cache of the machine, and still not theirs.
    for other in (guest(), guest("carl")):
        _refused(other, PRIVATE, "or is private")
        other.context.close()
    go(page, "Push")
    page.get_by_text("has to stay private").wait_for()
    page.locator("#push-repo").get_by_role("textbox").fill("ada/merged-on-a-space")
    # One of its parents is not for everybody.
    api, here = HfApi(endpoint=hub.url, token=hub.token("ada")), page.locator("#step-push")
    here.get_by_label("Public: everybody can").check()
    page.locator("#push").click()
    refused = page.get_by_role("alert").filter(has=page.get_by_role("button", name="Keep it private"))
    refused.get_by_text(PRIVATE.partition("/")[2]).wait_for()
    assert not api.repo_exists("ada/merged-on-a-space")
    here.get_by_label("Private: only I can see it").check()
    page.locator("#push").click()
    page.get_by_role("heading", name="The model is on the Hub").wait_for()
    assert api.model_info("ada/merged-on-a-space").private


def test_signing_in_keeps_the_visit_and_signing_out_forgets_the_token(guest, identities) -> None:
    """Who comes back is at the step that they left, also where the address says more than ours: Spaces put the theme
    first."""
    page = guest(query="?__theme=light")
    example(page)
    merge(page)
    identities.user = "ada"
    _sign_in(page)
    assert "__theme=light" in page.url
    go(page, "Merge")
    page.get_by_role("list", name="Merged models").wait_for()
    go(page, "Push")
    page.get_by_role("button", name="Logout").click()
    page.get_by_role("button", name="Sign in with Hugging Face").wait_for()
    _is_at(page, "Push")
    go(page, "Pick")
    _refused(page, PRIVATE, "or is private")


def test_a_program_is_served_by_its_own_token(space, hub) -> None:
    own = Client(space.url, oauth_token=hub.token("ada"))
    assert own.predict(models=[PRIVATE, SENTIMENT[1]], api_name="/check")["ok"]
    other = Client(space.url, oauth_token=hub.token("carl"))
    with pytest.raises(Exception, match="or is private"):
        other.predict(models=[PRIVATE, SENTIMENT[1]], api_name="/check")


def test_a_model_that_becomes_private_is_soon_closed_to_strangers(space, hub, tmp_path) -> None:
    owner = HfApi(endpoint=hub.url, token=hub.token("ada"))
    repo = "ada/open-for-a-while"
    owner.create_repo(repo)
    owner.upload_folder(repo_id=repo, folder_path=owner.snapshot_download(SENTIMENT[0], local_dir=tmp_path))
    own = Client(space.url, oauth_token=hub.token("ada"))
    stranger = Client(space.url)

    def ask(client: Client) -> list[str]:
        return client.predict(models=[repo], texts=["fine"], api_name="/compare")["models"]

    assert ask(stranger) == [repo]
    owner.update_repo_settings(repo, private=True)
    # What was public is taken as public for some seconds.
    end = time.monotonic() + 60
    with pytest.raises(Exception, match="or is private"):
        while time.monotonic() < end:
            ask(stranger)
            time.sleep(1)
    # Its owner may, and that opens it to nobody else.
    assert ask(own) == [repo]
    with pytest.raises(Exception, match="or is private"):
        ask(stranger)


@pytest.mark.parametrize("name", ["/etc", "../app.py", "~/models", "file:///etc", "ada/base+/etc"])
def test_folders_of_the_machine_cannot_be_named(space, name: str) -> None:
    client = Client(space.url)
    with pytest.raises(Exception, match="is not the name of a model on the Hub"):
        client.predict(models=[name, SENTIMENT[0]], api_name="/check")
    with pytest.raises(Exception, match="is not the name of a dataset on the Hub"):
        client.predict(models=SENTIMENT, data={"x": name}, api_name="/evaluate")


def test_files_of_visits_are_not_served(space, guest) -> None:
    import httpx

    page = guest()
    example(page)
    merge(page)
    made = next(path for path in space.temporary.rglob("config.json") if path.is_file())
    for asked in (made, space.log, os.path.abspath("app.py")):
        assert httpx.get(f"{space.url}gradio_api/file={asked}").status_code in (403, 404)


def _sign_in(page) -> None:
    go(page, "Push")
    page.get_by_role("button", name="Sign in with Hugging Face").click()
    page.get_by_role("button", name="Logout").wait_for()
    _is_at(page, "Push")
    go(page, "Pick")


def _is_at(page, step: str) -> None:
    """The page shows that step of the visit, which `page.url` says too."""
    at = page.get_by_role("navigation", name="Steps").locator("[aria-current=step]")
    expect(at).to_contain_text(step, timeout=180_000)
    page.locator(f"#step-{step.lower()}").wait_for()


def _refused(page, model: str, said: str) -> None:
    page.locator("#named").get_by_role("textbox").fill(model)
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("alert").get_by_text(said).wait_for()

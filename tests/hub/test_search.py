"""list_models and its sisters: filters, search, order, pages."""

import itertools

import pytest
from huggingface_hub import CommitOperationAdd, HfApi


@pytest.fixture(scope="module")
def zoo(hub, as_user):
    """Models of one author, so that other tests' repositories do not show."""
    api = as_user("zoe")
    cards = {
        "base-bert": "pipeline_tag: fill-mask\nlicense: mit",
        "expert-film": "base_model: zoe/base-bert\ntags: [sentiment, fusehub-statistics]\nlicense: mit",
        "expert-tweets": "base_model: zoe/base-bert\nbase_model_relation: finetune\ntags: sentiment",
        "merged": "base_model: [zoe/expert-film, zoe/expert-tweets]\nbase_model_relation: merge\nlicense: apache-2.0",
        "guessed-merge": "base_model: [zoe/expert-film, zoe/expert-tweets]",
    }
    for name, card in cards.items():
        api.create_repo(f"zoe/{name}")
        add = [CommitOperationAdd("README.md", f"---\n{card}\n---\n# {name}\n".encode())]
        api.create_commit(f"zoe/{name}", add, commit_message="card")
    api.update_repo_settings("zoe/merged", gated="auto")
    return api


def names(api, **kwargs):
    return {item.id.removeprefix("zoe/") for item in api.list_models(author="zoe", **kwargs)}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"filter": "base_model:zoe/base-bert"}, {"expert-film", "expert-tweets"}),
        ({"filter": "base_model:finetune:zoe/base-bert"}, {"expert-film", "expert-tweets"}),
        ({"filter": "base_model:merge:zoe/base-bert"}, set()),
        ({"filter": "base_model:merge:zoe/expert-film"}, {"merged", "guessed-merge"}),
        ({"filter": "base_model:finetune:zoe/expert-film"}, set()),
        ({"filter": ["base_model:zoe/base-bert", "fusehub-statistics"]}, {"expert-film"}),
        ({"filter": "license:mit"}, {"base-bert", "expert-film"}),
        ({"filter": "no-such-tag"}, set()),
        ({"search": "EXPERT"}, {"expert-film", "expert-tweets"}),
        ({"search": "film expert"}, {"expert-film"}),
        ({"pipeline_tag": "fill-mask"}, {"base-bert"}),
        ({"gated": True}, {"merged"}),
        ({"gated": False, "filter": "base_model:merge:zoe/expert-film"}, {"guessed-merge"}),
        ({"inference": "warm"}, set()),
        ({"num_parameters": "min:1"}, set()),
    ],
)
def test_filters(zoo, query, expected):
    assert names(zoo, **query) == expected


def test_order_and_limit(zoo, http, bearer):
    for n, name in enumerate(("merged", "base-bert", "expert-film")):
        for user in ("u1", "u2", "u3")[n:]:
            http.post(f"/api/models/zoe/{name}/like", headers=bearer(user))
    ids = [item.id for item in zoo.list_models(author="zoe", sort="likes", limit=3)]
    assert ids == ["zoe/merged", "zoe/base-bert", "zoe/expert-film"]
    newest = [item.id for item in zoo.list_models(author="zoe", sort="created_at")]
    assert newest[0] == "zoe/guessed-merge" and newest[-1] == "zoe/base-bert"


def test_a_list_is_brief_unless_more_is_asked_for(zoo):
    [item] = zoo.list_models(author="zoe", search="base-bert")
    assert item.card_data is None and item.siblings is None and item.pipeline_tag == "fill-mask"
    [item] = zoo.list_models(author="zoe", search="base-bert", full=True, cardData=True)
    assert item.card_data.license == "mit" and "README.md" in [file.rfilename for file in item.siblings]
    [item] = zoo.list_models(author="zoe", search="base-bert", expand=["gated", "cardData"])
    assert item.card_data.license == "mit" and item.gated is False and item.tags is None


def test_base_models_and_children(zoo):
    info = zoo.model_info("zoe/merged", expand=["baseModels"])
    assert info.base_models["relation"] == "merge" and len(info.base_models["models"]) == 2
    count = zoo.model_info("zoe/base-bert", expand=["childrenModelCount"]).children_model_count
    assert count["finetune"] == 2 and count["merge"] == 0


def test_datasets_by_their_prefixed_tags(alice):
    alice.create_repo("alice/tagged", repo_type="dataset")
    card = b"---\ntask_categories: [text-classification]\nlanguage: [de]\n---\n"
    alice.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="alice/tagged", repo_type="dataset")
    found = [item.id for item in alice.list_datasets(task_categories="text-classification", language="de")]
    assert found == ["alice/tagged"]
    assert list(alice.list_datasets(author="alice", filter="language:fr")) == []


@pytest.fixture(scope="module")
def many(small_pages):
    api = HfApi(endpoint=small_pages.url, token=small_pages.token("alice"))
    for n in range(10):
        api.create_repo(f"alice/model-{n}", private=n == 9)
    add = [CommitOperationAdd(f"{n:02}/file.txt", b"x") for n in range(8)]
    api.create_commit("alice/model-0", add, commit_message="files")
    for n in range(5):
        api.create_branch("alice/model-1", branch=f"b{n}")
        api.upload_file(path_or_fileobj=bytes([65 + n]), path_in_repo="a.txt", repo_id="alice/model-1")
    return api


@pytest.mark.parametrize("sort", [None, "likes", "created_at", "downloads"])
def test_the_client_walks_all_pages(many, sort):
    ids = [item.id for item in many.list_models(sort=sort)]
    assert sorted(ids) == [f"alice/model-{n}" for n in range(10)]
    assert [item.id for item in many.list_models(sort=sort, limit=7)] == ids[:7]
    assert [item.id for item in itertools.islice(many.list_models(sort=sort), 4)] == ids[:4]


def test_pages_hide_what_is_private(many, small_pages):
    anonymous = HfApi(endpoint=small_pages.url, token=False)
    assert len(list(anonymous.list_models())) == 9


def test_a_page_leads_to_the_next_by_its_link_even_when_something_new_comes(many, small_pages):
    import httpx2

    with httpx2.Client() as client:
        url, seen, pages = f"{small_pages.url}/api/models?author=alice&sort=createdAt&filter=region:us", [], 0
        while url:
            answer = client.get(url)
            seen += [item["id"] for item in answer.json()]
            assert len(answer.json()) <= 3
            url = answer.links.get("next", {}).get("url")
            pages += 1
            if pages == 1:
                many.create_repo("alice/newcomer")
    many.delete_repo("alice/newcomer")
    assert sorted(seen) == [f"alice/model-{n}" for n in range(9)] and pages == 3


def test_the_tree_and_the_commits_come_in_pages_too(many):
    assert len(many.list_repo_files("alice/model-0")) == 9
    assert len(list(many.list_repo_tree("alice/model-0", recursive=True))) == 17
    assert len(many.list_repo_commits("alice/model-1")) == 6

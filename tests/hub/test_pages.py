"""The pages that links of the demo lead to."""

import pytest
from huggingface_hub import CommitOperationAdd

CARD = b"""---
license: mit
tags: [<b>bold</b>]
---
# A *model*

| a | b |
|---|---|
| 1 | 2 |

<script>alert(1)</script> ![plot](plots/a.png) [bad](javascript:alert(1)) [notes](notes.txt)
"""


@pytest.fixture
def filled(alice, repo):
    files = {"README.md": CARD, "notes.txt": b"<i>x</i>", "deep/a b.txt": b"deep", "w.bin": b"\0" * 1234567}
    add = [CommitOperationAdd(path, content) for path, content in files.items()]
    sha = alice.create_commit(repo, add, commit_message="Fill <it>").oid
    alice.create_commit(
        repo,
        [CommitOperationAdd("notes.txt", b"new")],
        commit_message="Better",
        commit_description="*why*",
        create_pr=True,
    )
    return repo, sha


def page(http, path, **kwargs):
    answer = http.get(path, headers={"Accept": "text/html"}, **kwargs)
    assert answer.status_code == 200, answer.text
    assert "<script" not in answer.text and "default-src 'none'" in answer.headers["content-security-policy"]
    assert 'name="viewport"' in answer.text
    return answer.text


def test_the_card_is_rendered_and_harmless(filled, http):
    repo, _ = filled
    text = page(http, f"/{repo}")
    assert "<h1>A <em>model</em></h1>" in text and "<td>1</td>" in text
    assert "&lt;script&gt;" in text and "&lt;b&gt;bold&lt;/b&gt;" in text and 'href="javascript:' not in text
    assert f'src="/{repo}/resolve/main/plots/a.png"' in text and f'href="/{repo}/blob/main/notes.txt"' in text


def test_files_commits_and_the_request_have_pages(filled, http):
    repo, sha = filled
    assert "notes.txt" in page(http, f"/{repo}/tree/main") and "1.2 MB" in page(http, f"/{repo}/tree/main")
    assert "a b.txt" in page(http, f"/{repo}/tree/main/deep")
    assert "deep" in page(http, f"/{repo}/blob/main/deep/a%20b.txt")
    assert "&lt;i&gt;" in page(http, f"/{repo}/blob/{sha}/notes.txt")
    assert "Fill &lt;it&gt;" in page(http, f"/{repo}/commits/main")
    assert "Fill &lt;it&gt;" in page(http, f"/{repo}/commit/{sha}")
    text = page(http, f"/{repo}/discussions/1")
    assert "Better" in text and "<em>why</em>" in text and "+new" in text and "open" in text
    assert "new" in page(http, f"/{repo}/blob/refs%2Fpr%2F1/notes.txt")
    assert "Better" in page(http, f"/{repo}/discussions")


def test_every_link_of_the_pages_leads_somewhere(filled, http):
    import re

    repo, _ = filled
    seen, waiting = set(), [f"/{repo}", "/", "/alice", f"/{repo}/discussions"]
    while waiting and len(seen) < 60:
        url = waiting.pop(0)
        if url in seen:
            continue
        seen.add(url)
        answer = http.get(url, headers={"Accept": "text/html"})
        assert answer.status_code == 200 or url.endswith("plots/a.png"), url
        if answer.headers["content-type"].startswith("text/html"):
            waiting += [link for link in re.findall(r'(?:href|src)="(/[^"#]*)"', answer.text) if repo in link]
    assert len(seen) > 15


def test_lists_hold_what_the_visitor_may_see(alice, http, bearer):
    alice.create_repo("alice/page-private", private=True)
    alice.create_repo("alice/page-data", repo_type="dataset", exist_ok=True)
    assert "page-private" not in page(http, "/") and "alice/page-data" in page(http, "/")
    assert "page-private" in http.get("/", headers={"Accept": "text/html", **bearer("alice")}).text
    assert "page-data" in page(http, "/datasets/alice/page-data")
    refused = http.get("/alice/page-private", headers={"Accept": "text/html"})
    assert refused.status_code == 401 and "Sign in" in refused.text and "text/html" in refused.headers["content-type"]
    assert http.get("/nobody-known", headers={"Accept": "text/html"}).status_code == 404

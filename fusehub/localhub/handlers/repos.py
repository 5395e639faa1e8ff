"""Answers about repositories as a whole: make, delete, describe, list, settings, references, access, discussions."""

import re

from starlette.responses import JSONResponse, Response

from .. import access, discussions, store
from ..cards import check_card
from ..commits import commit_to, read_change
from ..errors import bad_request, conflict, entry_not_found, forbidden
from ..lfs import ATTRIBUTES, preupload, verify
from ..names import KINDS, SPACE_SDKS
from ..repo_info import count_download, describe, read_header, shards, space_runtime
from ..request import Call, decode, find_repo
from .files import add_last_commits, counts_as_download, paths_info, resolve, tree
from .search import children_count, find, is_true, next_link, page_of, pick, values

# -- the repository itself


def _named(call: Call) -> tuple[str, str]:
    """(kind, id) that a body names by name, organization and type."""
    kind = call.body.get("type") or "model"
    name, namespace = call.body.get("name"), call.body.get("organization")
    if kind not in KINDS or not isinstance(name, str):
        raise bad_request("A repository is named by name, organization and type (model, dataset or space)")
    return kind, f"{namespace or call.user.name}/{name}"


def create(call: Call) -> dict:
    access.check_role(call.caller)
    kind, repo_id = _named(call)
    namespace = repo_id.split("/")[0]
    if not call.user.owns(namespace):
        raise forbidden(f"You don't have the rights to create a {kind} under the namespace {namespace!r}")
    private = call.body.get("visibility") == "private" or call.body.get("private") is True
    files, settings = {".gitattributes": ATTRIBUTES}, {"private": private}
    if kind == "space":
        sdk = call.body.get("sdk")
        if sdk not in SPACE_SDKS:
            raise bad_request(f"A Space needs an sdk: one of {', '.join(SPACE_SDKS)}")
        settings["sdk"] = sdk
        title = re.sub(r"[-_]+", " ", repo_id.split("/")[1])
        files["README.md"] = f"---\ntitle: {title!r}\nsdk: {sdk}\n---\n".encode()
    url = f"{call.base}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
    try:
        repo = call.hub.store.create(kind, repo_id, call.user.name, files, **settings)
    except store.HubError as error:
        if error.status == 409:
            raise conflict(error.message, url=url) from None
        raise
    return {"url": url, "name": repo_id, "id": repo.state["_id"]}


def delete(call: Call) -> dict:
    access.check_role(call.caller)
    repo = find_repo(call.hub, *_named(call), call.caller)
    access.check(call.caller, repo, "write")
    call.hub.store.delete(repo)
    return {"success": True}


def move(call: Call) -> dict:
    access.check_role(call.caller)
    kind, source, target = (call.body.get("type") or "model", call.body.get("fromRepo"), call.body.get("toRepo"))
    repo = find_repo(call.hub, kind, str(source), call.caller)
    access.check(call.caller, repo, "write")
    if not call.user.owns(str(target).split("/")[0]):
        raise forbidden(f"You don't have the rights to create {target}")
    call.hub.store.move(repo, str(target))
    return {"success": True}


def settings(call: Call) -> dict:
    body = call.body
    gated, visibility = body.get("gated"), body.get("visibility")
    if "gated" in body and gated not in (False, "auto", "manual"):
        raise bad_request("gated must be auto, manual or false")
    if visibility is not None and visibility not in ("public", "private"):
        raise bad_request("visibility must be public or private")
    with call.repo.changing() as state:
        if "gated" in body:
            state["gated"] = gated
        if visibility is not None:
            state["private"] = visibility == "private"
        elif isinstance(body.get("private"), bool):
            state["private"] = body["private"]
    return {"private": call.repo.state["private"], "gated": call.repo.state["gated"]}


def info(call: Call) -> dict:
    sha = call.repo.resolve(decode(call.params.get("rev", "main")))
    item = describe(call.hub.store, call.repo, sha, blobs=is_true(call.query.get("blobs")))
    if "childrenModelCount" in values(call.query, "expand"):
        item["childrenModelCount"] = children_count(call.hub.store, call.caller, call.repo.id)
    return pick(item, call.query, listing=False)


def listing(call: Call) -> JSONResponse:
    items = find(call.hub.store, call.kind, call.caller, call.query)
    try:
        size = min(int(call.query.get("limit") or call.hub.page_size), call.hub.page_size)
    except ValueError:
        raise bad_request("limit must be a number") from None
    page, headers = page_of(items, call.request.url, call.query, max(size, 1))
    return JSONResponse([pick(item, call.query, listing=True) for item in page], headers=headers)


def auth_check(call: Call) -> dict:
    access.check(call.caller, call.repo, "write" if call.params.get("write") else "files")
    return {}


def like(call: Call) -> dict:
    access.check_role(call.caller)
    with call.repo.changing() as state:
        others = [name for name in state["likes"] if name != call.user.name]
        state["likes"] = others + ([call.user.name] if call.request.method == "POST" else [])
    return {"likes": len(call.repo.state["likes"])}


def runtime(call: Call) -> dict:
    return space_runtime()


# -- files


def tree_page(call: Call) -> JSONResponse:
    revision, folder = call.revision_and_path()
    sha = call.repo.resolve(revision)
    items = tree(call.repo, sha, folder, is_true(call.query.get("recursive")))
    cursor = call.query.get("cursor")
    items = [item for item in items if not cursor or item["path"] > cursor]
    headers, size = {}, call.hub.page_size
    if len(items) > size:
        items = items[:size]
        headers = next_link(call.request.url, items[-1]["path"])
    if is_true(call.query.get("expand")):
        items = add_last_commits(call.repo, sha, items)
    return JSONResponse(items, headers=headers)


def paths(call: Call) -> list[dict]:
    sha = call.repo.resolve(decode(call.params["rev"]))
    items = paths_info(call.repo, sha, call.body.get("paths", []))
    expand = is_true((call.body.get("expand") or [""])[0])
    return add_last_commits(call.repo, sha, items) if expand else items


def download(call: Call) -> Response:
    revision, path = call.revision_and_path()
    response = resolve(call.repo, call.repo.resolve(revision), path)
    if call.request.method == "GET" and counts_as_download(call.repo, path):
        count_download(call.repo)
    return response


def safetensors_headers(call: Call) -> dict:
    """All shards' headers at once, which saves the client a request for each."""
    sha, index = call.repo.resolve("main"), call.params["rest"]
    if index not in call.repo.files(sha):
        raise entry_not_found(index, sha)
    files = call.repo.files(sha)
    headers = {name: read_header(call.repo.blob(files[name])) for name in shards(call.repo, sha, index)}
    total = describe(call.hub.store, call.repo, sha).get("safetensors")
    return {"index": {"metadata": total and {"total_parameters": total["total"]}}, "headers": headers}


def preuploading(call: Call) -> dict:
    need = "propose" if _proposes(call) else "write"
    access.check(call.caller, call.repo, need)
    return preupload(call.repo, decode(call.params["rev"]), call.body)


def lfs_batch(call: Call) -> dict:
    """Anyone who may open a pull request may upload for one; what no commit names is never shown."""
    return call.hub.uploads.batch(call.repo, call.body, call.base, f"{call.repo_url()}.git/info/lfs/verify")


def lfs_verify(call: Call) -> dict:
    return verify(call.repo, call.body)


# -- commits and references


def _proposes(call: Call) -> bool:
    return is_true(call.query.get("create_pr")) or decode(call.params["rev"]).startswith("refs/pr/")


def commit(call: Call) -> dict:
    """A commit to a branch, to a pull request, or (`create_pr=1`) as a new pull request."""
    repo, revision = call.repo, decode(call.params["rev"])
    new_request = is_true(call.query.get("create_pr"))
    if revision.startswith("refs/pr/") and not new_request:
        repo.resolve(revision)
        discussions.check_open(repo, int(revision.removeprefix("refs/pr/")), call.user)
    elif not new_request:
        access.check(call.caller, repo, "write")
    change = read_change(repo, call.body)
    if new_request:
        number, sha = discussions.propose(repo, revision, change, call.user.name)
        extra = {"pullRequestUrl": f"{call.repo_url()}/discussions/{number}"}
    else:
        sha, extra = commit_to(repo, revision, change, call.user.name), {}
    return {"success": True, "commitOid": sha, "commitUrl": f"{call.repo_url()}/commit/{sha}", **extra}


def commit_list(call: Call) -> JSONResponse:
    shas = call.repo.history(call.repo.resolve(decode(call.params["rev"])))
    cursor, size, headers = call.query.get("cursor"), call.hub.page_size, {}
    if cursor in shas:
        shas = shas[shas.index(cursor) + 1 :]
    if len(shas) > size:
        shas = shas[:size]
        headers = next_link(call.request.url, shas[-1])
    return JSONResponse([_commit_item(call, sha) for sha in shas], headers=headers)


def _commit_item(call: Call, sha: str) -> dict:
    commit = call.repo.commit(sha)
    item = {"id": sha, "title": commit["title"], "message": commit["message"], "date": commit["date"]}
    item["authors"] = [{"user": commit["author"], "avatar": f"{call.base}/avatars/{commit['author']}.svg"}]
    if "formatted" in values(call.query, "expand"):
        item["formatted"] = {"title": commit["title"], "message": commit["message"]}
    return item


def refs(call: Call) -> dict:
    def listed(group: str, prefix: str) -> list[dict]:
        found = call.repo.state[group].items()
        return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": sha} for name, sha in found]

    result = {"branches": listed("heads", "refs/heads/"), "tags": listed("tags", "refs/tags/"), "converts": []}
    if is_true(call.query.get("include_prs")):
        result["pullRequests"] = listed("prs", "refs/pr/")
    return result


def add_branch(call: Call) -> JSONResponse:
    name = decode(call.params["rev"])
    store.add_reference(call.repo, "heads", name, call.body.get("startingPoint") or "main")
    return JSONResponse({"name": name}, 201)


def add_tag(call: Call) -> JSONResponse:
    tag = call.body.get("tag")
    if not isinstance(tag, str):
        raise bad_request("A tag needs a name")
    store.add_reference(call.repo, "tags", tag, decode(call.params["rev"]))
    return JSONResponse({"name": tag}, 201)


def remove_branch(call: Call) -> dict:
    store.remove_reference(call.repo, "heads", decode(call.params["rev"]))
    return {}


def remove_tag(call: Call) -> dict:
    store.remove_reference(call.repo, "tags", decode(call.params["rev"]))
    return {}


# -- discussions


def discussion_list(call: Call) -> dict:
    wanted_type, status, author = (call.query.get(key) for key in ("type", "status", "author"))
    found = [discussions.summary(call.repo, it) for it in discussions.all_of(call.repo)]
    found = [it for it in found if not author or it["author"]["name"] == author]
    if wanted_type in ("pull_request", "discussion"):
        found = [it for it in found if it["isPullRequest"] == (wanted_type == "pull_request")]
    if status in ("open", "closed"):
        found = [it for it in found if (it["status"] in ("open", "draft")) == (status == "open")]
    page = call.query.get("p") or "0"
    start = 50 * int(page) if page.isdigit() else 0
    return {"count": len(found), "start": start, "discussions": found[start : start + 50]}


def discussion_new(call: Call) -> dict:
    number = discussions.open_new(call.repo, call.body, call.user.name)
    return {"num": number, "url": f"{call.repo_url()}/discussions/{number}"}


def discussion_details(call: Call) -> dict:
    """The diff shows what is in files, so it is for those who may read them."""
    with_diff = is_true(call.query.get("diff")) and access.passes_gate(call.caller, call.repo)
    return discussions.details(call.repo, int(call.params["num"]), with_diff)


def discussion_change(call: Call) -> dict:
    return discussions.change(call.repo, int(call.params["num"]), call.params["resource"], call.body, call.user)


# -- gated access


def ask_access(call: Call) -> dict:
    """What the form of a gated repository does on the Hub: `auto` lets in at once, `manual` waits for the owner."""
    name = call.user.name
    with call.repo.changing() as state:
        if not state["gated"]:
            raise bad_request(f"{call.repo.id} is not gated")
        known = state["access"].get(name)
        if not known or known["status"] == "cancelled":
            status = "accepted" if state["gated"] == "auto" else "pending"
            state["access"][name] = {"status": status, "timestamp": store.now()}
    return {"status": call.repo.state["access"][name]["status"]}


def access_requests(call: Call) -> list[dict]:
    found = []
    for name, request in call.repo.state["access"].items():
        if request["status"] == call.params["status"]:
            user = call.hub.users.user(name) or {"fullname": name}
            about = {"user": name, "fullname": user["fullname"], "email": None}
            found.append({"requestId": name, "user": about, **request})
    return found


def access_decide(call: Call) -> dict:
    """`grant` (a user who may never have asked) and `handle` (accepted, rejected, or pending again)."""
    name = call.body.get("user") or call.body.get("requestId")
    status = "accepted" if call.params["action"] == "grant" else call.body.get("status")
    if not isinstance(name, str) or call.hub.users.user(name) is None:
        raise store.HubError(404, "NotFound", f"There is no user {name!r} on this hub")
    if status not in ("accepted", "rejected", "pending"):
        raise bad_request("status must be accepted, rejected or pending")
    with call.repo.changing() as state:
        if not state["gated"]:
            raise bad_request(f"{call.repo.id} is not gated")
        if call.params["action"] == "handle" and name not in state["access"]:
            raise store.HubError(404, "NotFound", f"{name} has not asked for access")
        if state["access"].get(name, {}).get("status") == status == "accepted":
            raise bad_request(f"{name} has access already")
        state["access"][name] = {"status": status, "timestamp": store.now()}
    return {}


# -- cards


def validate_card(call: Call) -> dict:
    """Errors come with status 400, as the client expects, and always as JSON lists."""
    content, kind = call.body.get("content"), call.body.get("repoType") or "model"
    if not isinstance(content, str) or kind not in KINDS:
        raise bad_request("validate-yaml needs content and repoType")
    errors, warnings = check_card(content, kind)
    body = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    if errors:
        raise store.HubError(400, "InvalidCard", "; ".join(errors), body=body)
    return body

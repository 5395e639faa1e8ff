"""Discussions and pull requests of a repository: `discussions/N.json` and, for a pull request, `refs/pr/N`.

Both ways of the client end here: a commit with `create_pr=1`, and an empty request that is committed to afterwards.
Whether a request was merged is part of `repo.json`, written together with the branch it moved.
"""

import difflib
import json
import secrets
from pathlib import Path

from . import disk
from .access import Caller, check_role
from .commits import Change, apply, changed, check_parent, common_ancestor, three_way
from .errors import HubError, bad_request, conflict, forbidden
from .store import Repo, now

STATUSES = ("draft", "open", "closed")
MAX_DIFF = 200_000


def _file(repo: Repo, number: int) -> Path:
    return repo.folder / "discussions" / f"{number}.json"


def read(repo: Repo, number: int) -> dict:
    if not 0 < number <= repo.state["discussions"]:
        raise HubError(404, "NotFound", f"Discussion {number} not found")
    return _with_status(repo, json.loads(_file(repo, number).read_bytes()))


def _with_status(repo: Repo, discussion: dict) -> dict:
    merged = repo.state["merged"].get(str(discussion["num"]))
    return {**discussion, "status": "merged", "mergeCommitId": merged} if merged else discussion


def all_of(repo: Repo) -> list[dict]:
    return [read(repo, number) for number in range(repo.state["discussions"], 0, -1)]


def _event(kind: str, author: str, data: dict) -> dict:
    return {"id": secrets.token_hex(12), "type": kind, "author": {"name": author}, "createdAt": now(), "data": data}


def _comment(text: str, author: str) -> dict:
    return _event("comment", author, {"edited": False, "hidden": False, "latest": {"raw": text}})


def _text(value: object, what: str, default: str = "") -> str:
    value = default if value is None else value
    if not isinstance(value, str) or len(value) > 65536:
        raise bad_request(f"The {what} of a discussion must be a text of at most 65536 characters")
    return value.strip()


def _write_new(repo: Repo, state: dict, title: str, text: str, author: str, status: str, base: str | None) -> int:
    """Writes the file first; it exists for readers once the count in `state` is stored."""
    number = state["discussions"] + 1
    discussion = {"num": number, "title": title, "author": author, "createdAt": now(), "status": status}
    discussion |= {"isPullRequest": base is not None, "base": base, "events": [_comment(text, author)]}
    disk.write_json(_file(repo, number), discussion, repo.temp)
    state["discussions"] = number
    return number


def open_new(repo: Repo, body: dict, author: str) -> int:
    """A discussion, or an empty draft of a pull request to main."""
    title = _text(body.get("title"), "title")
    if not title:
        raise bad_request("A discussion needs a title")
    text = _text(body.get("description"), "description")
    is_request = bool(body.get("pullRequest"))
    with repo.changing() as state:
        status, base = ("draft", "main") if is_request else ("open", None)
        number = _write_new(repo, state, title, text, author, status, base)
        if is_request:
            state["prs"][str(number)] = state["heads"]["main"]
    return number


def propose(repo: Repo, base: str, change: Change, author: str) -> tuple[int, str]:
    """(number, commit) of a new pull request that holds one commit on top of the branch `base`."""
    with repo.changing() as state:
        base = base.removeprefix("refs/heads/")
        if base not in state["heads"]:
            raise bad_request(f"A pull request must be based on a branch, not on {base!r}")
        head = state["heads"][base]
        check_parent(change, head)
        files = apply(repo.files(head), change, repo.kind, repo)
        sha = repo.write_commit(files, [head], author, change.title, change.message)
        number = _write_new(repo, state, change.title, change.message, author, "open", base)
        state["prs"][str(number)] = sha
    return number, sha


def check_open(repo: Repo, number: int, caller: Caller) -> None:
    """May `caller` add commits to this pull request? Its author and the repository's owners may."""
    discussion = read(repo, number)
    if discussion["status"] not in ("open", "draft"):
        raise forbidden(f"Pull request {number} is {discussion['status']}: no more commits")
    if discussion["author"] != caller.name and not caller.owns(repo.namespace):
        raise forbidden(f"Pull request {number} belongs to {discussion['author']}")


def merge(repo: Repo, number: int, author: str, comment: str | None) -> str:
    """Merge into its base by a commit with two parents; 409 names the files in conflict."""
    with repo.changing() as state:
        discussion = read(repo, number)
        if not discussion["isPullRequest"] or discussion["status"] not in ("open", "draft"):
            raise bad_request(f"Discussion {number} is {discussion['status']} and cannot be merged")
        base, theirs = discussion["base"], state["prs"][str(number)]
        if base not in state["heads"]:
            raise bad_request(f"The branch {base!r} of pull request {number} is gone")
        files, conflicts = three_way(repo, state["heads"][base], theirs)
        if conflicts:
            raise conflict(f"Pull request {number} conflicts with {base}: {', '.join(conflicts)}")
        title = f"{discussion['title']} (#{number})"
        sha = repo.write_commit(files, [state["heads"][base], theirs], author, title, comment or "")
        state["heads"][base] = state["merged"][str(number)] = sha
    _append(repo, number, _event("status-change", author, {"status": "merged"}), comment, author)
    return sha


def _append(repo: Repo, number: int, event: dict, comment: str | None, author: str, **fields: object) -> None:
    with repo.lock:
        discussion = json.loads(_file(repo, number).read_bytes()) | fields
        discussion["events"] += [event] + ([_comment(comment, author)] if comment else [])
        disk.write_json(_file(repo, number), discussion, repo.temp)


def change(repo: Repo, number: int, resource: str, body: dict, caller: Caller) -> dict:
    """comment, title, status and merge: what the client POSTs to a discussion. Returns what it wants to read."""
    discussion = read(repo, number)
    check_role(caller)
    if resource == "comment":
        event = _comment(_text(body.get("comment"), "comment"), caller.name)
        _append(repo, number, event, None, caller.name)
        return {"newMessage": event}
    if resource == "merge":
        if not caller.owns(repo.namespace):
            raise forbidden(f"Only {repo.namespace} may merge pull requests of {repo.id}")
        sha = merge(repo, number, caller.name, _text(body.get("comment"), "comment") or None)
        return {"mergeCommitId": sha}
    if discussion["author"] != caller.name and not caller.owns(repo.namespace):
        raise forbidden(f"Discussion {number} belongs to {discussion['author']}")
    if resource == "title":
        title = _text(body.get("title"), "title")
        if not title:
            raise bad_request("A discussion needs a title")
        event = _event("title-change", caller.name, {"from": discussion["title"], "to": title})
        _append(repo, number, event, None, caller.name, title=title)
        return {"newTitle": event}
    if resource == "status":
        status = body.get("status")
        if status not in STATUSES or discussion["status"] == "merged":
            raise bad_request(f"The status of discussion {number} cannot become {status!r}")
        event = _event("status-change", caller.name, {"status": status})
        _append(repo, number, event, _text(body.get("comment"), "comment"), caller.name, status=status)
        return {"newStatus": event}
    raise HubError(404, "NotFound", f"A discussion has no {resource!r} here")


def summary(repo: Repo, discussion: dict) -> dict:
    """One line of a list of discussions."""
    keys = ("num", "title", "status", "createdAt", "isPullRequest")
    repo_name = {"name": repo.id, "type": repo.kind}
    return {key: discussion[key] for key in keys} | {"author": {"name": discussion["author"]}, "repo": repo_name}


def details(repo: Repo, number: int, with_diff: bool) -> dict:
    """A discussion with its events and, for a pull request, its commits, conflicts and diff."""
    discussion = read(repo, number)
    result = summary(repo, discussion) | {"events": list(discussion["events"])}
    if not discussion["isPullRequest"]:
        return result
    state, base = repo.state, discussion["base"]
    merged = state["merged"].get(str(number))
    theirs = state["prs"][str(number)]
    # Of a merged request the branch's head before the merge counts, else everything is an ancestor by now.
    ours = repo.commit(merged)["parents"][0] if merged else state["heads"].get(base) or state["heads"]["main"]
    start = common_ancestor(repo, ours, theirs)
    for sha in reversed([sha for sha in repo.history(theirs) if sha not in set(repo.history(start))]):
        commit = repo.commit(sha)
        data = {"subject": commit["title"], "oid": sha}
        event = {"id": sha, "type": "commit", "author": {"name": commit["author"]}, "createdAt": commit["date"]}
        result["events"].append(event | {"data": data})
    result["events"].sort(key=lambda event: event["createdAt"])
    result["changes"] = {"base": f"refs/heads/{base}"} | ({"mergeCommitId": merged} if merged else {})
    result["filesWithConflicts"] = [] if merged else three_way(repo, ours, theirs)[1]
    if with_diff:
        result["diff"] = diff(repo, start, theirs)
    return result


def diff(repo: Repo, before: str, after: str) -> str:
    """A unified diff of what changed; LFS files as their pointers, long or binary ones by name only."""
    old, new, parts, size = repo.files(before), repo.files(after), [], 0
    for path in sorted(changed(old, new)):
        ours, theirs = _lines(repo, old.get(path)), _lines(repo, new.get(path))
        part = f"diff --git a/{path} b/{path}\n"
        if ours is None or theirs is None or size > MAX_DIFF:
            part += "Binary or large files differ\n"
        else:
            names = (f"a/{path}" if path in old else "/dev/null", f"b/{path}" if path in new else "/dev/null")
            part += "".join(line.rstrip("\n") + "\n" for line in difflib.unified_diff(ours, theirs, *names))
        parts.append(part)
        size += len(part)
    return "".join(parts)


def _lines(repo: Repo, entry: dict | None) -> list[str] | None:
    if entry is None:
        return []
    if "lfs" in entry:
        return [f"lfs {entry['lfs']} ({entry['size']} bytes)\n"]
    if entry["size"] > MAX_DIFF:
        return None
    try:
        return repo.blob(entry).read_bytes().decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return None

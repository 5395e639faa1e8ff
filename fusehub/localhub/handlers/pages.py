"""A few plain pages, so that links such as `{endpoint}/alice/model` lead somewhere in a browser.

Everything that comes from a repository is escaped; cards are rendered without HTML, and no page runs scripts.
"""

import re
from html import escape
from urllib.parse import quote

from markdown_it import MarkdownIt
from starlette.requests import Request
from starlette.responses import HTMLResponse

from .. import discussions as talk
from ..access import passes_gate
from ..cards import split_card
from ..errors import HubError, entry_not_found
from ..names import KINDS
from ..repo_info import downloads, facts
from ..request import WEB_PREFIX, Call
from ..store import Repo
from .files import tree as list_tree
from .search import is_true, visible

MAX_SHOWN = 500_000
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'"
)

STYLE = """
:root{color-scheme:light dark;
--line:color-mix(in srgb,currentColor 18%,transparent);
--link:light-dark(#0a58ca,#7ab7ff)}
*{box-sizing:border-box}body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:0 1rem 3rem}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
header{display:flex;justify-content:space-between;align-items:center;padding:.8rem 0;
border-bottom:1px solid var(--line)}
h1{font-size:1.4rem;overflow-wrap:anywhere}nav{display:flex;gap:1.2rem;flex-wrap:wrap;margin:.8rem 0}
nav a[aria-current]{font-weight:600;border-bottom:2px solid}table{border-collapse:collapse;width:100%}
td,th{padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--line);text-align:left;overflow-wrap:anywhere}
td.n{text-align:right;white-space:nowrap;color:gray}.tag{display:inline-block;border:1px solid var(--line);
border-radius:.8rem;padding:0 .6rem;margin:.15rem .2rem .15rem 0;font-size:.85rem;overflow-wrap:anywhere}
pre{overflow-x:auto;padding:.8rem;border:1px solid var(--line);border-radius:.4rem}code{font-size:.9em}
article{border:1px solid var(--line);border-radius:.5rem;padding:.2rem 1rem;margin:1rem 0;overflow-x:auto}
img{max-width:100%}.note{color:gray;font-size:.9rem}input,button{font:inherit;padding:.4rem .6rem}
"""


def _page(call: Call, title: str, content: str, status: int = 200) -> HTMLResponse:
    if call.caller:
        who = f'<form method="post" action="/logout">{escape(call.caller.name)} <button>Sign out</button></form>'
    else:
        who = f'<a href="/login?next={quote(call.request.url.path)}">Sign in</a>'
    return _shell(title, who, content, status)


def _shell(title: str, who: str, content: str, status: int) -> HTMLResponse:
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f'<body><header><a href="/"><b>Local Hub</b></a>{who}</header><main>{content}</main></body></html>'
    )
    headers = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }
    return HTMLResponse(html, status, headers=headers)


def _link(href: str, text: str, extra: str = "") -> str:
    return f'<a href="{escape(href, quote=True)}"{extra}>{escape(text)}</a>'


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def _table(rows: list[str]) -> str:
    return (
        f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>" if rows else '<p class="note">Nothing yet.</p>'
    )


def _root(repo: Repo) -> str:
    return f"/{WEB_PREFIX[repo.kind]}{repo.id}"


def _url(repo: Repo, *parts: str) -> str:
    return "/".join([_root(repo), *(quote(part) for part in parts if part)])


def refusal(request: Request, error: HubError) -> HTMLResponse:
    """The same refusal as the API's, for a person, who can sign in here and then sees what was asked for."""
    content = f"<h1>{error.status}: {escape(error.message)}</h1>"
    if error.status in (401, 403, 404):
        content += "<p>A private or gated repository? Sign in with a token that may read it.</p>"
        content += _sign_in_form(request.url.path)
    page = _shell(error.message, "", content, error.status)
    plain = error.response()
    page.headers.update({key: plain.headers[key] for key in ("x-error-code", "x-error-message")})
    return page


# -- lists


def home(call: Call) -> HTMLResponse:
    """All repositories the caller may see, or those of one namespace."""
    who = call.params.get("who")
    if who and not (call.hub.users.user(who) or call.hub.users.org(who)):
        raise HubError(404, "NotFound", f"There is no user or organisation {who!r} on this hub")
    content = f"<h1>{escape(who or 'Repositories')}</h1>"
    for kind in KINDS:
        found = [repo for repo in visible(call.hub.store, kind, call.caller) if not who or repo.namespace == who]
        if found or kind == "model":
            content += f"<h2>{kind.capitalize()}s</h2>" + _table([_repo_row(repo) for repo in found])
    return _page(call, who or "Local Hub", content)


def _repo_row(repo: Repo) -> str:
    marks = (" 🔒" if repo.state["private"] else "") + (" (gated)" if repo.state["gated"] else "")
    date = repo.commit(repo.state["heads"]["main"])["date"][:10]
    return f'<td>{_link(_root(repo), repo.id)}{marks}</td><td class="n">{date}</td>'


def login(call: Call) -> HTMLResponse:
    failed = "<p role='alert'>This token is not known here.</p>" if is_true(call.query.get("failed")) else ""
    target = call.query.get("next") or "/"
    said = "<p>With a token of this hub, to see private and gated repositories here.</p>"
    return _page(call, "Sign in", f"<h1>Sign in</h1>{failed}{said}{_sign_in_form(target)}")


def _sign_in_form(target: str) -> str:
    """The form that leads to `target`, a path of this hub."""
    return (
        f'<form method="post" action="/login"><input type="hidden" name="next" value="{escape(target, quote=True)}">'
        '<label>Token <input type="password" name="token" autocomplete="off" required></label> '
        "<button>Sign in</button></form>"
    )


# -- one repository


def _header(call: Call, current: str) -> str:
    repo = call.repo
    marks = ("private " if repo.state["private"] else "") + ("gated" if repo.state["gated"] else "")
    tabs = [("Card", _root(repo)), ("Files", _url(repo, "tree", "main")), ("Commits", _url(repo, "commits", "main"))]
    tabs.append(("Discussions", _url(repo, "discussions")))
    links = "".join(_link(url, name, ' aria-current="page"' if name == current else "") for name, url in tabs)
    who = _link(f"/{repo.namespace}", repo.namespace)
    name = _link(_root(repo), repo.name)
    return f'<h1>{who} / {name} <span class="note">{repo.kind} {marks}</span></h1><nav>{links}</nav>'


def repo(call: Call) -> HTMLResponse:
    """The card, as the first thing one wants to see of a repository."""
    item, sha = call.repo, call.repo.state["heads"]["main"]
    known = facts(call.hub.store, item, sha)
    tags = "".join(f'<span class="tag">{escape(tag)}</span>' for tag in known["tags"])
    text = (item.read(sha, "README.md", MAX_SHOWN) or b"").decode("utf-8", "replace")
    card = _markdown(item, split_card(text)[1]) if text else '<p class="note">No model card.</p>'
    parameters = (known.get("safetensors") or {}).get("total")
    facts_line = f"{downloads(item)} downloads · {len(item.state['likes'])} likes · {_size(known['usedStorage'])}"
    facts_line += f" · {parameters:,} parameters" if parameters else ""
    content = _header(call, "Card") + f'<p>{tags}</p><p class="note">{facts_line}</p><article>{card}</article>'
    return _page(call, item.id, content + _files(call, sha, "main", ""))


def _markdown(item: Repo, text: str) -> str:
    """CommonMark with tables, HTML shown as text; pictures are taken from the repository."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token in tokens:
        for child in token.children or []:
            key = {"image": "src", "link_open": "href"}.get(child.type)
            target = str(child.attrs.get(key, "")) if key else ""
            if key and target and not re.match(r"[a-z][a-z0-9+.-]*:|[/#]", target, re.IGNORECASE):
                page = "resolve" if key == "src" else "blob"
                child.attrs[key] = f"{_root(item)}/{page}/main/{target.removeprefix('./')}"
    return parser.renderer.render(tokens, parser.options, {})


def _place(call: Call) -> tuple[str, str, str]:
    revision, path = call.revision_and_path()
    return revision, call.repo.resolve(revision), path


def _crumbs(repo: Repo, revision: str, path: str) -> str:
    parts = path.split("/") if path else []
    links = [_link(_revision_url(repo, "tree", revision), revision)]
    for depth in range(1, len(parts)):
        links.append(_link(_revision_url(repo, "tree", revision, "/".join(parts[:depth])), parts[depth - 1]))
    return f"<p>{' / '.join([*links, *map(escape, parts[-1:])])}</p>"


def _revision_url(repo: Repo, page: str, revision: str, path: str = "") -> str:
    return f"{_root(repo)}/{page}/{quote(revision, safe='')}" + (f"/{quote(path)}" if path else "")


def _files(call: Call, sha: str, revision: str, folder: str) -> str:
    rows = []
    for item in sorted(list_tree(call.repo, sha, folder, False), key=lambda item: item["type"] != "directory"):
        is_folder = item["type"] == "directory"
        url = _revision_url(call.repo, "tree" if is_folder else "blob", revision, item["path"])
        name = item["path"].rsplit("/", 1)[-1] + ("/" if is_folder else "")
        rows.append(f'<td>{_link(url, name)}</td><td class="n">{"" if is_folder else _size(item["size"])}</td>')
    return _table(rows)


def tree(call: Call) -> HTMLResponse:
    revision, sha, folder = _place(call)
    content = _header(call, "Files") + _crumbs(call.repo, revision, folder) + _files(call, sha, revision, folder)
    return _page(call, f"{call.repo.id}: {folder or 'files'}", content)


def blob(call: Call) -> HTMLResponse:
    revision, sha, path = _place(call)
    entry = call.repo.files(sha).get(path)
    if entry is None:
        raise entry_not_found(path, sha)
    raw = _revision_url(call.repo, "resolve", revision, path)
    content = _header(call, "Files") + _crumbs(call.repo, revision, path)
    digest = entry.get("lfs") or entry["oid"]
    content += f"<p>{_link(raw, 'Download')} · {_size(entry['size'])} · <code>{digest}</code></p>"
    if path.lower().endswith((".png", ".jpg", ".jpeg", ".gif", ".webp")):
        content += f'<p><img src="{escape(raw, quote=True)}" alt="{escape(path, quote=True)}"></p>'
    elif entry["size"] <= MAX_SHOWN and "lfs" not in entry:
        text = call.repo.blob(entry).read_bytes().decode("utf-8", "replace")
        content += f"<pre><code>{escape(text)}</code></pre>"
    else:
        content += '<p class="note">Too large to show here, or not a text.</p>'
    return _page(call, f"{call.repo.id}: {path}", content)


def commits(call: Call) -> HTMLResponse:
    _, sha, _ = _place(call)
    rows = []
    for item in call.repo.history(sha)[:200]:
        commit = call.repo.commit(item)
        title = _link(_url(call.repo, "commit", item), commit["title"])
        rows.append(
            f'<td>{title}<br><span class="note">{escape(commit["author"])}</span></td>'
            f'<td class="n"><code>{item[:8]}</code><br>{commit["date"][:16].replace("T", " ")}</td>'
        )
    return _page(call, f"{call.repo.id}: commits", _header(call, "Commits") + _table(rows))


def commit(call: Call) -> HTMLResponse:
    sha = call.repo.resolve(call.params["rest"])
    item = call.repo.commit(sha)
    content = _header(call, "Commits") + f"<h2>{escape(item['title'])}</h2><p>{escape(item['message'])}</p>"
    content += f'<p class="note">{escape(item["author"])}, {item["date"]}, <code>{sha}</code></p>'
    if item["parents"]:
        content += _diff(call, item["parents"][0], sha)
    return _page(call, f"{call.repo.id}: {item['title']}", content + _files(call, sha, sha, ""))


def _diff(call: Call, before: str, after: str) -> str:
    if not passes_gate(call.caller, call.repo):
        return ""
    return f"<pre><code>{escape(talk.diff(call.repo, before, after))}</code></pre>"


def discussions(call: Call) -> HTMLResponse:
    rows = []
    for item in talk.all_of(call.repo):
        url = _url(call.repo, "discussions", str(item["num"]))
        kind = "pull request" if item["isPullRequest"] else "discussion"
        rows.append(
            f'<td>{_link(url, item["title"])} <span class="note">#{item["num"]} {kind}</span></td>'
            f'<td class="n">{item["status"]}</td>'
        )
    return _page(call, f"{call.repo.id}: discussions", _header(call, "Discussions") + _table(rows))


def discussion(call: Call) -> HTMLResponse:
    item = talk.details(call.repo, int(call.params["num"]), with_diff=passes_gate(call.caller, call.repo))
    content = _header(call, "Discussions")
    content += f'<h2>{escape(item["title"])} <span class="note">#{item["num"]} {item["status"]}</span></h2>'
    for event in item["events"]:
        who = f'<span class="note">{escape(event["author"]["name"])}, {event["createdAt"][:16]}</span>'
        data = event["data"]
        if event["type"] == "comment":
            content += f"<article>{who}{_markdown(call.repo, data['latest']['raw'])}</article>"
        else:
            words = data.get("subject") or data.get("status") or data.get("to") or ""
            content += f"<p>{event['type']}: {escape(words)} {who}</p>"
    if item.get("diff"):
        content += f"<pre><code>{escape(item['diff'])}</code></pre>"
    return _page(call, item["title"], content)

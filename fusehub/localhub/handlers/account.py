"""Who is who: whoami, overviews of users and organisations, avatars, and the browser's sign-in."""

import hashlib
from html import escape

from starlette.responses import RedirectResponse, Response

from ..errors import HubError, unauthorized
from ..names import KINDS
from ..repo_info import facts
from ..request import SESSION, Call
from .search import visible

SESSION_SECONDS = 14 * 24 * 3600


def avatar_url(call: Call, name: str) -> str:
    return f"{call.base}/avatars/{name}.svg"


def _id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def whoami(call: Call) -> dict:
    caller = call.user
    orgs, known = [], call.hub.users.data()["orgs"]
    for name, role in caller.orgs.items():
        org = {"type": "org", "id": _id(name), "name": name, "fullname": known[name]["fullname"]}
        orgs.append(org | {"avatarUrl": avatar_url(call, name), "roleInOrg": role, "isEnterprise": False})
    token = {"displayName": f"{caller.name}-{caller.role}", "role": caller.role, "createdAt": caller.created_at}
    return {
        "type": "user",
        "id": _id(caller.name),
        "name": caller.name,
        "fullname": caller.fullname,
        "email": f"{caller.name}@localhost",
        "emailVerified": True,
        "canPay": False,
        "isPro": False,
        "periodEnd": None,
        "avatarUrl": avatar_url(call, caller.name),
        "orgs": orgs,
        "auth": {"type": "access_token", "accessToken": token},
    }


def user_overview(call: Call) -> dict:
    name = call.params["who"]
    user = call.hub.users.user(name)
    if user is None:
        raise HubError(404, "NotFound", f"There is no user {name!r} on this hub")
    counts = _counts(call, name)
    about = {"user": name, "fullname": user["fullname"], "avatarUrl": avatar_url(call, name), "type": "user"}
    return about | {"isPro": False, "orgs": []} | counts


def org_overview(call: Call) -> dict:
    name = call.params["who"]
    org = call.hub.users.org(name)
    if org is None:
        raise HubError(404, "NotFound", f"There is no organisation {name!r} on this hub")
    about = {"name": name, "fullname": org["fullname"], "avatarUrl": avatar_url(call, name), "type": "org"}
    return about | {"numUsers": len(org["members"])} | _counts(call, name)


def org_members(call: Call) -> list[dict]:
    org = call.hub.users.org(call.params["who"]) or {"members": {}}
    users = {name: call.hub.users.user(name) or {"fullname": name} for name in org["members"]}
    return [{"user": n, "fullname": u["fullname"], "avatarUrl": avatar_url(call, n)} for n, u in users.items()]


def _counts(call: Call, namespace: str) -> dict[str, int]:
    def count(kind: str) -> int:
        return sum(repo.namespace == namespace for repo in visible(call.hub.store, kind, call.caller))

    return {f"num{kind.capitalize()}s": count(kind) for kind in KINDS}


def own_repos(call: Call) -> list[dict]:
    """`hf repos ls`: the caller's repositories with what they take on disk."""
    namespace = call.params.get("who") or (call.caller.name if call.caller else None)
    if namespace is None:
        raise unauthorized()
    found = []
    for kind in KINDS:
        for repo in visible(call.hub.store, kind, call.caller):
            if repo.namespace == namespace:
                head = repo.state["heads"]["main"]
                item = {"id": repo.id, "type": kind, "updatedAt": repo.commit(head)["date"], "storagePercent": 0}
                item["visibility"] = "private" if repo.state["private"] else "public"
                found.append(item | {"storage": facts(call.hub.store, repo, head)["usedStorage"]})
    return found


def liked(call: Call) -> list[dict]:
    who = call.params["who"]
    repos = [repo for kind in KINDS for repo in visible(call.hub.store, kind, call.caller)]
    found = [repo for repo in repos if who in repo.state["likes"]]
    return [{"createdAt": r.state["createdAt"], "repo": {"name": r.id, "type": r.kind}} for r in found]


def avatar(call: Call) -> Response:
    """A coloured initial, made from the name alone, so that it says nothing about who exists."""
    name = call.params["who"].removesuffix(".svg")
    hue = int(_id(name)[:4], 16) % 360
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">'
        f'<rect width="64" height="64" rx="32" fill="hsl({hue} 45% 42%)"/>'
        '<text x="32" y="43" font-family="sans-serif" font-size="32" fill="#fff" text-anchor="middle">'
        f"{escape(name[:1].upper())}</text></svg>"
    )
    return Response(svg, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})


def sign_in(call: Call) -> RedirectResponse:
    """Exchange a token for a session that can only read. The token itself never becomes a cookie, because cookies
    of 127.0.0.1 go to every program that listens there."""
    caller = call.hub.users.by_token((call.body.get("token") or [""])[0].strip())
    if caller is None:
        return RedirectResponse("/login?failed=1", 303)
    target = (call.body.get("next") or ["/"])[0]
    local = target.startswith("/") and not target.startswith(("//", "/\\"))
    response = RedirectResponse(target if local else "/", 303)
    ticket = call.hub.tickets.sign({"use": "session", "name": caller.name}, SESSION_SECONDS)
    response.set_cookie(SESSION, ticket, max_age=SESSION_SECONDS, httponly=True, samesite="lax")
    return response


def sign_out(call: Call) -> RedirectResponse:
    response = RedirectResponse("/", 303)
    response.delete_cookie(SESSION)
    return response

"""Who is asking, and what they may do. Users, organisations and tokens live in DIR/users.json (mode 0600).

    {"users": {"alice": {"fullname": "Alice", "tokens": {"hf_...": {"role": "write", "createdAt": "..."}}}},
     "orgs": {"acme": {"fullname": "Acme", "members": {"alice": "write"}}}}
The file is read again when it changes, so users can be added while the server runs. Upload addresses and browser
sessions carry tickets signed with DIR/secret instead of tokens.
"""

import base64
import hashlib
import hmac
import json
import secrets
import string
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import disk
from .errors import HubError, LocalHubError, forbidden, repo_not_found, unauthorized
from .names import is_namespace
from .store import Repo, now

ROLES = ("read", "write")
DEFAULT_USER = "user"


@dataclass(frozen=True)
class Caller:
    """Someone who showed a valid token; `role` is the token's."""

    name: str
    fullname: str
    role: str
    orgs: dict[str, str]
    created_at: str

    def owns(self, namespace: str) -> bool:
        """May change what is there (given a write token): oneself, or an organisation's contributing member."""
        return namespace == self.name or self.orgs.get(namespace) in ("write", "admin", "contributor")

    def belongs_to(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


class Users:
    """The people of one hub folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.file = Path(root), Path(root) / "users.json"
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "tmp").mkdir(exist_ok=True)
        self._seen: tuple = ()
        self._data: dict = {}
        if not self.file.exists():
            add_user(self.root, DEFAULT_USER)

    def data(self) -> dict:
        stat = self.file.stat()
        stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if stamp != self._seen:
            self._data, self._seen = json.loads(self.file.read_bytes()), stamp
        return self._data

    def user(self, name: str) -> dict | None:
        return self.data()["users"].get(name)

    def org(self, name: str) -> dict | None:
        return self.data()["orgs"].get(name)

    def orgs_of(self, name: str) -> dict[str, str]:
        return {org: it["members"][name] for org, it in self.data()["orgs"].items() if name in it["members"]}

    def by_token(self, token: str) -> Caller | None:
        for name, user in self.data()["users"].items():
            for known, about in user["tokens"].items():
                if hmac.compare_digest(known.encode(), token.encode()):
                    return self.caller(name, about["role"], about.get("createdAt") or now())
        return None

    def caller(self, name: str, role: str, created_at: str = "") -> Caller | None:
        user = self.user(name)
        if user is None:
            return None
        return Caller(name, user["fullname"], role, self.orgs_of(name), created_at or now())


@contextmanager
def _editing(root: Path) -> Iterator[dict]:
    """users.json under a lock between processes; written back when the block ends well."""
    root = Path(root)
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    with open(root / "users.lock", "a") as lock:
        disk.lock(lock)
        file = root / "users.json"
        data = json.loads(file.read_bytes()) if file.exists() else {"users": {}, "orgs": {}}
        yield data
        disk.write_json(file, data, root / "tmp", mode=0o600)


def add_user(root: Path, name: str, role: str = "write", fullname: str | None = None) -> str:
    """A new token for `name`, who is made if not there yet. Role: `write`, or `read` for a read-only token."""
    if role not in ROLES:
        raise LocalHubError(f"Unknown role {role!r}: a token's role is one of {', '.join(ROLES)}.")
    if not is_namespace(name):
        raise LocalHubError(f"{name!r} cannot be a user name: use letters, digits, '-', '_' and '.'.")
    token = "hf_" + "".join(secrets.choice(string.ascii_letters) for _ in range(34))
    with _editing(root) as data:
        if name in data["orgs"]:
            raise LocalHubError(f"{name!r} is an organisation already.")
        user = data["users"].setdefault(name, {"fullname": fullname or name.capitalize(), "tokens": {}})
        user["tokens"][token] = {"role": role, "createdAt": now()}
    return token


def add_org(root: Path, name: str, members: dict[str, str], fullname: str | None = None) -> None:
    """An organisation with its members and their roles (`read`, `contributor`, `write` or `admin`)."""
    if not is_namespace(name):
        raise LocalHubError(f"{name!r} cannot be an organisation's name.")
    with _editing(root) as data:
        if name in data["users"]:
            raise LocalHubError(f"{name!r} is a user already.")
        org = data["orgs"].setdefault(name, {"fullname": fullname or name.capitalize(), "members": {}})
        org["members"].update(members)


def token_of(root: Path, name: str, role: str = "write") -> str:
    """A token of that role that `name` already has, or a new one."""
    file = Path(root) / "users.json"
    users = json.loads(file.read_bytes())["users"] if file.exists() else {}
    for token, about in users.get(name, {"tokens": {}})["tokens"].items():
        if about["role"] == role:
            return token
    return add_user(root, name, role)


class Tickets:
    """Signed, expiring permissions that can stand in a URL or a cookie."""

    def __init__(self, root: Path) -> None:
        file = Path(root) / "secret"
        if not file.exists():
            disk.write_bytes(file, secrets.token_bytes(32), Path(root) / "tmp", mode=0o600)
        self._key = file.read_bytes()

    def _signature(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def sign(self, what: dict, seconds: float) -> str:
        content = json.dumps({**what, "exp": time.time() + seconds}, separators=(",", ":"))
        text = base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")
        return f"{text}.{self._signature(text)}"

    def open(self, ticket: str, *uses: str) -> dict:
        """What was signed, for one of these uses; raises 403 when altered, meant otherwise, or too old."""
        text, _, signature = ticket.partition(".")
        if not hmac.compare_digest(self._signature(text).encode(), signature.encode()):
            raise forbidden("The signature of this address is not valid")
        what = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if what.get("use") not in uses:
            raise forbidden("This address was signed for something else")
        if what["exp"] < time.time():
            raise forbidden("This address has expired; ask for a new one")
        return what


def identify(users: Users, authorization: str | None, session: Callable[[], Caller | None]) -> Caller | None:
    """The caller by the Authorization header, else by the browser's session; None for someone unknown."""
    if not authorization:
        return session()
    scheme, _, token = authorization.partition(" ")
    caller = users.by_token(token.strip()) if scheme.lower() == "bearer" else None
    if caller is None:
        raise HubError(401, "InvalidToken", "Invalid user token.")
    return caller


def check(caller: Caller | None, repo: Repo, need: str) -> None:
    """Raise unless `caller` may `read` (see), take `files`, `propose` (pull requests) or `write`."""
    if repo.state["private"] and not (caller and caller.belongs_to(repo.namespace)):
        raise repo_not_found(signed_in=caller is not None)
    if need == "files":
        check_gate(caller, repo)
    if need in ("write", "propose"):
        check_role(caller)
    if need == "write" and not (caller and caller.owns(repo.namespace)):
        raise forbidden(f"You don't have the rights to write to {repo.id}: it belongs to {repo.namespace}")
    if need == "propose" and repo.state["gated"]:
        check_gate(caller, repo)


def check_role(caller: Caller | None) -> None:
    """Whoever changes anything needs a token that may write."""
    if caller is None:
        raise unauthorized()
    if caller.role != "write":
        raise forbidden("This token is read-only: use one with the role `write`")


def passes_gate(caller: Caller | None, repo: Repo) -> bool:
    """Files of a gated repository are for its owners and for whoever was granted access."""
    if not repo.state["gated"] or (caller and caller.belongs_to(repo.namespace)):
        return True
    return caller is not None and repo.state["access"].get(caller.name, {}).get("status") == "accepted"


def check_gate(caller: Caller | None, repo: Repo) -> None:
    if passes_gate(caller, repo):
        return
    message = f"Access to {repo.kind} {repo.id} is restricted"
    if caller is None:
        raise HubError(401, "GatedRepo", f"{message}: sign in and ask for access")
    raise HubError(403, "GatedRepo", f"{message} and you are not in the authorized list: ask its owner for access")

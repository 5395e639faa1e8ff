"""Names that come from outside: repositories, branches, paths in a repository. What is odd is refused.

Repository names become folders on disk, so the rules here are what keeps a request inside the hub's folder.
Paths in a repository never touch the disk (they are keys of a commit), but a client that downloads them would.
"""

import re

from .errors import bad_request

KINDS = ("model", "dataset", "space")
RESERVED = {"api", "datasets", "spaces", "models", "login", "logout", "avatars", "_lfs", "static", "new", "settings"}
SPACE_SDKS = ("gradio", "docker", "static", "streamlit")

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]*", re.ASCII)


def is_name(name: str) -> bool:
    """Whether `name` may name a user, an organisation or a repository."""
    return bool(_NAME.fullmatch(name)) and ".." not in name and "--" not in name and not name.endswith(".git")


def is_namespace(name: str) -> bool:
    return is_name(name) and name.lower() not in RESERVED


def is_repo_id(repo_id: object) -> bool:
    parts = repo_id.split("/") if isinstance(repo_id, str) else []
    return 1 <= len(parts) <= 2 and all(is_name(part) for part in parts)


def check_ref_name(name: str) -> str:
    """A branch or tag name, by git's rules in short."""
    ends_badly = name.endswith((".", "/", ".lock"))
    if not _REF.fullmatch(name) or ".." in name or "//" in name or "/." in name or ends_badly or len(name) > 200:
        raise bad_request(f"Invalid reference name: {name!r}")
    if name.startswith("refs/"):
        raise bad_request(f"{name!r} is reserved: branches and tags are named without refs/")
    return name


def check_path(path: object) -> str:
    """A path of a file in a repository: relative, normal, printable, outside `.git`."""
    if not isinstance(path, str) or not path or len(path) > 1024:
        raise bad_request(f"Invalid path in repository: {path!r}")
    odd = "\\" in path or any(ord(c) < 32 or ord(c) == 127 for c in path)
    try:
        path.encode()
    except UnicodeEncodeError:
        odd = True
    if odd or any(part in ("", ".", "..") or part.lower() == ".git" for part in path.split("/")):
        raise bad_request(f"Invalid path in repository: {path!r}")
    return path


def split_revision(rest: str) -> tuple[str, str]:
    """`main/a/b` -> (`main`, `a/b`); `refs/pr/3/a` -> (`refs/pr/3`, `a`). `%2F` is a slash only after this."""
    parts = rest.split("/")
    count = 3 if parts[0] == "refs" and len(parts) >= 3 else 1
    return "/".join(parts[:count]), "/".join(parts[count:])

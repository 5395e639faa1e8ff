"""What the server answers when it refuses: a status, one of the Hub's error codes, and a sentence.

The client maps `X-Error-Code` (RepoNotFound, RevisionNotFound, EntryNotFound, GatedRepo) to its exceptions and
shows `X-Error-Message`, so every refusal carries both.
"""

from collections.abc import Mapping

from starlette.responses import JSONResponse


class HubError(Exception):
    """A refusal that the client understands."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        body: dict | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.body, self.headers = body or {}, headers or {}

    def response(self) -> JSONResponse:
        # Headers are latin-1 and one line: what does not fit is replaced, the body keeps the exact words.
        line = " ".join(self.message.split()).encode("ascii", "replace").decode()
        headers = {"X-Error-Code": self.code, "X-Error-Message": line, **self.headers}
        return JSONResponse({"error": self.message, **self.body}, self.status, headers=headers)


class LocalHubError(Exception):
    """The server could not be started or asked; the text says why, and `fix` what to do."""

    def __init__(self, text: str, fix: str = "Choose another port with --port, or another folder.") -> None:
        super().__init__(text)
        self.fix = fix


def repo_not_found(signed_in: bool = True) -> HubError:
    """Also for private repositories: who may not see one must not learn that it exists."""
    if signed_in:
        return HubError(404, "RepoNotFound", "Repository not found")
    headers = {"WWW-Authenticate": 'Bearer realm="Authentication required", charset="UTF-8"'}
    return HubError(401, "RepoNotFound", "Repository not found, or private: sign in with a token", headers=headers)


def revision_not_found(revision: str) -> HubError:
    return HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")


def entry_not_found(path: str, commit: str | None = None) -> HubError:
    """`X-Repo-Commit` lets the client remember that this commit has no such file."""
    return HubError(
        404, "EntryNotFound", f"{path or '/'} does not exist", headers={"X-Repo-Commit": commit} if commit else {}
    )


def bad_request(message: str) -> HubError:
    return HubError(400, "BadRequest", message)


def forbidden(message: str) -> HubError:
    return HubError(403, "Forbidden", message)


def unauthorized(message: str = "Invalid username or password: this needs a token") -> HubError:
    return HubError(401, "Unauthorized", message)


def conflict(message: str, **body: object) -> HubError:
    return HubError(409, "Conflict", message, body=body)
